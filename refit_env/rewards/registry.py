"""The registry of rewards: names to classes, and ``make_reward``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from msgspec import Meta

from refit_env.data.dataset import Dataset
from refit_env.errors import SettingError, unknown_name, unknown_setting
from refit_env.rewards.accuracy import Cosine, LogRank, Ndcg, Recall, ReciprocalRank, TargetHits
from refit_env.rewards.base import ListReward, Reward
from refit_env.rewards.beyond_accuracy import Coverage, Diversity, LongTail, Novelty, UnbiasedHits
from refit_env.rewards.callable_reward import CallableReward
from refit_env.rewards.catalogue_rewards import (
    AveragePrecision,
    Calibration,
    ExposureFairness,
    MarginalCalibration,
    MarginalDiversity,
    Serendipity,
)
from refit_env.rewards.class_settings import settings_of
from refit_env.rewards.context import RewardContext
from refit_env.rewards.dislikes import Dislikes
from refit_env.rewards.frequency import PersonalFrequency
from refit_env.rewards.language_model import LanguageModelGrade
from refit_env.rewards.learned import Learned
from refit_env.rewards.linear_models import Ease, GraphFilter, ModelReward
from refit_env.rewards.mix import Mix, Ramp, read_weight
from refit_env.rewards.racs import Racs
from refit_env.rewards.racs_ndcg import RacsNdcg
from refit_env.rewards.recommender import Recommender
from refit_env.rewards.relevance import Relevance
from refit_env.rewards.user_code import check_arguments, user_reward
from refit_env.settings import check_setting, type_fault
from refit_env.utils.text import shown
from refit_env.utils.user_code import check_no_file, is_place, same_file

RewardSpec = str | Mapping[Any, Any] | Callable[..., Any]
"""A name, the place of one's own (``my_reward.py:FreshHits``), a function of (scores, users), or a weighted
mix of those; a weight is a number, or a schedule ``"0->0.5"``."""

Weight = Annotated[float, Meta(ge=-1e6, le=1e6)]
"""Weight of a reward in a mix; less than 0 makes it a cost."""

RewardClass = TypeVar("RewardClass", bound=type[Reward])

_REWARDS: dict[str, type[Reward]] = {
    "racs": Racs,
    "racs_ndcg": RacsNdcg,
    "r_ra": TargetHits,
    "r_cos": Cosine,
    "ndcg": Ndcg,
    "precision": TargetHits,
    "recall": Recall,
    "reciprocal_rank": ReciprocalRank,
    "log_rank": LogRank,
    "average_precision": AveragePrecision,
    "novelty": Novelty,
    "long_tail": LongTail,
    "coverage": Coverage,
    "diversity": Diversity,
    "unbiased_hits": UnbiasedHits,
    "calibration": Calibration,
    "serendipity": Serendipity,
    "exposure_fairness": ExposureFairness,
    "marginal_diversity": MarginalDiversity,
    "marginal_calibration": MarginalCalibration,
    "learned": Learned,
    "llm_grade": LanguageModelGrade,
    "dislikes": Dislikes,
    "ease": Ease,
    "gf_cf": GraphFilter,
    "personal_frequency": PersonalFrequency,
    "recommender": Recommender,
}


def register_reward(name: str) -> Callable[[RewardClass], RewardClass]:
    """Register a ``Reward`` subclass under a name, as a class decorator.

    Its constructor accepts the context and, after a ``*``, its settings::

        @register_reward("first_hit")
        class FirstHit(Reward): ...

    Raises:
        ValueError: if the name is taken or holds a colon. A later content of the same file may take it again.
        TypeError: if the class is not a ``Reward``.
    """
    if is_place(name):
        raise ValueError(f"reward {name!r}: a name cannot hold ':', which separates a file and a class")

    def add(cls: RewardClass) -> RewardClass:
        _check_class(name, cls)
        if name in _REWARDS and not same_file(_REWARDS[name], cls):
            raise ValueError(f"reward {name!r} is registered already ({_REWARDS[name].__name__})")
        _REWARDS[name] = cls
        return cls

    return add


def reward_class(name: str) -> type[Reward]:
    """Return the class of a reward; that of a function at a place is ``CallableReward``.

    Args:
        name: a registered name, or a place: ``my_reward.py:FreshHits``, ``package.module:name``.

    Raises:
        ValueError: for an unknown name, with a did-you-mean; for a place without a reward.

    Example:
        >>> reward_class("racs").__name__
        'Racs'
    """
    if is_place(name):
        found = user_reward(name)
        return found if isinstance(found, type) else CallableReward
    if name not in _REWARDS:
        check_no_file("reward", name)
        raise unknown_name("reward", name, _REWARDS)
    return _REWARDS[name]


def _check_class(name: str, cls: object) -> None:
    """Raise an error for a class that is not a reward."""
    if not (inspect.isclass(cls) and issubclass(cls, Reward)):
        raise TypeError(f"reward {name!r} must be a subclass of refit_env.rewards.Reward, got {cls!r}")
    check_arguments(name, cls)


def reward_names(
    relevance: str | None = None, rows: bool = True, dislikes: bool = True, outside: bool = True
) -> list[str]:
    """Return the names for ``make_reward``: all, or those that a relevance or a data set allows.

    Args:
        relevance: its name; None for any.
        rows: whether the data set is a sequential or check-in set sorted by time; some rewards need it.
        dislikes: whether the data set has items that users rated low; some rewards need them.
        outside: whether rewards that send requests to an endpoint, which settings must name, are among them.

    Example:
        >>> "ndcg" in reward_names(), "ndcg" in reward_names("none"), "ease" in reward_names("none")
        (True, False, True)
        >>> sorted(set(reward_names()) - set(reward_names(rows=False, dislikes=False)))
        ['dislikes', 'personal_frequency']
    """
    return sorted(
        name
        for name, cls in _REWARDS.items()
        if not (relevance == "none" and cls.counts_relevant)
        and (rows or not cls.needs_rows)
        and (dislikes or not cls.needs_dislikes)
        and (outside or not cls.outside)
    )


def models_in(spec: RewardSpec) -> list[str]:
    """Return the names in a specification whose reward is a model that could recommend by itself.

    Example:
        >>> models_in({"ndcg": 1.0, "ease": 0.5}), models_in("racs")
        (['ease'], [])
    """
    names = [spec] if isinstance(spec, str) else list(spec) if isinstance(spec, Mapping) else []
    known = [name for name in names if isinstance(name, str) and (name in _REWARDS or is_place(name))]
    return [name for name in known if issubclass(reward_class(name), ModelReward)]


def own_parts(spec: RewardSpec) -> list[str]:
    """Return the parts of a specification that are one's own and no sum over the list.

    Those are functions, and classes at a place that are no ``ListReward``. Estimators that read the gains of
    single items cannot use them.

    Example:
        >>> own_parts({"racs": 1.0, max: 0.5}), own_parts("log_rank")
        (['max'], [])
    """
    parts = list(spec) if isinstance(spec, Mapping) else [spec]
    return [
        short_name(part)
        for part in parts
        if not isinstance(part, str) or (is_place(part) and not issubclass(reward_class(part), ListReward))
    ]


def short_name(part: Any) -> str:
    """Return what results call a part of a reward: its name, the name in a place, or that of a function.

    Example:
        >>> short_name("racs"), short_name("mine/hits.py:FreshHits"), short_name(max)
        ('racs', 'FreshHits', 'max')
    """
    if isinstance(part, str):
        return part.rpartition(":")[2]
    return str(getattr(part, "__name__", type(part).__name__))


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
        spec: a name; the place of one's own class or function, ``my_reward.py:FreshHits``, which is run; a
            function (scores (B, I), users (B,)) -> (B,); or a mix,
            ``{"racs": 1.0, "coverage": 0.1, my_function: 0.5}``.
        dataset: the data.
        relevance: the visible, the relevant and the masked items.
        k: list length K.
        device: device of the scores.
        model: folder of the environment's own pretrained model, for rewards that use it.
        other_data: whether models may have been trained on another data set.
        **kwargs: settings of the reward; in a mix, each applies to every part that has it.

    Returns:
        The reward; called with scores and users, it returns a ``RewardResult``.

    Raises:
        ValueError: for an unknown name (with a did-you-mean).
        SettingError: for a setting that no part has or that is out of its bounds, naming it; for a mix
            whose weights are not numbers or all 0, and for a value that is not a reward, naming ``reward``.

    Example:
        >>> from refit_env.data import load_dataset
        >>> from refit_env.rewards import make_relevance
        >>> data = load_dataset("synthetic")
        >>> reward = make_reward("racs", data, make_relevance("train", data), k=5, alpha=1.0)
        >>> users = torch.tensor([0, 1])
        >>> reward(torch.from_numpy(data.train.csr[:2].toarray()), users).value  # ranks train items first
        tensor([1., 1.])
        >>> make_reward("rac", data, make_relevance("train", data))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: unknown reward 'rac'. Did you mean 'racs'? Known: ...
    """
    return reward_in(RewardContext(dataset, relevance, k, device, model, other_data), spec, kwargs)


def reward_in(context: RewardContext, spec: RewardSpec, settings: Mapping[str, Any] | None = None) -> Reward:
    """Make a reward of a context as ``make_reward`` does, with settings that a user named.

    Here a setting may have the name of an argument of ``make_reward``, such as ``k``.
    """
    settings = settings or {}
    if isinstance(spec, str):
        return _make(spec, context, settings)
    if isinstance(spec, Mapping):
        return _make_mix(spec, context, settings)
    for key in settings:
        raise unknown_setting(key, "a function as reward", [])
    return _own(spec, context)


def _own(function: Any, context: RewardContext) -> Reward:
    """Convert a user's function to a reward; raise SettingError for any other value."""
    if inspect.isclass(function):
        fault = f"is the class {function.__name__}: pass its name in register_reward, or a function"
        raise SettingError("reward", fault)
    if not callable(function):
        kinds = "a name, a function (scores, users), or a mapping of those to weights"
        raise SettingError("reward", f"must be {kinds}, found {shown(function)}")
    return CallableReward(context, function)


def _make(name: str, context: RewardContext, kwargs: Mapping[str, Any]) -> Reward:
    """Build one reward by its name."""
    allowed = _settings(name)
    try:
        for key, value in kwargs.items():
            if key not in allowed:
                raise unknown_setting(key, f"reward {name!r}", allowed)
            check_setting(key, value, allowed[key])
        if is_place(name) and not inspect.isclass(user_reward(name)):
            return CallableReward(context, user_reward(name))
        cls = reward_class(name)
        for key, setting in settings_of(cls).items():
            if setting.default is inspect.Parameter.empty and key not in kwargs:
                raise SettingError(
                    "reward_kwargs", f"must have {key!r}, which reward {name!r} has no default for"
                )
        made = cls(context, **kwargs)
        if not hasattr(made, "weights" if isinstance(made, ListReward) else "context"):
            raise ValueError(f"reward {name!r}: its constructor must call super().__init__(context, ...)")
        return made
    except SettingError as error:
        if error.setting not in allowed:
            raise
        raise SettingError(error.setting, f"of reward {name!r} {error.fault}") from error


def _make_mix(spec: Mapping[Any, float | str], context: RewardContext, kwargs: Mapping[str, Any]) -> Mix:
    """Build a weighted sum of named rewards and functions."""
    known = {key for part in spec for key in _settings(part)}
    for key in kwargs:
        if key not in known:
            raise unknown_setting(key, "the mixed rewards", known)
    parts: dict[str, tuple[Reward, float | Ramp]] = {}
    for part, weight in spec.items():
        name = short_name(part)
        if name in parts:
            raise ValueError(f"two rewards of the mix are named {name!r}: rename one function")
        ramp = read_weight(weight) if isinstance(weight, str) else None
        for value in (weight,) if ramp is None else ramp:
            fault = type_fault(Weight, value)
            if fault is not None:
                hint = ", or a schedule such as '0->0.5'" if isinstance(weight, str) else ""
                raise SettingError("reward", f"weight of {name!r} {fault}{hint}")
        own = {key: value for key, value in kwargs.items() if key in _settings(part)}
        made = _make(part, context, own) if isinstance(part, str) else _own(part, context)
        parts[name] = made, float(weight) if ramp is None else ramp
    if not any(any(weight) if isinstance(weight, Ramp) else weight for _, weight in parts.values()):
        found = ", ".join(f"{name}=0" for name in parts) or "nothing"
        raise SettingError("reward", f"needs a weight other than 0, found {found}")
    return Mix(context, parts)


def _settings(name: Any) -> dict[str, Any]:
    """Return the types of a reward's settings by name; raise the did-you-mean error for an unknown name."""
    if not isinstance(name, str) or (is_place(name) and reward_class(name) is CallableReward):
        return {}  # a user's function
    return {key: setting.type for key, setting in settings_of(reward_class(name)).items()}
