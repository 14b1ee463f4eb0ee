"""Defaults for the user's own data: a backbone, and settings of its fine-tuning.

Each rule was chosen on validation over the data sets that docs/howto/tune.md names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agents.algorithms.configs import ReinforceConfig
from agents.tuning.inspection import DataFacts
from refit_env.backbones import backbone_class
from refit_env.backbones.linear import LARGEST
from refit_env.backbones.row_denoiser import RowDenoiser
from refit_env.backbones.stacked import StackedDenoiser

MANY = 100_000
"""Train interactions above which fine-tuning on the latest of them uses longer steps."""
LARGEST_EASE = 10_000
"""Number of items (or users, if fewer) up to which ``ease`` is solved in seconds."""
LINEAR = 10_000
"""Number of items up to which ``linear`` is the default; a larger matrix needs minutes and gigabytes."""

PRETRAINED = 150_000
"""Train interactions up to which a network is pretrained within minutes."""
TRAINED = 10_000
"""Number of items up to which ``linear`` is fine-tuned: training needs eight matrices of its size."""


@dataclass(frozen=True)
class Chosen:
    """A choice and its reason."""

    value: str
    """The choice."""
    why: str
    """The reason, a clause: ``4,000 items are at most ...``."""


@dataclass(frozen=True)
class FineTuning:
    """Settings of a fine-tuning: the environment's reward, and the agent's settings."""

    env: Mapping[str, Any]
    """``reward``, ``relevance`` and, if the reward has settings, ``reward_kwargs``."""
    agent: ReinforceConfig = field(default_factory=ReinforceConfig)
    """Settings of REINFORCE."""
    why: str = ""
    """The reason, a clause."""


def default_backbone(facts: DataFacts) -> Chosen:
    """Return the default backbone of ``refit pretrain --data``.

    It is a closed form: on the data sets of docs/howto/tune.md it ranks better on validation than DiffRec, in
    seconds. It is ``linear`` if the matrix fits, else ``spectral``.

    Example:
        >>> from refit_env.data import load_dataset
        >>> from agents.tuning.inspection import inspect_data
        >>> default_backbone(inspect_data(load_dataset("synthetic"))).value
        'linear'
    """
    if facts.items <= LINEAR:
        return Chosen("linear", f"a closed form; {facts.items:,} items are at most {LINEAR:,}")
    return Chosen("spectral", f"a closed form of low rank; {facts.items:,} items are more than {LINEAR:,}")


def backbones_for(facts: DataFacts) -> list[str]:
    """Return the default backbones of a study: closed forms, and a network where those are often behind it.

    ``linear`` is also tried where few users make its fit cheap, though its weights need gigabytes. Networks
    with item embeddings are tried on social and on sequential data of at most 150,000 train interactions;
    DiffRec is not, because it is behind the closed forms (docs/howto/tune.md has the figures). Where
    ``linear`` is tried on rows, so is ``stacked``, the same with a trained correction.

    Example:
        >>> from refit_env.data import load_dataset
        >>> from agents.tuning.inspection import inspect_data
        >>> backbones_for(inspect_data(load_dataset("synthetic")))
        ['linear', 'spectral']
    """
    cheap = facts.form == "sets" and facts.users <= LINEAR and facts.items <= LARGEST
    closed = ["linear", "spectral"] if facts.items <= LINEAR or cheap else ["spectral"]
    if facts.form == "rows" and "linear" in closed:
        closed = [*closed, "stacked"]
    if facts.train > PRETRAINED:
        return closed
    if facts.form == "rows":
        return [*closed, "dreamrec"] if facts.task == "sequential" else closed
    return [*closed, "recdiff"] if facts.task == "social" and facts.social else closed


_ANNEALED = ReinforceConfig(
    users_per_batch=256, iterations=240, eval_every=30, learning_rate=1e-4, anneal_lr=True, blends=3
)
"""For splits by time, where the hidden items are later than the visible ones."""
_SHORT = replace(_ANNEALED, learning_rate=3e-5, exploration_std=0.02)
"""For splits by time with few hidden items, which long steps overfit."""
_GENTLE = replace(_ANNEALED, learning_rate=1e-5, relevance_draws=32)
"""For random splits: many hold-outs and small learning rates."""
_MODELLED = replace(_ANNEALED, exploration_std=0.01, relevance_draws=32)
"""For a linear model as reward: differences of scores are small compared with noise of .05."""
_ROWS = replace(_ANNEALED, learning_rate=1e-5)
"""For rows with a closed form."""
_STACKED = replace(
    _ANNEALED, users_per_batch=128, iterations=320, eval_every=80, learning_rate=2e-3, exploration_std=0.02
)
"""For rows with a closed form that a small network corrects. ``refit pretrain`` trains it by cross-entropy,
and near its optimum more noise lowers the validation."""
_EMBEDDED = replace(_ANNEALED, users_per_batch=512, learning_rate=2e-3, exploration_std=1.0)
"""For rows with item embeddings of a norm near 8."""


_GRAPHS = ReinforceConfig(
    users_per_batch=512,
    learning_rate=1e-4,
    exploration_std=0.02,
    scores_learning_rate=2e-4,
    iterations=100,
    eval_every=20,
    blends=3,
)
"""For embeddings that score u_0 with a linear model as reward: the embeddings are trained, too."""


def default_finetuning(facts: DataFacts, backbone: str) -> FineTuning:
    """Return the default settings of ``refit finetune``.

    Args:
        facts: facts of the data.
        backbone: name of the model that is fine-tuned.

    Example:
        >>> from refit_env.data import load_dataset
        >>> from agents.tuning.inspection import inspect_data
        >>> default_finetuning(inspect_data(load_dataset("synthetic")), "linear").env["relevance"]
        'recent'
    """
    kind = backbone_class(backbone)
    if facts.form == "rows":
        env = {"reward": "log_rank" if kind.embedding else "ndcg", "relevance": "train"}
        why = "the next item of a row is its only relevant item"
        plain = _STACKED if issubclass(kind, StackedDenoiser) else _ROWS
        return FineTuning(env, _EMBEDDED if kind.embedding else plain, why)
    if facts.split == "time" and facts.ordered:
        why = "the split is by time, so the latest train items resemble the next ones"
        agent = _ANNEALED if facts.train > MANY else _SHORT
        return FineTuning({"reward": "ndcg", "relevance": "recent"}, agent, why)
    if issubclass(kind, RowDenoiser):
        why = "the split is at random; a closed form can learn little more from it"
        return FineTuning({"reward": "ndcg", "relevance": "holdout"}, _GENTLE, why)
    reward = linear_reward(facts)
    if kind.embedding:
        why = f"the split is at random, and {reward}, which predicts from the whole row, is a dense reward"
        return FineTuning({"reward": reward, "relevance": "none"}, _GRAPHS, why)
    why = f"the split is at random, where {reward}, a linear model, is a better reward than hold-outs"
    return FineTuning({"reward": reward, "relevance": "holdout"}, _MODELLED, why)


def linear_reward(facts: DataFacts) -> str:
    """Return the name of the linear model that rewards: ``ease``, or ``gf_cf`` if that is too large."""
    return "ease" if min(facts.items, facts.users) <= LARGEST_EASE else "gf_cf"
