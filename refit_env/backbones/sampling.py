"""Importance sampling of diffusion steps by the size of their losses (Nichol and Dhariwal 2021, 3.3).

Letters: T steps, B rows in a batch, H remembered losses of a step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

HISTORY = 10
"""Losses remembered per step."""

UNIFORM_SHARE = 0.001
"""Share of uniform draws mixed in, so that no step dies out."""


class StepSampler(nn.Module):
    """Draws steps in proportion to sqrt(E[loss^2]) once each has been seen ten times; uniformly before.

    Its memory is in buffers, so a model's state dict holds it and a resumed training repeats an
    unbroken one. It is float64: losses are of order 100 to 1000 because of the SNR weights.
    """

    losses: Tensor
    seen: Tensor

    def __init__(self, num_steps: int) -> None:
        """Start with nothing seen of ``num_steps`` steps."""
        super().__init__()
        self.register_buffer("losses", torch.zeros(num_steps, HISTORY, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(num_steps, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """(T,) float64, summing to 1."""
        return _probabilities(self.losses, self.seen)

    def check_state(self, losses: Tensor, seen: Tensor) -> None:
        """Refuse a memory, read from a file, that no step could be drawn by.

        Raises:
            ValueError: if it gives no probabilities.
        """
        p = _probabilities(losses, seen)
        if bool((seen < 0).any()) or not bool((torch.isfinite(p) & (p >= 0)).all()):
            raise ValueError("the memory of the steps' losses gives no probabilities")

    def draw(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw steps.

        Returns:
            (count,) int64 steps, and (count,) float32 p * T, by which each loss is to be divided.
        """
        p = self.probabilities()
        k = torch.multinomial(p, count, replacement=True, generator=generator)
        return k, (p[k] * p.numel()).float()

    def remember(self, k: Tensor, losses: Tensor) -> None:
        """Record losses (B,) of steps ``k`` (B,), the newest replacing the oldest, in the batch's order."""
        counts = torch.bincount(k, minlength=self.seen.numel())  # (T,)
        nth = _occurrence(k, counts)  # (B,) this loss is its step's nth in the batch
        kept = nth >= counts[k] - HISTORY  # more would write one place twice
        place = (self.seen[k] + nth) % HISTORY  # a ring: the mean does not care where it begins
        self.losses[k[kept], place[kept]] = losses.detach().double()[kept]
        self.seen += counts


def _probabilities(losses: Tensor, seen: Tensor) -> Tensor:
    """(T,) float64 by the remembered losses (T, H) of steps that were seen (T,) times."""
    steps = seen.numel()
    uniform = torch.full((steps,), 1.0 / steps, dtype=torch.float64, device=seen.device)
    if not bool((seen >= HISTORY).all()):
        return uniform
    weight = losses.square().mean(1).sqrt()  # (T,)
    return (1.0 - UNIFORM_SHARE) * weight / weight.sum() + UNIFORM_SHARE * uniform


def _occurrence(k: Tensor, counts: Tensor) -> Tensor:
    """(B,) how many earlier entries of ``k`` equal each one; ``counts`` (T,): how often each step occurs."""
    order = torch.argsort(k, stable=True)
    first = torch.cumsum(counts, 0) - counts  # where each step's run begins in the sorted order
    rank = torch.empty_like(k)
    rank[order] = torch.arange(k.numel(), device=k.device) - first[k[order]]
    return rank
