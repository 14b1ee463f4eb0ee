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
            name: torch.lerp(weights[name], value, share) if name in weights else value
            for name, value in end.items()
        }


def best_between(
    policy: nn.Module,
    start: nn.Module,
    points: int,
    look: Callable[[], float],
) -> tuple[float, float, dict[str, Tensor]]:
    """Look at points on the line from the weights of ``start`` to those that ``policy`` has.

    Args:
        policy: the end of the line; it is left with other weights.
        start: where the line begins.
        points: how many to look at between the two, evenly spaced; at least one.
        look: the value of the policy as it is; the higher the better.

    Returns:
        The best value, its share of the way, and the state there.
    """
    end = {name: value.clone() for name, value in policy.state_dict().items()}
    looks = []
    for share in (n / (points + 1) for n in range(1, points + 1)):
        policy.load_state_dict(between(start, end, share))
        looks.append((look(), share))
    value, share = max(looks)
    return value, share, between(start, end, share)
