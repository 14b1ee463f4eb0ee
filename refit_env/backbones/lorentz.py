"""Distances on the hyperboloid (Lorentz model, curvature -1) of points given as tangent vectors.

The tangent vector a at the origin is the point (cosh |a|, sinh |a| a / |a|). Letters: B and I points, D size
of a vector.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-12
"""Lower bound of lengths and squares, so that gradients are finite."""


def squared_distance(left: Tensor, right: Tensor) -> Tensor:
    """Return squared geodesic distances (...,) of points ``left`` and ``right`` (..., D).

    Example:
        >>> squared_distance(torch.tensor([[3.0, 0.0]]), torch.tensor([[-1.0, 0.0]])).round(decimals=3)
        tensor([16.])
    """
    one, other = _length(left), _length(right)  # (...,)
    apart = (left / one[..., None] - right / other[..., None]).square().sum(-1) / 2  # 1 - cosine of the angle
    return _from_polar(one, other, apart)


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Return squared geodesic distances (B, I) of all pairs of ``left`` (B, D) and ``right`` (I, D)."""
    one, other = _length(left), _length(right)  # (B,), (I,)
    apart = (1 - (left / one[:, None]) @ (right / other[:, None]).T).clamp(min=0)  # (B, I)
    return _from_polar(one[:, None], other[None, :], apart)


def _from_polar(one: Tensor, other: Tensor, apart: Tensor) -> Tensor:
    """Return d^2 by the hyperbolic law of cosines, cosh d = cosh(r - s) + sinh r sinh s (1 - cos).

    The form is accurate for close points: h = (cosh d - 1) / 2 is
    sinh^2((r - s) / 2) + sinh r sinh s (1 - cos) / 2, and d = 2 arsinh sqrt h.
    """
    half = torch.sinh((one - other) / 2).square() + torch.sinh(one) * torch.sinh(other) * apart / 2
    return 4 * torch.asinh(half.clamp(min=SMALLEST).sqrt()).square()


def _length(vectors: Tensor) -> Tensor:
    """Return the lengths (...,) of vectors (..., D)."""
    return vectors.square().sum(-1).clamp(min=SMALLEST).sqrt()
