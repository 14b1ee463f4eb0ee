"""The linear denoiser: x0_hat(u, k) = u W, or u W + b, where W is a ridge regression in closed form.

Without noise in u this is EASE (Steck, WWW 2019, arXiv 1905.03375): the l2 of the regression is the assumed
variance of the noise. With ``each_step`` the noise of the schedule's step k is added to it: W_k minimises
E |x - (sqrt(abar_k) x + sqrt(1 - abar_k) eps) W_k|^2 + l2 |W_k|^2.

Two further matrices may be added, each in units in which it has the norm of W: the normalised co-occurrences
of items (``neighborhood``) and the identity (``repeat``), with which what a user had before ranks high again;
so may the scores of a matrix factorisation into which the row is folded (``factorization``), and the visits
near each item (``places``).

Letters: B users in a batch, I items (= D), R train rows, S = 1 matrix or T of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import scipy.sparse as sp
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from refit_env.backbones.closed_form import ClosedForm, popularity_factor, train_counts
from refit_env.backbones.closed_form_config import ClosedFormConfig
from refit_env.backbones.closed_form_spaces import common_space, last_space, terms_space
from refit_env.backbones.cooccurrence import cooccurrences
from refit_env.data.dataset import Dataset, RowDataset
from refit_env.utils.content_cache import CACHE
from refit_env.utils.content_cache import LARGE as CACHED
from refit_env.utils.ridge import ridge_weights

LARGEST = 25_000
"""Most items: a float32 matrix of that size has 2.5 GB, and training needs several of them."""
MOST_NEIGHBORS = 10_000
"""Most co-occurrences of an item that are added: all, but in the largest catalogues."""
SPARSE = 0.02
"""Share of a row's items below which the sparse product is the faster one."""
LARGE = 1_000
"""Number of items above which products with few items of a row are computed from these items alone."""


@dataclass(frozen=True)
class LinearConfig(ClosedFormConfig):
    """The linear denoiser's settings."""

    each_step: bool = False
    """Solve one matrix for each of the ``num_steps`` steps instead of one for all."""
    popularity_penalty: Annotated[float, Meta(ge=-1e3, le=1e3)] = 0.0
    """Weight of log(train count), which is subtracted from an item's score: x0_hat = u W + b with
    b = -popularity_penalty * log(count). Fine-tuning trains b, too. 0: no b."""
    neighbors: Annotated[int, Meta(ge=1, le=MOST_NEIGHBORS)] = MOST_NEIGHBORS
    """With ``neighborhood``: number of an item's largest co-occurrences that are added."""
    repeat: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """Factor of the identity in the sum, for sequential and check-in sets, whose lists may hold items of the
    history; it has no effect in others."""


class LinearDenoiser(ClosedForm):
    """A matrix of I^2 weights, with a zero diagonal where rows are their own targets."""

    name: ClassVar[str] = "linear"
    config_class: ClassVar[type] = LinearConfig
    config: LinearConfig

    def __init__(self, num_items: int, config: LinearConfig | None = None) -> None:
        """Build an unfitted denoiser, whose weights are 0.

        Args:
            num_items: I, at most 25,000.
            config: settings; None uses the defaults.

        Raises:
            ValueError: for a larger catalogue or an invalid setting.
        """
        config = config if config is not None else LinearConfig()
        super().__init__(num_items, config)
        if num_items > LARGEST:
            raise ValueError(
                f"backbone 'linear' has a matrix of items by items: {num_items} are more than {LARGEST}; "
                "use 'spectral'"
            )
        count = config.num_steps if config.each_step else 1
        self.weight = nn.Parameter(torch.zeros(count, num_items, num_items))
        penalised = config.popularity_penalty != 0
        self.bias = nn.Parameter(torch.zeros(num_items)) if penalised else None  # (I,)

    def linear(self, u: Tensor, timestep: int | Tensor) -> Tensor:
        """Return the clean rows (B, I) of ``u`` (B, I): u W_k + b."""
        clean = self._of_step(u, timestep)  # (B, I)
        return clean if self.bias is None else clean + self.bias

    def _of_step(self, u: Tensor, timestep: int | Tensor) -> Tensor:
        """Return u W_k (B, I)."""
        if len(self.weight) == 1:
            return self._times(u, self.weight[0])
        if isinstance(timestep, int):
            return u @ self.weight[timestep]
        out = torch.empty_like(u)
        for k in timestep.unique().tolist():
            chosen = timestep == k  # (B,)
            out[chosen] = u[chosen] @ self.weight[k]
        return out

    def _times(self, u: Tensor, weight: Tensor) -> Tensor:
        """Return u W; where ``u`` holds few items, and needs no gradient itself, by these items alone."""
        differentiated = u.requires_grad and torch.is_grad_enabled()
        if self.num_items <= LARGE or differentiated or torch.compiler.is_exporting():
            return u @ weight
        if int(u.count_nonzero()) >= SPARSE * u.numel():
            return u @ weight
        row, item = u.nonzero(as_tuple=True)  # (n,) each
        starts = torch.searchsorted(row, torch.arange(len(u), device=u.device))  # (B,)
        product: Tensor = embedding_bag(
            item, weight, starts, mode="sum", per_sample_weights=u[row, item].to(weight.dtype)
        )
        return product

    @torch.no_grad()
    def fit(self, dataset: Dataset) -> None:
        """Compute W, or each W_k, add the co-occurrences and the identity, and compute b.

        Raises:
            ValueError: if ``l2`` is too small for the precision.
        """
        data = dataset.episodes
        inputs, targets = self.training_pairs(data)
        factor = torch.as_tensor(popularity_factor(data, self.config.score_power), dtype=torch.float32)
        factor = factor.to(self.weight.device)
        for k, weight in enumerate(self.weight):
            abar = float(self.diffusion.abar[k]) if self.config.each_step else 1.0
            noise = inputs.shape[0] * (1.0 - abar)
            weight.copy_(_ridge(inputs, (noise + self.config.l2) / abar, targets, weight.device))
            self._add_terms(weight, data, inputs, targets)
            weight.mul_(factor / abar**0.5)
        if self.bias is not None:
            counts = torch.as_tensor(train_counts(data)).log()  # (I,)
            self.bias.copy_(-self.config.popularity_penalty * counts)
        self.fit_scores(data, inputs)

    def _add_terms(
        self, weight: Tensor, data: Dataset, inputs: sp.csr_matrix, targets: sp.csr_matrix | None
    ) -> None:
        """Add the co-occurrences and the identity to the regression ``weight`` (I, I), in place."""
        config, size = self.config, weight.norm()
        if config.neighborhood:
            counted = self.counted_pairs(data, inputs, targets)
            pairs = cooccurrences(*counted, self.counting(), config.neighbors)
            other = torch.as_tensor(pairs, dtype=weight.dtype, device=weight.device)
            scale = config.neighborhood * size / other.norm().clamp(min=1e-30)
            weight.mul_(1.0 - config.neighborhood).add_(other.mul_(scale))
        if config.repeat:
            weight.diagonal().add_(config.repeat * size / self.num_items**0.5)

    @property
    def item_axes(self) -> dict[str, tuple[int, ...]]:
        """Rows and columns of each matrix; the numbers of b; the items' embeddings and their factors."""
        out: dict[str, tuple[int, ...]] = {"weight": (1, 2)} | ({} if self.bias is None else {"bias": (0,)})
        return out | self.score_axes

    @torch.no_grad()
    def start_new_items(self, dataset: Dataset) -> None:
        """Fit the matrix: rows and columns of new items are those of the closed form on ``dataset``.

        Their embeddings are 0: those of another factorisation have other directions.
        """
        self.fit(dataset)
        if self.factors is not None:
            self.factors.items.zero_()

    @classmethod
    def search_space(cls, dataset: Dataset) -> Mapping[str, tuple[Any, ...]]:
        """Return the space of the terms, values of l2 in factors of about two, and the common space."""
        data = dataset.episodes
        few = (100.0, 30.0, 300.0, 10.0, 1000.0, 3000.0)
        many = (500.0, 200.0, 1000.0, 100.0, 2000.0, 50.0, 4000.0, 20.0, 10000.0)
        nearest = {"neighbors": (MOST_NEIGHBORS, 400, 200, 100), "nearest_of": ("input", "target")}
        space = terms_space(data) | nearest | common_space(data)
        return space | {"l2": few if isinstance(data, RowDataset) else many, **last_space(data)}


def _ridge(inputs: sp.csr_matrix, l2: float, targets: sp.csr_matrix | None, device: torch.device) -> Tensor:
    """Return the ridge regression W (I, I); a search of the other terms computes it once."""

    def make() -> Tensor:
        return ridge_weights(inputs, l2, targets, device)

    return CACHE.get(
        "ridge", (inputs, l2, targets, str(device)), make, size=CACHED
    )  # treated as large: one at a time


PUBLISHED: dict[str, LinearConfig] = {"": LinearConfig()}
"""No configurations are published: ``refit pretrain`` chooses the settings on validation."""
