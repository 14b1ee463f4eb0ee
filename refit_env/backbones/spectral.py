"""The spectral denoiser: x0_hat(u) = u A f(S) B, a low-rank graph filter for catalogues of any size.

The train rows are normalised as in graph filtering (GF-CF, Shen et al., CIKM 2021), X~ = D_U^-a X D_I^-b, and
X~ = P S Q' is their truncated singular value decomposition. Then A = D_I^-b Q, B = Q' D_I^b, and f(S) is the
Wiener filter S^2 / (S^2 + l2) of a ridge regression restricted to the leading directions. The normalised
co-occurrences of each item with its nearest ones may be added, as in GF-CF (``neighborhood``), in units in
which they have the norm of the filter.

Letters: B users in a batch, I items (= D), U users, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from msgspec import Meta
from scipy.sparse.linalg import svds
from torch import Tensor, nn

from refit_env.backbones.closed_form import (
    ClosedForm,
    ClosedFormConfig,
    common_space,
    popularity_factor,
    score_space,
    terms_space,
)
from refit_env.backbones.cooccurrence import nearest_items
from refit_env.backbones.graphs import Latest
from refit_env.backbones.products import filled_columns, linear
from refit_env.data.dataset import Dataset
from refit_env.diffusion import Diffusion
from refit_env.settings import Share, Size
from refit_env.utils.content_cache import CACHE

Floats = npt.NDArray[np.float64]
SPARSE = 0.02
"""Share of a row's items above which the product with the nearest items is that of a sparse matrix."""


@dataclass(frozen=True)
class SpectralConfig(ClosedFormConfig):
    """The spectral denoiser's settings."""

    l2: Annotated[float, Meta(gt=0)] = 0.1
    """l2 of the Wiener filter; the singular values of normalised rows are in 0..1."""
    rank: Size = 256
    """r, number of leading directions."""
    user_power: Share = 0.5
    """a: a user's row is divided by its sum to this power."""
    item_power: Share = 0.5
    """b: an item's column is divided by its sum to this power; its scores are multiplied by the same."""
    neighbors: Size = 200
    """Nearest items of each item, whose co-occurrences are added."""


class SpectralDenoiser(ClosedForm):
    """Two matrices of I * r weights: from items to the leading directions, and back.

    With ``neighborhood`` there are also I * ``neighbors`` weights of item pairs.
    """

    name: ClassVar[str] = "spectral"
    config_class: ClassVar[type] = SpectralConfig
    config: SpectralConfig

    def __init__(self, num_items: int, config: SpectralConfig | None = None) -> None:
        """Build an unfitted denoiser, which predicts 0; ELBO training can start from it.

        Args:
            num_items: I.
            config: settings; None uses the defaults.
        """
        config = config if config is not None else SpectralConfig()
        super().__init__(num_items, config)
        rank = min(config.rank, num_items)
        self.into = nn.Parameter(torch.empty(num_items, rank).normal_(0.0, num_items**-0.5))
        self.out = nn.Parameter(torch.zeros(rank, num_items))
        self._again: Latest[Tensor] = Latest()
        shape = num_items, min(config.neighbors, num_items)
        self.near = _Nearest(*shape, config.nearest_of == "target") if config.neighborhood else None

    def forward(self, u: Tensor, timestep: int | Tensor) -> Tensor:
        """The clean rows (B, I) of ``u`` (B, I), the same at every step."""
        filtered = linear(linear(u, self.into.t()), self.out.t())
        return filtered if self.near is None else filtered + self.near(u)

    def denoise(self, u: Tensor, chain: Diffusion) -> Tensor | None:
        """Return u_0 (B, I) of the noise-free chain, with one product of the items' size instead of 2 T.

        A step's mean is a u + z B with a number a and z (B, r), if the one before is; at the last step a = 0.
        None with nearest items, which the directions do not contain.
        """
        if self.near is not None:
            return None
        first = self._directions(u)  # (B, r)
        again = self._again.get([self.into, self.out], lambda: self.out @ self.into)  # (r, r)
        share, latent = 1.0, torch.zeros_like(first)
        for k in reversed(range(chain.num_steps)):
            of_clean, of_noisy = float(chain.mean_x0[k]), float(chain.mean_u[k])
            latent = of_clean * (share * first + latent @ again) + of_noisy * latent  # (B, r)
            share *= of_noisy
        return latent @ self.out

    def _directions(self, u: Tensor) -> Tensor:
        """Return u A (B, r), by the items that ``u`` holds alone where these are few."""
        columns = None if torch.compiler.is_exporting() else filled_columns(u)
        return u @ self.into if columns is None else u[:, columns] @ self.into[columns]

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Raise an error for ids of nearest items out of range."""
        if self.near is not None:
            ids = state["near.ids"]
            if bool(((ids < 0) | (ids >= self.num_items)).any()):
                raise ValueError(f"near.ids holds ids outside 0..{self.num_items - 1}")

    @torch.no_grad()
    def fit(self, dataset: Dataset) -> None:
        """Decompose the normalised rows; directions beyond the rank of the matrix are 0."""
        data, config = dataset.episodes, self.config
        inputs, targets = self.training_pairs(data)
        scale = _inverse_power(inputs.sum(0), config.item_power)  # (I,)
        normal = sp.diags(_inverse_power(inputs.sum(1), config.user_power)) @ inputs @ sp.diags(scale)
        normal = sp.csr_matrix(normal, dtype=np.float64)
        into, out = _filter(normal, targets, min(config.rank, *(n - 1 for n in normal.shape)), config.l2)
        into = scale[:, None] * into
        if targets is None:  # rows are their own targets: undo the normalisation of the items
            out = out * np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        out = out * popularity_factor(data, config.score_power)
        width = into.shape[1]
        self.into.zero_()[:, :width] = torch.as_tensor(into, dtype=torch.float32)
        self.out.zero_()[:width] = torch.as_tensor(out, dtype=torch.float32)
        if self.near is not None:
            pairs = self.counted_pairs(data, inputs, targets)
            ids, values = nearest_items(*pairs, self.near.ids.shape[1], self.counting())
            factor = popularity_factor(data, config.score_power)  # (I,), of the targets
            values *= factor[:, None] if self.near.of_targets else factor[ids]
            size = ((self.into.T @ self.into) * (self.out @ self.out.T)).sum().clamp(min=0).sqrt()  # of A B
            share = float(size) * config.neighborhood / max(float(np.linalg.norm(values)), 1e-30)
            self.out.mul_(1.0 - config.neighborhood)
            self.near.ids.copy_(torch.as_tensor(ids))
            self.near.values.copy_(torch.as_tensor(values * share))

    @property
    def item_axes(self) -> dict[str, tuple[int, ...]] | None:
        """The items' factors of both matrices; None with nearest items, whose ids belong to one data set."""
        return {"into": (0,), "out": (1,)} if self.near is None else None

    @torch.no_grad()
    def start_new_items(self, dataset: Dataset) -> None:
        """Set all factors to 0: the directions of another decomposition are not those of the known items."""
        self.into.zero_()
        self.out.zero_()

    @classmethod
    def search_space(cls, dataset: Dataset) -> Mapping[str, tuple[Any, ...]]:
        """Return the space of the terms, values of rank, filter and normalisation, and the common space."""
        largest = min(dataset.num_users, dataset.num_items) - 1
        ranks = tuple(rank for rank in (64, 32, 16, 8, 128, 256, 512, 1024) if rank <= largest) or (largest,)
        terms = terms_space(dataset.episodes)
        terms.pop("repeat", None)
        terms |= {"nearest_of": ("input", "target"), "neighbors": (200, 100, 400)}
        terms |= common_space(dataset.episodes)
        return terms | {
            "rank": ranks,
            "l2": (0.1, 0.03, 0.3, 0.01, 1.0),
            "item_power": (0.5, 0.3, 0.7, 0.0),
            "user_power": (0.5, 0.0, 1.0),
            **score_space(),
        }


class _Nearest(nn.Module):
    """Weights between each item and its nearest ones.

    Attributes:
        ids: (I, n) int64, the nearest items of each item: its targets or, with ``of_targets``, the input
            items of which it is the target.
        values: (I, n), their weights.
        of_targets: whether rows are targets.
    """

    ids: Tensor

    def __init__(self, num_items: int, count: int, of_targets: bool = False) -> None:
        """Start with weights of 0."""
        super().__init__()
        self.of_targets = of_targets
        self.register_buffer("ids", torch.zeros(num_items, count, dtype=torch.int64))
        self.values = nn.Parameter(torch.zeros(num_items, count))
        self._runs: Latest[tuple[Tensor, Tensor]] = Latest()

    def forward(self, u: Tensor) -> Tensor:
        """Return the sums (B, I) of the weights of the items in ``u`` (B, I), each times its value in u."""
        if torch.compiler.is_exporting():  # sums of few items depend on the data
            matrix = torch.zeros(u.shape[1], u.shape[1]).scatter(1, self.ids, self.values)
            return u @ (matrix.T if self.of_targets else matrix)
        if int(u.count_nonzero()) > SPARSE * u.numel():
            return self._by_all(u)
        user, item = u.nonzero(as_tuple=True)  # (n,) each
        if self.of_targets:
            order, ends = self._runs.get([self.ids], self._by_input)
            length = ends[item + 1] - ends[item]  # (n,)
            user, of = user.repeat_interleave(length), item.repeat_interleave(length)  # (m,) each
            before = (length.cumsum(0) - length).repeat_interleave(length)  # (m,)
            pair = order[ends[of] + torch.arange(len(of), device=u.device) - before]  # (m,)
            weights = u[user, of] * self.values.reshape(-1)[pair]
            places = user * u.shape[1] + pair // self.ids.shape[1]
        else:
            weights = u[user, item][:, None] * self.values[item]  # (n, count)
            places = user[:, None] * u.shape[1] + self.ids[item]  # (n, count)
        flat = torch.zeros(u.numel(), dtype=weights.dtype, device=u.device)
        return flat.scatter_add(0, places.reshape(-1), weights.reshape(-1)).view_as(u)

    def _by_all(self, u: Tensor) -> Tensor:
        """Return the sums by a product with a sparse matrix (I, I) of targets and input items."""
        near, count = self.ids.reshape(-1), self.ids.shape[1]
        items = torch.arange(u.shape[1], device=u.device).repeat_interleave(count)  # (I * count,)
        places = torch.stack([items, near] if self.of_targets else [near, items])
        shape, values = (u.shape[1], u.shape[1]), self.values.reshape(-1)
        matrix = torch.sparse_coo_tensor(places, values, shape, check_invariants=False)
        product: Tensor = torch.sparse.mm(matrix, u.T).T
        return product

    def _by_input(self) -> tuple[Tensor, Tensor]:
        """Return the pairs (I * n,) in order of their input items, and where each item's begin (I + 1,)."""
        near = self.ids.reshape(-1)
        ends = torch.zeros(len(self.ids) + 1, dtype=torch.int64, device=near.device)
        ends[1:] = near.bincount(minlength=len(self.ids)).cumsum(0)
        return near.argsort(stable=True), ends


def _inverse_power(sums: Any, power: float) -> Floats:
    """Return the sums (n,) to the power ``-power``; 0 where a sum is 0."""
    flat = np.asarray(sums, np.float64).ravel()
    return np.power(flat, -power, out=np.zeros_like(flat), where=flat > 0)


def _filter(
    normal: sp.csr_matrix, targets: sp.csr_matrix | None, rank: int, l2: float
) -> tuple[Floats, Floats]:
    """Return ``into`` (I, r) and ``out`` (r, I) of the Wiener filter, or of a regression on ``targets``.

    The latter is the ridge regression restricted to the leading directions: Q (S^2 + l2)^-1 S P' Y.
    """
    start = np.random.default_rng(0).standard_normal(min(normal.shape))  # the same result in every process
    left, values, right = CACHE.get(
        "svd", (normal, rank), lambda: svds(normal, k=rank, v0=start)
    )  # (R, r), (r,), (r, I)
    order = np.argsort(-values, kind="stable")
    left, values, right = left[:, order], values[order], right[order]
    if targets is None:
        return right.T, (values**2 / (values**2 + l2))[:, None] * right
    return right.T, (values / (values**2 + l2))[:, None] * np.asarray((targets.T @ left).T)


PUBLISHED: dict[str, SpectralConfig] = {"": SpectralConfig()}
"""No configurations are published: ``refit pretrain`` chooses the settings on validation."""
