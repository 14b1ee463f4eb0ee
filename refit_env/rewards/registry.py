"""The registry of rewards: names to classes, and ``make_reward``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import torch
from msgspec import Meta

from refit_env.data.dataset import Dataset
from refit_env.errors import unknown_name
from refit_env.rewards.accuracy import Cosine, LogRank, Ndcg, Recall, ReciprocalRank, TargetHits
from refit_env.rewards.base import Reward
from refit_env.rewards.beyond_accuracy import Coverage, Diversity, LongTail, Novelty, UnbiasedHits
from refit_env.rewards.callable_reward import CallableReward
from refit_env.rewards.context import RewardContext
from refit_env.rewards.frequency import PersonalFrequency
from refit_env.rewards.linear_models import Ease, GraphFilter, ModelReward
from refit_env.rewards.mix import Mix
from refit_env.rewards.racs import Racs
from refit_env.rewards.recommender import Recommender
from refit_env.rewards.relevance import Relevance
from refit_env.settings import type_fault

RewardSpec = str | Mapping[str, float] | Callable[..., Any]
"""A name, a weighted mix of names, or one's own function of (scores, users)."""

Weight = Annotated[float, Meta(ge=-1e6, le=1e6)]
"""Of a reward in a mix; less than 0 makes it a cost."""

RewardClass = TypeVar("RewardClass", bound=type[Reward])

_REWARDS: dict[str, type[Reward]] = {
    "racs": Racs,
    "r_ra": TargetHits,
    "r_cos": Cosine,
    "ndcg": Ndcg,
    "precision": TargetHits,
    "recall": Recall,
    "reciprocal_rank": ReciprocalRank,
    "log_rank": LogRank,
    "novelty": Novelty,
    "long_tail": LongTail,
    "coverage": Coverage,
    "diversity": Diversity,
    "unbiased_hits": UnbiasedHits,
    "ease": Ease,
    "gf_cf": GraphFilter,
    "personal_frequency": PersonalFrequency,
    "recommender": Recommender,
}


def register_reward(name: str) -> Callable[[RewardClass], RewardClass]:
    """Register a ``Reward`` subclass under a name, as a class decorator.

    Its constructor takes the context and, after a ``*``, its settings::

        @register_reward("first_hit")
        class FirstHit(Reward): ...

    Raises:
        ValueError: if the name is taken.
        TypeError: if the class is no ``Reward``.
    """

    def add(cls: RewardClass) -> RewardClass:
        _check_class(name, cls)
        if name in _REWARDS:
            raise ValueError(f"reward {name!r} is registered already ({_REWARDS[name].__name__})")
        _REWARDS[name] = cls
        return cls

    return add


def reward_class(name: str) -> type[Reward]:
    """Return the class of a reward; a ValueError with a did-you-mean for an unknown name.

    Example:
        >>> reward_class("racs").__name__
        'Racs'
    """
    if name not in _REWARDS:
        raise unknown_name("reward", name, _REWARDS)
    return _REWARDS[name]


def _check_class(name: str, cls: object) -> None:
    """Refuse what is no reward class."""
    if not (inspect.isclass(cls) and issubclass(cls, Reward)):
        raise TypeError(f"reward {name!r} must be a subclass of refit_env.rewards.Reward, got {cls!r}")


def reward_names(relevance: str | None = None, rows: bool = True) -> list[str]:
    """The names for ``make_reward``: all, or those that a relevance or a data set can do with.

    Args:
        relevance: its name; None for any.
        rows: whether the data set is a sequential or check-in set in order of time; some rewards need that.

    Example:
        >>> "ndcg" in reward_names(), "ndcg" in reward_names("none"), "ease" in reward_names("none")
        (True, False, True)
        >>> set(reward_names()) - set(reward_names(rows=False))
        {'personal_frequency'}
    """
    return sorted(
        name
        for name, cls in _REWARDS.items()
        if not (relevance == "none" and cls.counts_relevant) and (rows or not cls.needs_rows)
    )


def models_in(spec: RewardSpec) -> list[str]:
    """The names in a specification whose reward is a model's opinion, one that could recommend by itself.

    Example:
        >>> models_in({"ndcg": 1.0, "ease": 0.5}), models_in("racs")
        (['ease'], [])
    """
    names = [spec] if isinstance(spec, str) else list(spec) if isinstance(spec, Mapping) else []
    return [name for name in names if name in _REWARDS and issubclass(_REWARDS[name], ModelReward)]


def make_reward(
    spec: RewardSpec,
    dataset: Dataset,
    relevance: Relevance,
    *,
    k: int = 20,
    device: torch.device | str = "cpu",
    model: str | Path | None = None,
    other_data: bool = False,
    **kwargs: Any,
) -> Reward:
    """Make a reward.

    Args:
        spec: a name; a mix ``{"racs": 1.0, "coverage": 0.1}``; or a function
            (scores (B, I), users (B,)) -> (B,).
        dataset: the data.
        relevance: what is shown, counted and kept out of lists.
        k: list length K.
        device: where scores will come from.
        model: folder of the environment's own pretrained model, for rewards that ask it.
        other_data: whether models may have been trained on another data set.
        **kwargs: settings of the reward; in a mix, each goes to every part that knows it.

    Returns:
        The reward; call it with scores and users.

    Raises:
        ValueError: for an unknown name (with a did-you-mean), or settings that no part knows.

    Example:
        >>> from refit_env.data import load_dataset
        >>> from refit_env.rewards import make_relevance
        >>> data = load_dataset("synthetic")
        >>> reward = make_reward("racs", data, make_relevance("train", data), k=5, alpha=1.0)
        >>> users = torch.tensor([0, 1])
        >>> reward(torch.from_numpy(data.train.csr[:2].toarray()), users)  # ranks what they have first
        tensor([1., 1.])
        >>> make_reward("rac", data, make_relevance("train", data))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: unknown reward 'rac'. Did you mean 'racs'? Known: ...
    """
    context = RewardContext(dataset, relevance, k, device, model, other_data)
    if isinstance(spec, str):
        return _make(spec, context, kwargs)
    if isinstance(spec, Mapping):
        return _make_mix(spec, context, kwargs)
    if callable(spec):
        if kwargs:
            raise ValueError(f"a function as reward takes no settings, got {', '.join(sorted(kwargs))}")
        return CallableReward(context, spec)
    raise TypeError(
        f"reward {spec!r} must be a name, a mapping of names to weights, or a function (scores, users)"
    )


def _make(name: str, context: RewardContext, kwargs: Mapping[str, Any]) -> Reward:
    """One reward by name."""
    allowed = _settings(name)
    types = _types(name)
    for key, value in kwargs.items():
        if key not in allowed:
            raise _unknown_setting(f"reward {name!r}", key, allowed)
        fault = None if key not in types else type_fault(types[key], value)
        if fault is not None:
            raise ValueError(f"{key} of reward {name!r} {fault}")
    return _REWARDS[name](context, **kwargs)


def _make_mix(spec: Mapping[str, float], context: RewardContext, kwargs: Mapping[str, Any]) -> Mix:
    """A weighted sum of named rewards."""
    if not spec:
        raise ValueError("a mix of rewards needs at least one name with its weight")
    known = {key for name in spec for key in _settings(name)}
    for key in kwargs:
        if key not in known:
            raise _unknown_setting("the mixed rewards", key, sorted(known))
    parts = {}
    for name, weight in spec.items():
        own = {key: value for key, value in kwargs.items() if key in _settings(name)}
        fault = type_fault(Weight, weight)
        if fault is not None:
            raise ValueError(f"weight of reward {name!r} {fault}")
        parts[name] = (_make(name, context, own), float(weight))
    return Mix(context, parts)


def _settings(name: str) -> list[str]:
    """The keyword arguments that a reward takes; the did-you-mean error for an unknown name."""
    parameters = list(inspect.signature(reward_class(name).__init__).parameters.values())[2:]  # self, context
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in named]


def _types(name: str) -> dict[str, Any]:
    """The types of a reward's keyword arguments, where they can be found: one's own class may state none."""
    try:
        return get_type_hints(_REWARDS[name].__init__)
    except (NameError, TypeError):
        return {}


def _unknown_setting(of: str, key: str, allowed: list[str]) -> ValueError:
    """The error for a keyword that a reward does not take."""
    if allowed:
        return unknown_name(f"setting of {of}", key, allowed)
    return ValueError(f"unknown setting of {of} {key!r}: it takes none")
