"""Importance sampling of diffusion steps by their losses (Nichol and Dhariwal 2021, 3.3).

Letters: T steps, B rows in a batch, H stored losses of a step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refit_env.backbones.whole_batch import whole_batch

HISTORY = 10
"""Losses stored per step."""

UNIFORM_SHARE = 0.001
"""Share of uniform draws, so that every step keeps a positive probability."""

LARGEST = 1e100
"""Bound of a stored loss; the sum of the squares must be finite."""


class StepSampler(nn.Module):
    """Draws steps in proportion to sqrt(E[loss^2]) once each was drawn ten times; uniformly before.

    The stored losses are buffers, so they are in a model's state dict and a resumed training equals an
    uninterrupted one. They are float64, because the SNR weights make losses of order 100 to 1000.
    """

    losses: Tensor
    seen: Tensor

    def __init__(self, num_steps: int) -> None:
        """Create a sampler of ``num_steps`` steps without stored losses."""
        super().__init__()
        self.register_buffer("losses", torch.zeros(num_steps, HISTORY, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(num_steps, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """Return the probabilities (T,) float64 of the steps."""
        return _probabilities(self.losses, self.seen)

    def check_state(self, losses: Tensor, seen: Tensor) -> None:
        """Raise an error for stored losses from a file that define no probabilities.

        Raises:
            ValueError: if a probability would be negative, NaN or infinite.
        """
        p = _probabilities(losses, seen)
        squares = losses.square().sum()  # counts once every step was drawn often enough
        if bool((seen < 0).any()) or not bool(torch.isfinite(p).all() & torch.isfinite(squares)):
            raise ValueError("the stored losses of the steps give no probabilities")

    def draw(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw steps.

        Returns:
            (count,) int64 steps, and (count,) float32 p * T, the divisor of each loss.
        """
        p = self.probabilities()
        k = torch.multinomial(p, count, replacement=True, generator=generator)
        return k, (p[k] * p.numel()).float()

    def record(self, k: Tensor, losses: Tensor) -> None:
        """Store losses (B,) of steps ``k`` (B,) in the batch's order; the newest replace the oldest."""
        k, losses = whole_batch(k), whole_batch(losses)
        counts = torch.bincount(k, minlength=self.seen.numel())  # (T,)
        nth = _occurrence(k, counts)  # (B,) this loss is its step's nth in the batch
        kept = nth >= counts[k] - HISTORY  # each position is written once
        place = (self.seen[k] + nth) % HISTORY  # a ring buffer
        finite = losses.double().nan_to_num(nan=LARGEST).clamp(-LARGEST, LARGEST)  # a diverged training's
        self.losses[k[kept], place[kept]] = finite[kept]
        self.seen += counts


def _probabilities(losses: Tensor, seen: Tensor) -> Tensor:
    """Return probabilities (T,) float64 from stored losses (T, H) of steps drawn ``seen`` (T,) times."""
    steps = seen.numel()
    uniform = torch.full((steps,), 1.0 / steps, dtype=torch.float64, device=seen.device)
    if not bool((seen >= HISTORY).all()):
        return uniform
    weight = losses.square().mean(1).sqrt()  # (T,)
    return (1.0 - UNIFORM_SHARE) * weight / weight.sum() + UNIFORM_SHARE * uniform


def _occurrence(k: Tensor, counts: Tensor) -> Tensor:
    """Return the number (B,) of earlier entries of ``k`` equal to each one; ``counts`` (T,) of each step."""
    order = torch.argsort(k, stable=True)
    first = torch.cumsum(counts, 0) - counts  # where each step's run begins in the sorted order
    rank = torch.empty_like(k)
    rank[order] = torch.arange(k.numel(), device=k.device) - first[k[order]]
    return rank
