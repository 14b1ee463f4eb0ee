"""What every diffusion backbone offers: the denoiser, its schedule, where chains start, what scores are.

Letters: B users in a batch, D size of the diffused vector, I items, C size of a context.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from refit_env.diffusion import Diffusion


class Backbone(nn.Module, ABC):
    """A denoiser f(u, k, context) -> x0 with the schedule that it is trained on.

    Attributes:
        name: its name in the registry.
        conditional: whether the network sees a context besides u; only then may a chain start from noise.
        num_items: I.
        dim: D.
        diffusion: the schedule of training, T steps.
    """

    name: ClassVar[str]
    config_class: ClassVar[type]
    conditional: ClassVar[bool] = False

    num_items: int
    dim: int
    diffusion: Diffusion
    config: Any

    @abstractmethod
    def predict_x0(self, u: Tensor, timestep: int | Tensor, context: Tensor | None = None) -> Tensor:
        """Predict the clean vectors.

        Args:
            u: (B, D) noisy vectors.
            timestep: index in the chain of training, one for all or (B,) int64.
            context: (B, C) or None.

        Returns:
            (B, D).
        """

    @abstractmethod
    def elbo_loss(self, rows: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The training loss, a scalar.

        Args:
            rows: (B, I) the interactions that are noised and shown.
            target: (B, I) what the network must predict; ``rows`` itself in published training.
            generator: source of the noise and of the steps drawn.
        """

    def initial_state(self, users: Tensor, rows: Tensor) -> Tensor:
        """u_T (B, D) of ``users`` (B,) with visible histories ``rows`` (B, I): the history itself."""
        return rows

    def context(self, users: Tensor, rows: Tensor) -> Tensor | None:
        """What the network is conditioned on, (B, C), or None."""
        return None

    def scores(self, u0: Tensor, users: Tensor) -> Tensor:
        """Item scores (B, I) of denoised vectors ``u0`` (B, D): the vectors themselves where D = I."""
        return u0

    @property
    def output_layer(self) -> nn.Linear:
        """The linear layer whose output is the prediction, for methods that change nothing else.

        Raises:
            ValueError: if the backbone has no such layer, or does not name it.
        """
        raise ValueError(f"backbone {self.name!r} names no linear output layer")

    def config_dict(self) -> dict[str, Any]:
        """The configuration as JSON-plain values."""
        return asdict(self.config)
