"""Settings of a study, in a module without PyTorch, for the command line's help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from refit_env.errors import SettingError
from refit_env.evaluation.selection import RuleText
from refit_env.settings import Bounded, Seed


@dataclass(frozen=True)
class StudySettings(Bounded):
    """The budget and the candidates of a study."""

    minutes: Annotated[float, Meta(gt=0, le=10_000)] = 15.0
    """Time of all trials, of all sessions; a running trial ends soon after."""
    seed: Seed = 0
    """Seed of the proposals, users and noise."""
    select: RuleText = "ndcg@20"
    """The rule by which validation selects: a metric, or one with conditions (``start``: the first trial)."""
    backbones: tuple[str, ...] = ()
    """Backbones to start from; empty: ``linear`` and ``spectral``, as the catalogue's size allows, and
    networks that suit the data."""
    baselines: tuple[str, ...] = ()
    """Baselines to compare with; empty: those that are fitted quickly."""
    closed_share: Annotated[float, Meta(gt=0, lt=1)] = 0.45
    """Share of the time for closed forms."""
    floor_share: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    """Share of the time for baselines."""
    trial_share: Annotated[float, Meta(gt=0, le=1)] = 0.2
    """Share of the fine-tuning time for a single fine-tuning."""

    def check_together(self) -> None:
        """Refuse shares that leave no time for fine-tuning."""
        if self.closed_share + self.floor_share >= 1:
            left = 1 - self.closed_share
            fault = f"must be < {left:.3g}, what --closed-share {self.closed_share:g} leaves"
            raise SettingError("floor_share", f"{fault}, found {self.floor_share:g}")
