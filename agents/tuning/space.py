"""What fine-tuning tries: reward, relevance, step size, exploration, regularisation, as data decide.

``suggest`` asks an Optuna trial for each; a mapping of fixed values is asked in the same way, so that the
first points and the trials of an earlier session have the distributions of those that are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from agents.tuning.defaults import FineTuning, default_finetuning, linear_reward
from agents.tuning.inspection import DataFacts
from refit_env.backbones import backbone_class
from refit_env.backbones.closed_form import ClosedForm

Params = dict[str, Any]
"""Name -> value, as Optuna holds them."""


class Suggests(Protocol):
    """The part of an Optuna trial that is used."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number."""


def suggest(trial: Suggests, facts: DataFacts, starts: Sequence[str]) -> Params:
    """Draw one way to fine-tune.

    Args:
        trial: an Optuna trial, or fixed values.
        facts: of the data.
        starts: backbones to start from.

    Returns:
        ``start``, ``reward``, ``learning_rate``, ``exploration_std`` and ``kl_weight``; they are what
        ``settings_of`` takes.
    """
    start = trial.suggest_categorical("start", list(starts))
    low, high = rates(facts, start)
    return {
        "start": start,
        "reward": trial.suggest_categorical(f"reward/{start}", rewards(facts, start)),
        "learning_rate": trial.suggest_float(f"learning_rate/{start}", low, high, log=True),
        "exploration_std": trial.suggest_float("exploration_std", 0.01, 0.3, log=True),
        "kl_weight": trial.suggest_categorical("kl_weight", [0.0, 1e-4, 1e-3]),
    }


def rewards(facts: DataFacts, start: str) -> list[str]:
    """The rewards that are tried from a start; RACS wherever its neighbours are users."""
    if facts.form == "rows":
        return ["log_rank"] if backbone_class(start).embedding else ["ndcg"]
    names = ["ndcg", "racs"]
    if not issubclass(backbone_class(start), ClosedForm):
        names.append(linear_reward(facts))
    return names


def rates(facts: DataFacts, start: str) -> tuple[float, float]:
    """The smallest and the largest step size that is tried from a start: a factor 10 about the default."""
    usual = default_finetuning(facts, start).agent.learning_rate
    return usual / 10, usual * 10


def settings_of(params: Mapping[str, Any], facts: DataFacts, iterations: int) -> FineTuning:
    """The environment and the agent of drawn values.

    Args:
        params: what ``suggest`` returned.
        facts: of the data.
        iterations: updates, as time allows.
    """
    usual = default_finetuning(facts, params["start"])
    agent = replace(
        usual.agent,
        iterations=iterations,
        eval_every=max(1, iterations // 8),
        learning_rate=params["learning_rate"],
        exploration_std=params["exploration_std"],
        kl_weight=params["kl_weight"],
    )
    return replace(usual, env={**usual.env, "reward": params["reward"]}, agent=agent)


def first_points(facts: DataFacts, starts: Sequence[str]) -> list[Params]:
    """What is tried before anything is drawn: the defaults from each start, and RACS from the first."""
    points = []
    for start in starts:
        usual = default_finetuning(facts, start)
        points.append(
            {
                "start": start,
                "reward": usual.env["reward"],
                "learning_rate": usual.agent.learning_rate,
                "exploration_std": min(max(usual.agent.exploration_std, 0.01), 0.3),
                "kl_weight": 0.0,
            }
        )
    if points and "racs" in rewards(facts, points[0]["start"]):
        points.insert(1, {**points[0], "reward": "racs"})
    return points


def as_drawn(params: Mapping[str, Any]) -> Params:
    """The values by the names that ``suggest`` asks for."""
    start = params["start"]
    named = {"reward": f"reward/{start}", "learning_rate": f"learning_rate/{start}"}
    return {named.get(name, name): value for name, value in params.items()}
