"""Settings of a study, without PyTorch: the command line's help is made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from refit_env.settings import Bounded, Seed


@dataclass(frozen=True)
class StudySettings(Bounded):
    """What a study may spend, and what it tries."""

    minutes: Annotated[float, Meta(gt=0, le=10_000)] = 15.0
    """Time of all trials, of all sessions; a trial under way is ended soon after."""
    seed: Seed = 0
    """Of the proposals, of users and noise."""
    select_on: str = "ndcg@20"
    """The validation metric that chooses."""
    backbones: tuple[str, ...] = ()
    """Backbones to start from; empty: ``linear`` and ``spectral``, as the catalogue's size allows."""
    baselines: tuple[str, ...] = ()
    """Baselines that are the floor; empty: those that are fitted quickly."""
    closed_share: Annotated[float, Meta(gt=0, lt=1)] = 0.3
    """Share of the time that closed forms may take."""
    floor_share: Annotated[float, Meta(gt=0, lt=1)] = 0.25
    """Share of the time that baselines may take."""
    trial_share: Annotated[float, Meta(gt=0, le=1)] = 0.2
    """Share of the time for fine-tuning that a single one may take."""
