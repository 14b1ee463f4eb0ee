"""Which steps of the chain an iteration trains."""

from __future__ import annotations

import torch


def trained_steps(text: str, total: int, generator: torch.Generator) -> tuple[int, ...]:
    """Return the steps of an iteration, ascending.

    Args:
        text: ``all``, ``random:n`` (n of them, drawn) or ``last:n``.
        total: T.
        generator: draws, for ``random``.

    Example:
        >>> trained_steps("last:2", 5, torch.Generator())
        (3, 4)
    """
    kind, _, count = text.partition(":")
    window = total if kind == "all" else min(int(count), total)
    if window == total or kind == "last":
        return tuple(range(total - window, total))
    drawn = torch.randperm(total, generator=generator)[:window]
    return tuple(sorted(drawn.tolist()))
