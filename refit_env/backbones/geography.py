"""Coordinates of places, the graph of nearby places, and graph convolutions on it.

Letters: B histories, L visits of each, D size of an embedding, I places, E directed pairs of nearby places.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn import functional

from refit_env.backbones.latest import Latest
from refit_env.data.dataset import Dataset
from refit_env.errors import DataError

EARTH_KM = 6371.0088
"""Mean radius of the Earth."""


def has_coordinates(dataset: Dataset) -> bool:
    """Return whether the items have the columns ``lat`` and ``lon``."""
    return {"lat", "lon"} <= set(dataset.item_features or ())


def coordinates_of(dataset: Dataset) -> Tensor:
    """Return latitude and longitude (I, 2) float32 in degrees; NaN where unknown.

    Raises:
        DataError: if the data set has no coordinates.
    """
    known = dataset.item_features or {}
    if not has_coordinates(dataset):
        raise DataError(
            f"{dataset.name!r} has no coordinates: items.parquet needs the columns 'lat' and 'lon' for the "
            "graph of nearby places. Backbones 'dreamrec' and 'diffrec' do not need them"
        )
    return torch.from_numpy(np.stack([known["lat"], known["lon"]], 1).astype(np.float32))


def kilometres(one: Tensor, other: Tensor) -> Tensor:
    """Return great-circle distances (...,) of places (..., 2) in degrees, by the haversine formula.

    Example:
        >>> equator = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> float(kilometres(equator[0], equator[1]).round(decimals=3))
        111.195
    """
    one, other = torch.deg2rad(one), torch.deg2rad(other)
    half = torch.sin((other - one) / 2).square()  # (..., 2)
    part = half[..., 0] + torch.cos(one[..., 0]) * torch.cos(other[..., 0]) * half[..., 1]
    return 2 * EARTH_KM * torch.asin(part.clamp(0, 1).sqrt())


def near_pairs(
    coordinates: npt.NDArray[np.floating[Any]], radius: float, nearest: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return pairs of different nearby places, each in both directions.

    Args:
        coordinates: (I, 2) degrees; places with NaN have no nearby places.
        radius: kilometres; as published, all pairs within it are nearby.
        nearest: keep a pair only if one place is among this many nearest of the other; 0 keeps all.

    Returns:
        Sources, targets (E,) int64, by target and then source, and kilometres (E,) float64.
    """
    places = np.flatnonzero(np.isfinite(coordinates).all(1))
    lat, lon = np.radians(coordinates[places].astype(np.float64)).T
    # points on the unit sphere
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)
    chord = 2 * np.sin(min(radius / EARTH_KM, np.pi) / 2)
    pairs = (
        cKDTree(points).query_pairs(chord, output_type="ndarray") if places.size else np.zeros((0, 2), int)
    )
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]  # (E, 2)
    across = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)  # (E,) chords
    if nearest:
        order = np.lexsort((pairs[:, 0], across, pairs[:, 1]))
        first = np.searchsorted(pairs[:, 1], pairs[:, 1])  # (E,) where each target's run begins
        chosen = np.zeros(len(pairs), np.bool_)
        chosen[order] = np.arange(len(pairs)) - first < nearest
        back = np.lexsort((pairs[:, 1], pairs[:, 0]))  # the same pair in the other direction
        kept = chosen.copy()
        kept[back] |= chosen
        pairs, across = pairs[kept], across[kept]
    return (
        places[pairs[:, 0]].astype(np.int64),
        places[pairs[:, 1]].astype(np.int64),
        2 * EARTH_KM * np.arcsin(np.minimum(across / 2, 1.0)),
    )


class PlaceGraph(nn.Module):
    """The coordinates of places, and the graph of nearby places, computed from them at its first use.

    Only the coordinates are state, so a checkpoint is small and needs no data. The graph is the symmetric
    sparse matrix exp(-d^2) / sqrt(deg_i deg_j), d in units of the radius, with each place its own neighbour
    at d = 0; degrees count neighbours. Coordinates are read as float32 for any type of the module, so that a
    network has the same graph in float32 and in float64.
    """

    coordinates: Tensor

    def __init__(self, num_items: int, radius: float, nearest: int) -> None:
        """Create ``num_items`` places without coordinates; for the other arguments see ``near_pairs``."""
        super().__init__()
        self.radius, self.nearest = radius, nearest
        self.register_buffer("coordinates", torch.full((num_items, 2), torch.nan))
        self._matrix: Latest[Tensor] = Latest()

    def kilometres(self, items: Tensor) -> Tensor:
        """Return the distance (B, L) float64 of each visited place from the previous one; 0 where unknown.

        Args:
            items: (B, L) int64 ids; I is padding.
        """
        there = functional.pad(self.coordinates.float().double(), (0, 0, 0, 1), value=torch.nan)[items]
        out = kilometres(there[:, 1:], there[:, :-1])  # (B, L - 1)
        return functional.pad(out.nan_to_num(0.0), (1, 0))

    def spread(self, x: Tensor) -> Tensor:
        """Return the graph's matrix times ``x`` (I, D)."""
        out: Tensor = _Symmetric.apply(self.matrix(x), x)  # type: ignore[no-untyped-call]
        return out

    def matrix(self, like: Tensor) -> Tensor:
        """Return the graph's matrix (I, I), sparse CSR with the dtype and device of ``like``."""
        kind = (like.device, like.dtype)
        return self._matrix.get([self.coordinates], lambda: self._make().to(*kind), kind)

    def _make(self) -> Tensor:
        count = self.coordinates.shape[0]
        own = np.arange(count)
        source, target, apart = near_pairs(self.coordinates.float().cpu().numpy(), self.radius, self.nearest)
        degree = np.bincount(target, minlength=count) + 1.0  # (I,)
        weight = np.exp(-np.square(apart / self.radius)) / np.sqrt(degree[source] * degree[target])  # (E,)
        place = np.stack([np.append(target, own), np.append(source, own)])
        values = torch.from_numpy(np.append(weight, 1.0 / degree))
        with warnings.catch_warnings():  # torch warns that CSR matrices are in beta
            warnings.simplefilter("ignore", UserWarning)
            return torch.sparse_coo_tensor(torch.from_numpy(place), values, (count, count)).to_sparse_csr()


class _Symmetric(torch.autograd.Function):
    """A symmetric sparse matrix times x; its derivative is the same product, without saved tensors."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, x: Tensor) -> Tensor:
        ctx.matrix = matrix
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, ctx.matrix @ gradients[0]


class GeoEncoder(nn.Module):
    """Diff-POI's graph convolutions over nearby places.

    Each layer is LeakyReLU(A x W); the result is the mean of the input and of all layers' outputs.
    """

    def __init__(self, size: int, layers: int) -> None:
        """Build ``layers`` layers for embeddings of ``size`` numbers."""
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size, size) for _ in range(layers))

    def forward(self, x: Tensor, graph: PlaceGraph) -> Tensor:
        """Return geographic embeddings (I, D) of places with embeddings ``x`` (I, D)."""
        found = [x]
        for layer in self.layers:
            found.append(functional.leaky_relu(layer(graph.spread(found[-1]))))
        return torch.stack(found).mean(0)
