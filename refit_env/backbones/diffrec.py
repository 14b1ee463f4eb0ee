"""DiffRec (Wang et al., SIGIR 2023, arXiv 2304.04971): diffusion on a user's interaction row.

Letters: B users in a batch, I items (= D), E size of the time embedding, T steps of training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from refit_env.backbones.base import Backbone, Condition
from refit_env.backbones.few_values import few_values
from refit_env.backbones.latest import Latest, is_trained
from refit_env.backbones.noise_schedule import NoiseSchedule
from refit_env.backbones.products import Linear, linear
from refit_env.backbones.sampling import StepSampler
from refit_env.diffusion import Diffusion
from refit_env.settings import OneOf, PartialShare, Size, Sizes

MEAN_TYPES = ("x0", "eps")
"""Names for ``DiffRecConfig.mean_type``."""


@dataclass(frozen=True)
class DiffRecConfig(NoiseSchedule):
    """DiffRec's settings; the defaults are those published for ML-1M."""

    hidden: Sizes = (600, 200, 600)
    """Widths of the hidden layers, input to output. (The reference's ``[200, 600]`` means 600, 200, 600.)"""
    beta_fixed: bool = True
    """Set beta_0 to 1e-5."""
    mean_type: Annotated[str, OneOf(MEAN_TYPES)] = "x0"
    """Output of the network: ``x0`` or ``eps``."""
    embedding: Size = 10
    """E, size of the time embedding."""
    dropout: PartialShare = 0.5
    """Dropout of the input."""
    normalize: bool = False
    """Scale the input rows to length 1."""
    reweight: bool = True
    """Weight each step's loss by the difference of its neighbouring SNRs."""
    importance_sampling: bool = True
    """Draw steps in proportion to their losses."""

    def diffusion(self) -> Diffusion:
        """Return the training chain."""
        return self._chain(self.schedule, self.beta_fixed)


class DiffRec(Backbone):
    """An MLP that predicts the clean interaction row from a noisy row and the step.

    The network is ``[dropout(u) | Linear(sinusoid(k))] -> tanh layers -> I``. Weights are initialised as
    N(0, 2 / (fan_in + fan_out)), biases as N(0, 0.001^2).

    Deviations from the reference code: ``reweight=False`` works (there it crashes), and the losses stored by
    the importance sampler are part of the state dict.
    """

    name: ClassVar[str] = "diffrec"
    config_class: ClassVar[type] = DiffRecConfig

    def __init__(self, num_items: int, config: DiffRecConfig | None = None) -> None:
        """Build an untrained network.

        Args:
            num_items: I.
            config: settings; None uses those for ML-1M.

        Raises:
            ValueError: for an invalid schedule.
        """
        super().__init__()
        self.config: DiffRecConfig = config if config is not None else DiffRecConfig()
        self.num_items = self.dim = num_items
        self.diffusion = self.config.diffusion()
        self.sampler = StepSampler(self.config.num_steps)
        size = self.config.embedding
        self.time = nn.Linear(size, size)
        widths = [num_items + size, *self.config.hidden, num_items]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))
        self._joint: Latest[tuple[Tensor, Tensor, Tensor]] = Latest()
        _initialise([self.time, *self.layers])

    def forward(self, u: Tensor, timestep: int | Tensor) -> Tensor:
        """Return the network's output (B, I): x0 or eps, by ``mean_type``."""
        x = functional.normalize(u) if self.config.normalize else u
        if self.training:
            x = functional.dropout(x, self.config.dropout)
        first = self.input_layer
        if torch.is_grad_enabled() and is_trained(first.weight):
            self._joint.release()  # training needs the memory, and changes the weights
        # [x | e] W = x W_x + e W_e: avoids a copy of every row, and needs one product for a common step.
        out: Tensor = self.output_layer(self._hidden(linear(x, first.weight, first.bias), timestep))
        return out

    def predict_x0(self, u: Tensor, timestep: int | Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the clean rows (B, I) from ``u`` (B, I) at a step of the training chain."""
        out = self(u, timestep)
        return out if self.config.mean_type == "x0" else self.diffusion.x0_from_eps(u, out, timestep)

    def denoise(self, u: Tensor, chain: Diffusion) -> Tensor | None:
        """Return u_0 (B, I) of the noise-free chain; its first and last product alone have the items' size.

        A step reads u through a = u W_x' (B, H) alone. The next vector is c1 (h W' + b) + c2 u, h the last
        hidden units, so a becomes c1 (h (W_x W)' + W_x b) + c2 a, where W_x W has H x H numbers. Weights that
        are not trained keep W_x W.

        Args:
            u: (B, I) the start.
            chain: its steps.

        Returns:
            None where u is read in another way, or W_x W would cost more than it saves.
        """
        first, last = self.input_layer, self.output_layer
        if self._reads_all() or not self._saves(u.shape[0], chain.num_steps):
            return None
        sources = [first.weight, last.weight, last.bias]
        table, joint, shift = self._joint.get(sources, self._join)  # (I, H), (H, H), (H,)
        few = few_values(u)
        state = u @ table if few is None else few.times(table)  # (B, H)
        hidden = state
        for k in reversed(range(chain.num_steps)):
            hidden = self._hidden(state + first.bias, int(chain.network_timestep(k)))  # (B, H)
            if k:
                state = chain.posterior_mean(torch.addmm(shift, hidden, joint), state, k)
        out: Tensor = last(hidden)
        return out

    def _join(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return W_x' (I, H), (W_x W)' (H, H) and W_x b (H,), see ``denoise``."""
        last = self.output_layer
        into = self.input_layer.weight[:, : self.num_items]  # (H, I)
        return into.t().contiguous(), (into @ last.weight).t().contiguous(), into @ last.bias

    def _hidden(self, state: Tensor, timestep: int | Tensor) -> Tensor:
        """Return the last hidden units (B, H) of a step from u W_x' + b (B, H), its ``state``."""
        embedded = self.time(time_embedding(timestep, self.config.embedding, state))  # (B, E) or (1, E)
        hidden = state + linear(embedded, self.input_layer.weight, first=self.num_items)
        for layer in self.layers[1:-1]:
            hidden = layer(torch.tanh(hidden))
        return torch.tanh(hidden)

    def _reads_all(self) -> bool:
        """Return whether a step reads u in other ways than by its first layer, or is observed or exported."""
        if torch.compiler.is_exporting():
            return True
        config, layers = self.config, (self, *self.layers)
        plain = config.mean_type == "x0" and not (config.normalize or self.training)
        hooked = any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
        return not plain or hooked or torch.is_autocast_enabled(self.output_layer.weight.device.type)

    def _saves(self, rows: int, steps: int) -> bool:
        """Return whether W_x W saves products: it is kept, or costs less than it saves for ``rows`` rows."""
        first, last = self.input_layer.weight, self.output_layer.weight
        if not (is_trained(first) or is_trained(last)):
            return True
        return rows * (steps - 1) * (first.shape[0] + last.shape[1]) > first.shape[0] * last.shape[1]

    def elbo_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the reweighted ELBO of DiffRec, Eq. 9 and 10.

        Args:
            shown: (B, I) interactions that are noised.
            target: (B, I) prediction targets.
            generator: random generator of the steps and the noise.

        Returns:
            a scalar, of order 100 because of the SNR weights.
        """
        k, share = self._draw_steps(shown.shape[0], generator, shown.device)  # (B,), (B,)
        noise = torch.randn(shown.shape, generator=generator, device=shown.device)
        u = self.diffusion.q_sample(shown, k, noise)  # (B, I)
        weighted = self.step_losses(u, k, target, noise)  # (B,)
        if self.config.importance_sampling and self.training:
            self.sampler.record(k, weighted)
        return (weighted / share).mean()

    def step_losses(self, u: Tensor, k: Tensor, target: Tensor, noise: Tensor) -> Tensor:
        """Return the weighted loss (B,) of each row at its step ``k`` (B,), without importance correction."""
        out: Tensor = self(u, k)  # (B, I)
        wanted = target if self.config.mean_type == "x0" else noise
        loss: Tensor = (wanted - out).square().mean(1)  # (B,)
        if self.config.mean_type == "eps":
            x0 = self.diffusion.x0_from_eps(u, out, k)
            loss = torch.where(k == 0, (target - x0).square().mean(1) / 2, loss)
        if not self.config.reweight:
            return loss
        return loss * torch.as_tensor(self.loss_weights(), device=u.device)[k].to(loss.dtype)

    @property
    def input_layer(self) -> nn.Linear:
        """The layer from the items and the embedded step to the first hidden units."""
        first: nn.Linear = self.layers[0]  # type: ignore[assignment]  # ModuleList forgets the class
        return first

    @property
    def output_layer(self) -> nn.Linear:
        """The layer from the last hidden units to the items."""
        last: nn.Linear = self.layers[-1]  # type: ignore[assignment]  # ModuleList forgets the class
        return last

    @property
    def item_axes(self) -> dict[str, tuple[int, ...]]:
        """The columns of the first layer; the rows of the last one, and its bias."""
        last = f"layers.{len(self.layers) - 1}"
        return {"layers.0.weight": (1,), f"{last}.weight": (0,), f"{last}.bias": (0,)}

    def loss_weights(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return the weight (T,) of each step's loss: SNR(k-1) - SNR(k) for x0, and 1 at k = 0."""
        chain = self.diffusion
        if self.config.mean_type == "eps":
            weights = (1 - chain.abar) / (
                (1 - chain.abar_previous) ** 2 * (1 - chain.betas) + np.finfo(float).tiny
            )
        else:
            weights = np.append(1.0, chain.snr[:-1] - chain.snr[1:])
        weights[0] = 1.0
        return weights

    def _draw_steps(
        self, count: int, generator: torch.Generator | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Draw steps (B,), and return the divisors (B,) of their losses."""
        if self.config.importance_sampling:
            return self.sampler.draw(count, generator)
        k = torch.randint(self.config.num_steps, (count,), generator=generator, device=device)
        return k, torch.ones(count, device=device)


def time_embedding(timestep: int | Tensor, size: int, like: Tensor) -> Tensor:
    """Return the sinusoidal embedding [cos | sin] with frequencies 10000^(-j / (size / 2)).

    Args:
        timestep: one step for all, or (B,) int64.
        size: E.
        like: tensor with the dtype and device of the result.

    Returns:
        (1, E) or (B, E); an odd size ends in a zero.
    """
    half = size // 2
    frequency = torch.exp(
        -math.log(10_000.0) * torch.arange(half, device=like.device, dtype=like.dtype) / half
    )
    angle = (
        torch.as_tensor(timestep, device=like.device).reshape(-1, 1).to(like.dtype) * frequency
    )  # (B, E / 2)
    out = torch.cat([angle.cos(), angle.sin()], 1)
    return functional.pad(out, (0, size % 2))


def _initialise(layers: Sequence[nn.Module]) -> None:
    """Initialise weights as DiffRec does."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            fan_out, fan_in = layer.weight.shape
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / (fan_in + fan_out)))
            nn.init.normal_(layer.bias, 0.0, 0.001)


def _published(
    hidden: tuple[int, ...], num_steps: int, scale: float, low: float, high: float
) -> DiffRecConfig:
    return DiffRecConfig(hidden=hidden, num_steps=num_steps, noise_scale=scale, noise_min=low, noise_max=high)


PUBLISHED: dict[str, DiffRecConfig] = {
    "ml-1m": _published((600, 200, 600), 40, 0.005, 0.005, 0.01),
    "ml-1m-noisy": _published((600, 200, 600), 5, 0.5, 0.001, 0.01),
    "yelp": _published((1000,), 5, 0.01, 0.001, 0.01),
    "yelp-noisy": _published((1000,), 5, 0.001, 0.0005, 0.01),
    "amazon": _published((1000,), 5, 0.0001, 0.0005, 0.005),
    "amazon-noisy": _published((1000,), 10, 0.005, 0.0001, 0.0005),
}
"""The configurations of the authors' checkpoints, by data set."""

SMALL: dict[str, DiffRecConfig] = {"yelp": replace(PUBLISHED["yelp"], hidden=(100,))}
"""Configurations for tens of thousands of items on two cores: a tenth of the weights."""
