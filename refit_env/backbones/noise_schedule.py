"""Settings of the noise schedule, shared by the backbones' configurations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from refit_env.diffusion import Diffusion, betas
from refit_env.diffusion.schedule import SCHEDULES
from refit_env.settings import Bounded, Nonnegative, OneOf, Share, Steps


@dataclass(frozen=True)
class LinearVariance(Bounded):
    """The schedule ``linear-var``; the defaults are DiffRec's for ML-1M."""

    num_steps: Steps = 40
    """T of the training chain; a policy may use fewer of its steps."""
    noise_scale: Nonnegative = 0.005
    """Factor of both ends of the schedule."""
    noise_min: Share = 0.005
    """Lower end of the schedule."""
    noise_max: Share = 0.01
    """Upper end of the schedule."""

    def diffusion(self) -> Diffusion:
        """Return the training chain."""
        return self._chain("linear-var")

    def _chain(self, schedule: str, beta_fixed: bool = True) -> Diffusion:
        """Return the chain of a schedule."""
        table = betas(
            schedule,
            self.num_steps,
            noise_scale=self.noise_scale,
            noise_min=self.noise_min,
            noise_max=self.noise_max,
            beta_fixed=beta_fixed,
        )
        return Diffusion.from_betas(table)


@dataclass(frozen=True)
class NoiseSchedule(LinearVariance):
    """A schedule by its name."""

    schedule: Annotated[str, OneOf(SCHEDULES)] = "linear-var"
    """Noise schedule, see ``refit_env.diffusion.betas``."""

    def diffusion(self) -> Diffusion:
        """Return the training chain."""
        return self._chain(self.schedule)
