"""The arguments of an environment, and the checks of their values before any file is read.

Letters: B episodes, I items, K list length, T steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from refit_env.backbones import backbone_class
from refit_env.errors import SettingError, unknown_argument, unknown_name, unknown_setting
from refit_env.rewards import make_relevance
from refit_env.rewards.registry import RewardSpec
from refit_env.settings import check_setting, field_types
from refit_env.utils.text import shown
from refit_env.utils.user_code import absolute_place

STARTS = ("history", "diffused", "noise")
"""Names for ``start``."""
USUAL_K = 20
"""K unless an argument sets another."""
TYPED = (
    "backbone",
    "backbone_options",
    "relevance",
    "start",
    "reward_kwargs",
    "relevance_kwargs",
    "other_data",
)
"""Fields of ``ProblemConfig`` of which only the type is checked here."""
VECTOR_ONLY = ("num_envs", "backend", "device", "autoreset_mode")
"""Arguments of the vector environment alone."""


@dataclass(frozen=True)
class ProblemConfig:
    """The arguments of ``gym.make`` and ``gym.make_vec`` that define the MDP; see ``read_config``."""

    data: Any = None
    """A catalogue name, a canonical folder, or a ``Dataset``."""
    backbone: str = "diffrec"
    """Name of the diffusion recommender that defines the chain, or the place of one's own:
    ``my_backbone.py:Tiny``."""
    backbone_options: Mapping[str, Any] | None = None
    """Changes to its published configuration, on which u_T and the noise of the steps may depend."""
    num_steps: int = 4
    """T."""
    reward: RewardSpec = "racs"
    """A name, the place of one's own (``my_reward.py:FreshHits``), a function (scores (B, I), users (B,)) ->
    (B,), or a weighted mix."""
    relevance: str | None = None
    """``train``, ``holdout``, ``recent``, ``validation`` or ``none``; None is ``recent`` where rows are in
    order of time, else ``holdout``."""
    k: int = USUAL_K
    """K; the default of 20 becomes the number of items where there are fewer."""
    start: str | None = None
    """``history``: u_T is the visible history; ``diffused``: the history with noise; ``noise``: N(0, I). None
    is the backbone's default."""
    reward_kwargs: Mapping[str, Any] | None = None
    """Settings of the reward, for example ``{"alpha": 0.3}``."""
    relevance_kwargs: Mapping[str, Any] | None = None
    """Settings of the relevance: ``fraction``, ``seed``, ``selection_share``."""
    bound: Annotated[float, Meta(ge=1, description="finite; histories hold ones")] | None = None
    """Limit of the spaces; noisy starting states are clipped to it. None: five standard deviations beyond the
    data."""
    checkpoint: str | Path | None = None
    """Folder of the pretrained model that scores u_0, where u is an embedding."""
    device: str = "cpu"
    """Device of the batches; only vector environments use it."""
    other_data: bool = False
    """Whether models that score or act may have been trained on another data set."""

    def __post_init__(self) -> None:
        """Name a user's file by its absolute path, as policies do."""
        if isinstance(self.backbone, str):
            object.__setattr__(self, "backbone", absolute_place(self.backbone))


def read_config(
    constructor: Callable[..., Any], data: Any, settings: Mapping[str, Any], without: Collection[str] = ()
) -> ProblemConfig:
    """Return the keyword arguments of an environment as its configuration.

    Args:
        constructor: of the environment, whose own keyword arguments are known, too.
        data: its argument ``data``.
        settings: the keyword arguments that its signature does not name.
        without: fields that the environment does not have.

    Raises:
        UnknownArgument: for a name that is no argument, with a did-you-mean.

    Example:
        >>> read_config(ProblemConfig, "synthetic", {"k": 10}).k
        10
        >>> read_config(ProblemConfig, "synthetic", {"rewrad": "ndcg"})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        refit_env.errors.UnknownArgument: rewrad is no setting of the environment ... 'reward'? ...
    """
    known = [field.name for field in fields(ProblemConfig) if field.name not in without]
    for name in settings:
        if name not in known:
            if name in VECTOR_ONLY:
                raise ValueError(
                    f"argument {name!r} is one of the vector environment: gym.make_vec(ID, {name}=..., "
                    "vectorization_mode='vector_entry_point')"
                )
            own = inspect.signature(constructor).parameters
            named = [p.name for p in own.values() if p.kind == p.KEYWORD_ONLY]
            raise unknown_argument(name, "the environment", {*known, *named})
    return ProblemConfig(data=data, **settings)


def relevance_settings(config: ProblemConfig) -> dict[str, Any]:
    """Keyword arguments for ``make_relevance``, their names checked."""
    known = list(inspect.signature(make_relevance).parameters)[2:]
    settings = dict(config.relevance_kwargs or {})
    for name in settings:
        if name not in known:
            raise unknown_setting(name, "relevance", known)
    return settings


def check(config: ProblemConfig) -> None:
    """Raise an error for wrong names and numbers, before any file is read."""
    if config.data is None:
        raise ValueError(
            "no data set: pass data=FOLDER (canonical form, see 'refit data prepare') or a known name"
        )
    types = field_types(ProblemConfig)
    for name in TYPED:
        check_setting(name, getattr(config, name), types[name])
    check_setting("bound", config.bound, types["bound"])
    if not isinstance(config.checkpoint, str | Path | None):
        raise SettingError("checkpoint", f"must be a folder, found {shown(config.checkpoint)}")
    if config.start is not None and config.start not in STARTS:
        raise unknown_name("start", config.start, STARTS)
    kind = backbone_class(config.backbone)
    if config.checkpoint is not None and not kind.embedding:
        raise ValueError(
            f"checkpoint={str(config.checkpoint)!r}: the environment's backbone {config.backbone!r} needs "
            "none, because its u_0 holds the scores. Leave it out, and name the backbone of the run: "
            "backbone=NAME"
        )
    if config.start == "noise" and not kind.conditional:
        raise ValueError(
            f"start='noise' needs a backbone that is conditioned on the user; {config.backbone!r} reads u "
            "alone, and pure noise does not identify the user. Use 'history' or 'diffused'."
        )
    steps: Any = config.num_steps
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(
            f"num_steps={steps!r} must be a whole number of at least 1: T, the length of an episode"
        )
