"""The search space of fine-tuning, which depends on the data: reward, relevance, learning rate and others.

``suggest`` requests each value from an Optuna trial, or from a mapping of fixed values, so that the
first points and the trials of an earlier session have the distributions of those that are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from agents.tuning.defaults import FineTuning, default_finetuning, linear_reward
from agents.tuning.inspection import DataFacts
from refit_env.backbones import backbone_class
from refit_env.backbones.row_denoiser import RowDenoiser
from refit_env.rewards import reward_names

LEAST_STD, MOST_STD = 0.005, 0.3
"""Limits of the exploration to try."""
Params = dict[str, Any]
"""Name -> value of an Optuna trial."""


class Suggests(Protocol):
    """The part of an Optuna trial that is used."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number."""


def suggest(trial: Suggests, facts: DataFacts, starts: Sequence[str], more: Sequence[str] = ()) -> Params:
    """Draw the parameters of a fine-tuning.

    Args:
        trial: an Optuna trial, or fixed values.
        facts: facts of the data.
        starts: backbones to start from.
        more: further rewards to try.

    Returns:
        ``start``, ``reward``, ``relevance``, ``learning_rate``, ``exploration_std`` and ``kl_weight``, the
        arguments of ``settings_of``.
    """
    start = trial.suggest_categorical("start", list(starts))
    low, high = rates(facts, start)
    return {
        "start": start,
        "reward": trial.suggest_categorical(f"reward/{start}", rewards(facts, start, more)),
        "relevance": trial.suggest_categorical(f"relevance/{start}", relevances(facts, start)),
        "learning_rate": trial.suggest_float(f"learning_rate/{start}", low, high, log=True),
        "exploration_std": trial.suggest_float("exploration_std", LEAST_STD, MOST_STD, log=True),
        "kl_weight": trial.suggest_categorical("kl_weight", [0.0, 1e-4, 1e-3]),
    }


def rewards(facts: DataFacts, start: str, more: Sequence[str] = ()) -> list[str]:
    """Return the rewards to try from a start: RACS if its neighbours are users; then ``more``."""
    if facts.form == "rows":
        names = ["log_rank"] if backbone_class(start).embedding else ["ndcg"]
    else:
        names = ["ndcg", "racs"]
        if not issubclass(backbone_class(start), RowDenoiser):
            names.append(linear_reward(facts))
    return list(dict.fromkeys([*names, *more]))


def relevances(facts: DataFacts, start: str) -> list[str]:
    """Return the relevance modes to try from a start, the default first: which train items are hidden.

    ``validation`` is none of them: a reward on validation items leaves none to choose by.
    """
    usual = default_finetuning(facts, start).env["relevance"]
    if facts.form == "rows":
        return [usual]  # the next item
    others = ["recent"] if facts.ordered else []
    return list(dict.fromkeys([usual, *others, "holdout", "train"]))


def rates(facts: DataFacts, start: str) -> tuple[float, float]:
    """Return the smallest and the largest learning rate to try: a factor of 10 around the start's default."""
    usual = default_finetuning(facts, start).agent.learning_rate
    return usual / 10, usual * 10


def settings_of(params: Mapping[str, Any], facts: DataFacts, iterations: int) -> FineTuning:
    """Return the settings of environment and agent for drawn values.

    Args:
        params: result of ``suggest``.
        facts: facts of the data.
        iterations: number of updates.
    """
    usual = default_finetuning(facts, params["start"])
    relevance = params.get("relevance", usual.env["relevance"])  # trials of earlier versions have none
    draws = usual.agent.relevance_draws
    if relevance != usual.env["relevance"]:
        draws = HOLDOUTS if relevance == "holdout" else 1
    agent = replace(
        usual.agent,
        relevance_draws=draws,
        iterations=iterations,
        eval_every=max(1, iterations // 8),
        learning_rate=params["learning_rate"],
        exploration_std=params["exploration_std"],
        kl_weight=params["kl_weight"],
    )
    env = {**usual.env, "reward": params["reward"], "relevance": relevance}
    if env["relevance"] == "none" and params["reward"] in set(reward_names()) - set(reward_names("none")):
        env["relevance"] = "holdout"  # the reward counts relevant items
    return replace(usual, env=env, agent=agent)


HOLDOUTS = 32
"""Hold-outs, where they are not the default."""
GENTLER = 0.4
"""Factor of the learning rate and the exploration in the second variant of the first start."""


def first_points(facts: DataFacts, starts: Sequence[str], more: Sequence[str] = ()) -> list[Params]:
    """Return the first trials, before any is drawn: each start's defaults; for the first also variants.

    The variants are the rewards ``more``, RACS, a smaller learning rate with less exploration, and, after the
    other starts, another relevance.
    """
    points = []
    for start in starts:
        usual = default_finetuning(facts, start)
        points.append(
            {
                "start": start,
                "reward": usual.env["reward"],
                "relevance": usual.env["relevance"],
                "learning_rate": usual.agent.learning_rate,
                "exploration_std": min(max(usual.agent.exploration_std, LEAST_STD), MOST_STD),
                "kl_weight": 0.0,
            }
        )
    if not points:
        return []
    first = points[0]
    shorter = {
        **first,
        "learning_rate": first["learning_rate"] * GENTLER,
        "exploration_std": max(first["exploration_std"] * GENTLER, LEAST_STD),
    }
    racs = [{**first, "reward": "racs"}] if "racs" in rewards(facts, first["start"]) else []
    hidden = [{**first, "relevance": name} for name in relevances(facts, first["start"])[1:2]]
    return [first, *({**first, "reward": name} for name in more), *racs, shorter, *points[1:], *hidden]


def as_drawn(params: Mapping[str, Any], facts: DataFacts) -> Params:
    """Return the values by the names in ``suggest``; trials of earlier versions have the usual relevance."""
    start = params["start"]
    whole = {"relevance": relevances(facts, start)[0], **params}
    by_start = ("reward", "relevance", "learning_rate")
    return {f"{name}/{start}" if name in by_start else name: value for name, value in whole.items()}
