"""Visits near a place: how much denser one person's are around it than everyone's.

    f(u)_i = log(1 + own_i / all_i)
    own_i = sum_j u_j K_ji / sum_j u_j
    all_i = sum_j c_j K_ji / sum_j c_j

where K_ji = exp(-d(j, i) / scale) falls with the distance of two different places and is 0 for a place
itself, and c are the train counts. People go to places near those where they were (Ye et al., SIGIR 2011);
the density of one's visits is a kernel estimate (Zhang and Chow, SIGSPATIAL 2013). Divided by everyone's
density it holds what is particular to the person: the popular district is not near everybody.

The kernel does not change. Fine-tuning trains the gains, one for each place.

Letters: B rows of a batch, I places.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from refit_env.backbones import products
from refit_env.backbones.geography import EARTH_KM
from refit_env.backbones.latest import Latest

LARGEST = 25_000
"""Most places: the kernel has a number for each pair of them."""
FAINT = 1e-9
"""Added to everyone's density: places that are near no other one have none."""


class NearbyVisits(nn.Module):
    """Scores of places by the visits near them.

    Attributes:
        points: (I, 3), the places on a sphere of radius 1; 0 where unknown, which is near no other place.
        everyone: (I,), everyone's density.
        gain: (I,), factors of the places' scores.
        scale: kilometres in which the kernel falls to 1 / e.
    """

    points: Tensor
    everyone: Tensor

    def __init__(self, num_items: int, scale: float) -> None:
        """Start with gains of 0.

        Raises:
            ValueError: for more than 25,000 places.
        """
        super().__init__()
        if num_items > LARGEST:
            raise ValueError(
                f"places needs the distances of all pairs of items: {num_items} are more than {LARGEST}; use "
                "places=0"
            )
        self.scale = scale
        self.register_buffer("points", torch.zeros(num_items, 3))
        self.register_buffer("everyone", torch.ones(num_items))
        self.gain = nn.Parameter(torch.zeros(num_items))
        self._kernel: Latest[Tensor] = Latest()

    def forward(self, u: Tensor) -> Tensor:
        """Return the scores (B, I) of rows ``u`` (B, I); values below 0 count as 0."""
        return self.gain * self.density(u)

    def density(self, u: Tensor) -> Tensor:
        """Return f(u) (B, I) of rows ``u`` (B, I)."""
        row = u.clamp(min=0)
        own = self._near(row) / row.sum(1, keepdim=True).clamp(min=FAINT)  # (B, I)
        return (own / (self.everyone + FAINT)).log1p()

    def _near(self, row: Tensor) -> Tensor:
        """Return the sums (B, I) of the visits near each place."""
        kernel = self._kernel.get([self.points], self._nearness).to(row.dtype)  # (I, I)
        return products.linear(row, kernel)  # K is its own transpose

    def _nearness(self) -> Tensor:
        """Return K (I, I)."""
        points = self.points.double()  # (I, 3)
        unknown = ~points.any(1)  # (I,)
        half = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") / 2  # (I, I)
        kernel = half.clamp_(max=1.0).asin_().mul_(-2 * EARTH_KM / self.scale).exp_()
        kernel[unknown] = kernel[:, unknown] = 0.0
        return kernel.fill_diagonal_(0.0).float()

    @torch.no_grad()
    def fit(self, coordinates: Tensor, counts: npt.NDArray[np.integer]) -> None:
        """Store the places and everyone's density, by their train counts (I,); gains are 1.

        Args:
            coordinates: (I, 2), latitude and longitude in degrees, NaN where unknown.
            counts: (I,).
        """
        lat, lon = torch.deg2rad(coordinates.double()).unbind(1)  # (I,) each
        points = torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], 1)
        self.points.copy_(points.nan_to_num(0.0))
        visits = torch.as_tensor(counts / counts.sum(), dtype=torch.float32, device=self.everyone.device)
        self.everyone.copy_(self._near(visits[None])[0])
        self.gain.fill_(1.0)
