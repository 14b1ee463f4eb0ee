"""Weights between those of a pretrained policy and those that fine-tuning found.

What fine-tuning gains and what it forgets are not lost at the same pace along the straight line between the
two, so that a point on it may rank better than either end: WiSE-FT (arXiv 2109.01903) for supervised
fine-tuning, WARP (arXiv 2406.16768) for a reward that is a model's opinion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def between(start: nn.Module, end: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The state that lies ``share`` of the way from the weights of ``start`` to ``end``; buffers are end's.

    Example:
        >>> start = nn.Linear(1, 1)
        >>> end = {"weight": start.weight + 2.0, "bias": start.bias}
        >>> (between(start, end, 0.25)["weight"] - start.weight).item()
        0.5
    """
    weights = dict(start.named_parameters())
    with torch.no_grad():
        return {
            name: torch.lerp(weights[name], value, share) if name in weights and share < 1 else value
            for name, value in end.items()
        }


def best_between(
    policy: nn.Module,
    start: nn.Module,
    end: Mapping[str, Tensor],
    points: int,
    known: float,
    look: Callable[[], float],
) -> tuple[float, float]:
    """Leave ``policy`` with the best weights on the line, of ``end`` and of ``points`` before it.

    Args:
        policy: takes the weights.
        start: has those that the line begins with.
        end: state at its end.
        points: how many to look at, evenly spaced.
        known: the value at the end.
        look: the value of the policy as it is; the higher the better.

    Returns:
        The best value, and its share of the way.
    """
    looks = [(known, 1.0)]
    for share in (n / (points + 1) for n in range(1, points + 1)):
        policy.load_state_dict(between(start, end, share))
        looks.append((look(), share))
    value, share = max(looks)
    policy.load_state_dict(between(start, end, share))
    return value, share
