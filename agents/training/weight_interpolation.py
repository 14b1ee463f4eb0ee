"""Weights between those of a pretrained policy and those that fine-tuning found.

The gains and the losses of fine-tuning grow at different rates along the straight line between the two, so
that a point on it may rank better than both ends: WiSE-FT (arXiv 2109.01903) for supervised fine-tuning, WARP
(arXiv 2406.16768) for a learnt reward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def between(start: nn.Module, end: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return the weights at ``share`` of the way from those of ``start`` to ``end``; buffers are end's.

    Example:
        >>> start = nn.Linear(1, 1)
        >>> end = {"weight": start.weight + 2.0, "bias": start.bias}
        >>> (between(start, end, 0.25)["weight"] - start.weight).item()
        0.5
    """
    weights = dict(start.named_parameters())
    with torch.no_grad():
        return {
            name: torch.lerp(weights[name], value, share) if name in weights else value
            for name, value in end.items()
        }


def best_between(
    policy: nn.Module,
    start: nn.Module,
    points: int,
    value_of: Callable[[], float],
) -> tuple[float, float, dict[str, Tensor]]:
    """Evaluate points on the line from the weights of ``start`` to those of ``policy``.

    Args:
        policy: the end of the line; it is left with other weights.
        start: where the line begins.
        points: number of points between the two, evenly spaced; at least one.
        value_of: the value of the policy with its present weights; higher is better.

    Returns:
        The best value, its share of the way, and the state there.
    """
    end = {name: value.clone() for name, value in policy.state_dict().items()}
    found = []
    for share in (n / (points + 1) for n in range(1, points + 1)):
        policy.load_state_dict(between(start, end, share))
        found.append((value_of(), share))
    value, share = max(found)
    return value, share, between(start, end, share)
