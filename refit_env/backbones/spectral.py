"""The spectral denoiser: x0_hat(u) = u A f(S) B, a low-rank graph filter for catalogues of any size.

The train rows are normalised as in graph filtering (GF-CF, Shen et al., CIKM 2021), X~ = D_U^-a X D_I^-b, and
X~ = P S Q' is their truncated singular value decomposition. Then A = D_I^-b Q, B = Q' D_I^b, and f(S) is the
Wiener filter S^2 / (S^2 + l2) of a ridge regression restricted to the leading directions. The normalised
co-occurrences of each item with its nearest ones may be added, as in GF-CF (``neighborhood``), and so may the
ridge regression of each item on its nearest ones (``regression``), each in units in which it has the norm of
the filter, the scores of a matrix factorisation into which the row is folded (``factorization``), and the
visits near each item (``places``).

Letters: B users in a batch, I items (= D), U users, r rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from msgspec import Meta
from scipy.sparse.linalg import svds
from torch import Tensor, nn

from refit_env.backbones import products
from refit_env.backbones.closed_form import ClosedForm, popularity_factor, train_counts
from refit_env.backbones.closed_form_config import ClosedFormConfig
from refit_env.backbones.closed_form_spaces import common_space, last_space, terms_space
from refit_env.backbones.cooccurrence import nearest_items
from refit_env.backbones.few_values import few_values
from refit_env.backbones.geography import coordinates_of
from refit_env.backbones.latest import Latest
from refit_env.backbones.nearest_items import NearestItems, nearest_regressions
from refit_env.data.dataset import Dataset
from refit_env.diffusion import Diffusion
from refit_env.settings import Share, Size
from refit_env.utils.content_cache import CACHE

Floats = npt.NDArray[np.float64]


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
    regression: Share = 0.0
    """Share of each item's ridge regression on its nearest ones in the sum; the rest is the filter with the
    co-occurrences."""
    regressors: Annotated[int, Meta(ge=1, le=1000)] = 100
    """With ``regression``: number of an item's nearest ones, by the co-occurrences' settings."""
    regression_l2: Annotated[float, Meta(gt=0)] = 30.0
    """With ``regression``: its l2."""


class SpectralDenoiser(ClosedForm):
    """Two matrices of I * r weights: from items to the leading directions, and back.

    With ``neighborhood`` there are also I * ``neighbors`` weights of item pairs, with ``regression``
    I * ``regressors``.
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
        near, few = min(config.neighbors, num_items), min(config.regressors, num_items)
        of_targets = config.nearest_of == "target"
        self.near = NearestItems(num_items, near, of_targets) if config.neighborhood else None
        self.regressed = NearestItems(num_items, few, of_targets=True) if config.regression else None

    def linear(self, u: Tensor, timestep: int | Tensor) -> Tensor:
        """Return the clean rows (B, I) of ``u`` (B, I), the same at every step."""
        filtered = products.linear(products.linear(u, self.into.t()), self.out.t())
        for _, part in self._pairs():
            filtered = filtered + part(u)
        return filtered

    def _pairs(self) -> Iterator[tuple[str, NearestItems]]:
        """Yield name and module of the weights of item pairs."""
        if self.near is not None:
            yield "near", self.near
        if self.regressed is not None:
            yield "regressed", self.regressed

    def denoise(self, u: Tensor, chain: Diffusion) -> Tensor | None:
        """Return u_0 (B, I) of the noise-free chain, with one product of the items' size instead of 2 T.

        A step's mean is a u + z B with a number a and z (B, r), if the one before is; at the last step a = 0.
        None with other terms, which the directions do not contain.
        """
        others = self.factors, self.nearby, self.by_friends
        if any(self._pairs()) or any(term is not None for term in others):
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
        """Return u A (B, r), by the values of ``u`` alone where these are few."""
        few = None if torch.compiler.is_exporting() else few_values(u)
        return u @ self.into if few is None else few.times(self.into)

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Raise an error for ids of nearest items out of range."""
        for name, part in self._pairs():
            part.check_ids(state[f"{name}.ids"], f"{name}.ids")

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
        if any(self._pairs()):
            size = ((self.into.T @ self.into) * (self.out @ self.out.T)).sum().clamp(min=0).sqrt()  # of A B
            self.out.mul_((1.0 - config.neighborhood) * (1.0 - config.regression))
            self._add_pairs(data, inputs, targets, float(size))
        self.fit_scores(data, inputs)

    def _add_pairs(
        self, data: Dataset, inputs: sp.csr_matrix, targets: sp.csr_matrix | None, size: float
    ) -> None:
        """Compute the weights of item pairs, whose norms are shares of ``size``."""
        config, counting = self.config, self.counting()
        factor = popularity_factor(data, config.score_power)  # (I,), of the targets
        if self.near is not None:
            pairs = self.counted_pairs(data, inputs, targets)
            found = nearest_items(*pairs, self.near.ids.shape[1], counting)
            self.near.set_weights(*found, factor, size * config.neighborhood * (1.0 - config.regression))
        if self.regressed is not None:
            few, nearest = self.regressed.ids.shape[1], replace(counting, of_targets=True)
            found = nearest_regressions(inputs, targets, few, config.regression_l2, nearest)
            self.regressed.set_weights(*found, factor, size * config.regression)

    @property
    def item_axes(self) -> dict[str, tuple[int, ...]]:
        """The items' factors of all matrices."""
        return {"into": (0,), "out": (1,), **self.score_axes}

    @torch.no_grad()
    def start_new_items(self, dataset: Dataset) -> None:
        """Set all factors to 0: the directions of another decomposition are not those of the known items.

        Weights of item pairs are those of the closed form on ``dataset``.
        """
        if self.by_friends is not None or any(self._pairs()):
            self.fit(dataset)
        self.into.zero_()
        self.out.zero_()
        if self.factors is not None:
            self.factors.items.zero_()
        if self.nearby is not None:
            self.nearby.fit(coordinates_of(dataset), train_counts(dataset.episodes))

    @classmethod
    def search_space(cls, dataset: Dataset) -> Mapping[str, tuple[Any, ...]]:
        """Return the space of the terms, values of rank, filter and normalisation, and the common space."""
        largest = max(1, min(dataset.num_users, dataset.num_items) - 1)
        ranks = tuple(rank for rank in (64, 32, 16, 8, 128, 256, 512, 1024) if rank <= largest) or (largest,)
        terms = terms_space(dataset.episodes)
        terms.pop("repeat", None)
        terms |= {"nearest_of": ("input", "target"), "neighbors": (200, 100, 400)}
        terms |= common_space(dataset.episodes)
        return terms | {
            "regression": (0.0, 0.3, 0.5, 0.7, 0.9),
            "regression_l2": (30.0, 10.0, 100.0, 300.0),
            "regressors": (100, 50, 200),
            "rank": ranks,
            "l2": (0.1, 0.03, 0.3, 0.01, 1.0),
            "item_power": (0.5, 0.3, 0.7, 0.0),
            "user_power": (0.5, 0.0, 1.0),
            **last_space(dataset.episodes),
        }


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
    left, values, right = CACHE.get("svd", (normal, rank), lambda: _leading(normal, rank))
    order = np.argsort(-values, kind="stable")
    left, values, right = left[:, order], values[order], right[order]
    if targets is None:
        return right.T, (values**2 / (values**2 + l2))[:, None] * right
    return right.T, (values / (values**2 + l2))[:, None] * np.asarray((targets.T @ left).T)


def _leading(normal: sp.csr_matrix, rank: int) -> tuple[Floats, Floats, Floats]:
    """Return the leading singular vectors and values (R, r), (r,), (r, I); of one row or item the only ones.

    Example:
        >>> [part.shape for part in _leading(sp.csr_matrix([[3.0, 0.0, 4.0]]), 0)]
        [(1, 1), (1,), (1, 3)]
    """
    if min(normal.shape) == 1:
        left, values, right = np.linalg.svd(normal.toarray(), full_matrices=False)
        return left, values, right
    if not normal.nnz:
        return np.zeros((normal.shape[0], rank)), np.zeros(rank), np.zeros((rank, normal.shape[1]))
    start = np.random.default_rng(0).standard_normal(min(normal.shape))  # the same result in every process
    left, values, right = svds(normal, k=rank, v0=start)
    return left, np.asarray(values, np.float64), right


PUBLISHED: dict[str, SpectralConfig] = {"": SpectralConfig()}
"""No configurations are published: ``refit pretrain`` chooses the settings on validation."""
