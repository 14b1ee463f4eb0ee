"""What one's own data gets where nothing else is chosen: a backbone, and how to fine-tune it.

The rules are few, and each was chosen on validation over the sets that docs/howto/tune.md names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agents.algorithms.configs import ReinforceConfig
from agents.tuning.inspection import DataFacts
from refit_env.backbones import backbone_class
from refit_env.backbones.closed_form import ClosedForm

LARGEST_EASE = 10_000
"""Items, or users where they are fewer, up to which ``ease`` is solved in seconds."""
LINEAR = 10_000
"""Items up to which ``linear`` is the default; a larger matrix takes minutes and gigabytes."""


@dataclass(frozen=True)
class Chosen:
    """A choice and its reason."""

    value: str
    """What was chosen."""
    why: str
    """A clause: ``4,000 items are at most ...``."""


@dataclass(frozen=True)
class FineTuning:
    """How to fine-tune: what is rewarded, and the agent's settings."""

    env: Mapping[str, Any]
    """``reward``, ``relevance`` and, where they have settings, ``reward_kwargs``."""
    agent: ReinforceConfig = field(default_factory=ReinforceConfig)
    """Of REINFORCE."""
    why: str = ""
    """The reason, a clause."""


def default_backbone(facts: DataFacts) -> Chosen:
    """The backbone that ``refit pretrain --data`` takes where none is named.

    A closed form: on the sets of docs/howto/tune.md it ranks better on validation than DiffRec does, in
    seconds. ``linear`` where its matrix fits, else ``spectral``.

    Example:
        >>> from refit_env.data import load_dataset
        >>> from agents.tuning.inspection import inspect_data
        >>> default_backbone(inspect_data(load_dataset("synthetic"))).value
        'linear'
    """
    if facts.items <= LINEAR:
        return Chosen("linear", f"a closed form; {facts.items:,} items are at most {LINEAR:,}")
    return Chosen("spectral", f"a closed form of low rank; {facts.items:,} items are more than {LINEAR:,}")


_ANNEALED = ReinforceConfig(
    users_per_batch=256, iterations=240, eval_every=30, learning_rate=1e-4, anneal_lr=True, blends=3
)
"""Where truth that is later than what is shown can be hidden."""
_GENTLE = replace(_ANNEALED, learning_rate=1e-5, relevance_draws=32)
"""Where nothing is later: many hold-outs and short steps."""
_MODELLED = replace(_ANNEALED, exploration_std=0.01, relevance_draws=32)
"""Where a linear model is the reward: scores lie close together, and noise of .05 would blur them."""
_ROWS = replace(_ANNEALED, learning_rate=1e-5)
"""Of rows that a closed form predicts the next item of."""
_EMBEDDED = replace(_ANNEALED, users_per_batch=512, learning_rate=2e-3, exploration_std=1.0)
"""Of rows whose items are embeddings with a norm near 8."""


_GRAPHS = ReinforceConfig(
    users_per_batch=512,
    learning_rate=1e-4,
    exploration_std=0.02,
    scores_learning_rate=2e-4,
    iterations=100,
    eval_every=20,
    blends=3,
)
"""Where embeddings score u_0 and a linear model is the reward: all that scores is trained."""


def default_finetuning(facts: DataFacts, backbone: str) -> FineTuning:
    """How ``refit finetune`` trains where nothing is chosen.

    Args:
        facts: of the data.
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
        why = "the next item of a row is its only truth"
        return FineTuning(env, _EMBEDDED if kind.embedding else _ROWS, why)
    if facts.split == "time" and facts.ordered:
        why = "the split is by time, so the latest train items are like those to come"
        return FineTuning({"reward": "ndcg", "relevance": "recent"}, _ANNEALED, why)
    if issubclass(kind, ClosedForm):
        why = "the split is at random; a closed form has little left to learn from it"
        return FineTuning({"reward": "ndcg", "relevance": "holdout"}, _GENTLE, why)
    reward = linear_reward(facts)
    if kind.embedding:
        why = f"the split is at random, and {reward}, a linear model, says more than hold-outs do"
        return FineTuning({"reward": reward, "relevance": "holdout"}, _GRAPHS, why)
    why = f"the split is at random, where {reward}, a linear model, says more than hold-outs do"
    return FineTuning({"reward": reward, "relevance": "holdout"}, _MODELLED, why)


def linear_reward(facts: DataFacts) -> str:
    """The reward that is a linear model of the interactions: ``ease``, or ``gf_cf`` where it is too large."""
    return "ease" if min(facts.items, facts.users) <= LARGEST_EASE else "gf_cf"
