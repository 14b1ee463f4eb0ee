"""Settings of the Stable-Baselines3 variants, ``sb3.yml``; Stable-Baselines3 is not imported for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from agents.hyperparams.yaml_files import read_yaml, settings
from refit_env.settings import Bounded, Nonnegative

FILE = Path(__file__).resolve().parent / "sb3.yml"


@dataclass(frozen=True)
class SB3Settings(Bounded):
    """What a variant's model and environments are made with."""

    num_envs: Annotated[int, Meta(ge=1, le=1_000_000)] = 128
    """Sub-environments that are stepped at once."""
    exploration_std: Nonnegative = 0.05
    """Floor of the policy's standard deviation, in units of the scores."""
    rank: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Size of low-rank actions; 0 acts on the whole vector."""
    scale: Nonnegative = 1.0
    """Size of a low-rank action of one, in the step's standard deviations."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the algorithm's class, by Stable-Baselines3's names."""

    @property
    def group_size(self) -> int:
        """Chains of one user side by side, as the rollout buffer's arguments have it; 1 without them."""
        return int((self.arguments.get("rollout_buffer_kwargs") or {}).get("group_size", 1))


@cache
def sb3_settings() -> dict[str, SB3Settings]:
    """By the algorithm's name in ``agents.sb3.experiment``.

    Raises:
        DataError: if the file is wrong.
    """
    return {name: settings(SB3Settings, value, f"{FILE}: {name}") for name, value in read_yaml(FILE).items()}
