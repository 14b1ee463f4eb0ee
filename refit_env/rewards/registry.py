"""The registry of rewards: names to classes, and ``make_reward``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from refit_env.data.dataset import Dataset
from refit_env.errors import unknown_name
from refit_env.rewards.accuracy import Cosine, Ndcg, Recall, ReciprocalRank, TargetHits
from refit_env.rewards.base import CallableReward, Reward, RewardContext
from refit_env.rewards.beyond import Coverage, LongTail, Novelty, UnbiasedHits
from refit_env.rewards.mix import Mix
from refit_env.rewards.racs import Racs
from refit_env.rewards.relevance import Relevance

RewardSpec = str | Mapping[str, float] | Callable[..., Any]
"""A name, a weighted mix of names, or one's own function of (scores, users)."""

RewardClass = TypeVar("RewardClass", bound=type[Reward])

_REWARDS: dict[str, type[Reward]] = {
    "racs": Racs,
    "r_ra": TargetHits,
    "r_cos": Cosine,
    "ndcg": Ndcg,
    "recall": Recall,
    "reciprocal_rank": ReciprocalRank,
    "novelty": Novelty,
    "long_tail": LongTail,
    "coverage": Coverage,
    "unbiased_hits": UnbiasedHits,
}


def register_reward(name: str) -> Callable[[RewardClass], RewardClass]:
    """Register a ``Reward`` subclass under a name, as a class decorator.

    Raises:
        ValueError: if the name is taken.
    """

    def add(cls: RewardClass) -> RewardClass:
        if name in _REWARDS:
            raise ValueError(f"reward {name!r} is registered already ({_REWARDS[name].__name__})")
        _REWARDS[name] = cls
        return cls

    return add


def reward_names() -> list[str]:
    """The names for ``make_reward``."""
    return sorted(_REWARDS)


def make_reward(
    spec: RewardSpec,
    dataset: Dataset,
    relevance: Relevance,
    *,
    k: int = 20,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Reward:
    """Make a reward.

    Args:
        spec: a name; a mix ``{"racs": 1.0, "coverage": 0.1}``; or a function (scores (B, I), users (B,)) -> (B,).
        dataset: the data.
        relevance: what is shown, counted and kept out of lists.
        k: list length K.
        device: where scores will come from.
        **kwargs: settings of the reward; in a mix, each goes to every part that knows it.

    Raises:
        ValueError: for an unknown name (with a did-you-mean), or settings that no part knows.
    """
    context = RewardContext(dataset, relevance, k, device)
    if isinstance(spec, str):
        return _make(spec, context, kwargs)
    if isinstance(spec, Mapping):
        return _make_mix(spec, context, kwargs)
    if callable(spec):
        if kwargs:
            raise ValueError(f"a function as reward takes no settings, got {', '.join(sorted(kwargs))}")
        return CallableReward(context, spec)
    raise ValueError(f"reward {spec!r} must be a name, a mapping of names to weights, or a function (scores, users)")


def _make(name: str, context: RewardContext, kwargs: Mapping[str, Any]) -> Reward:
    """One reward by name."""
    allowed = _settings(name)
    for key in kwargs:
        if key not in allowed:
            raise unknown_name(f"setting of reward {name!r}", key, allowed or ["(none)"])
    return _REWARDS[name](context, **kwargs)


def _make_mix(spec: Mapping[str, float], context: RewardContext, kwargs: Mapping[str, Any]) -> Mix:
    """A weighted sum of named rewards."""
    if not spec:
        raise ValueError("a mix of rewards needs at least one name with its weight")
    known = {key for name in spec for key in _settings(name)}
    for key in kwargs:
        if key not in known:
            raise unknown_name("setting of the mixed rewards", key, known or ["(none)"])
    parts = {}
    for name, weight in spec.items():
        own = {key: value for key, value in kwargs.items() if key in _settings(name)}
        parts[name] = (_make(name, context, own), float(weight))
    return Mix(context, parts)


def _settings(name: str) -> list[str]:
    """The keyword arguments that a reward takes; the did-you-mean error for an unknown name."""
    if name not in _REWARDS:
        raise unknown_name("reward", name, _REWARDS)
    parameters = inspect.signature(_REWARDS[name].__init__).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
