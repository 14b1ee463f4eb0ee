"""A user-defined backbone, for the tests that register it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from refit_env.backbones import Backbone, registry
from refit_env.backbones.base import Condition
from refit_env.diffusion import Diffusion, betas


@dataclass(frozen=True)
class TinyConfig:
    """Settings of ``Tiny``."""

    hidden: int = 8
    num_steps: int = 5

    def diffusion(self) -> Diffusion:
        return Diffusion.from_betas(betas("linear-var", self.num_steps))


class Tiny(Backbone):
    """A network with one hidden layer."""

    config_class: ClassVar[type] = TinyConfig

    def __init__(self, num_items: int, config: TinyConfig | None = None) -> None:
        super().__init__()
        self.config = config or TinyConfig()
        self.num_items = self.dim = num_items
        self.diffusion = self.config.diffusion()
        self.net = nn.Sequential(
            nn.Linear(num_items, self.config.hidden), nn.Tanh(), nn.Linear(self.config.hidden, num_items)
        )

    def predict_x0(self, u: Tensor, timestep: int | Tensor, condition: Condition | None = None) -> Tensor:
        out: Tensor = self.net(u)
        return out

    def elbo_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(shown.shape, generator=generator)
        return (self.net(shown + 0.1 * noise) - target).square().mean()


@contextmanager
def registry_restored() -> Iterator[None]:
    """Remove names that were registered in this context."""
    before = dict(registry._BACKBONES)
    try:
        yield
    finally:
        registry._BACKBONES.clear()
        registry._BACKBONES.update(before)
