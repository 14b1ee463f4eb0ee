"""The base of closed-form denoisers: a fit without gradient steps, and a search space.

The best linear denoiser of an interaction row is a ridge regression, which has a closed form. Such a backbone
is a diffusion recommender like the others: it has a schedule, chains and gradients, and fine-tuning trains
its matrices.

Letters: B users in a batch, U users, I items (= D), R train rows, N interactions, T steps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from refit_env.backbones.closed_form_config import ClosedFormConfig
from refit_env.backbones.cooccurrence import Counting, check_near, item_sets, near_pairs
from refit_env.backbones.fold_in import FoldIn
from refit_env.backbones.geography import coordinates_of, has_coordinates
from refit_env.backbones.nearby_visits import NearbyVisits
from refit_env.backbones.row_denoiser import RowDenoiser, social_edges, weighted_rows
from refit_env.backbones.row_weights import friends_rows, split_rows
from refit_env.data.dataset import Dataset, RowDataset

SAMPLE = 500
"""Train rows by which scores of the factorisation and of the other terms are brought to the same units."""


class ClosedForm(RowDenoiser):
    """A denoiser whose weights ``fit`` computes in closed form.

    Attributes:
        factors: the matrix factorisation, with ``config.factorization``.
        nearby: the visits near each item, with ``config.places``.
        by_friends: (I,) factors of the items of friends, with ``config.friends``.
    """

    def __init__(self, num_items: int, config: ClosedFormConfig) -> None:
        """Store the settings; subclasses create the other weights."""
        super().__init__(num_items, config)
        size = config.embedding, config.unobserved
        self.factors = FoldIn(num_items, *size) if config.factorization else None
        self.nearby = NearbyVisits(num_items, config.places_scale) if config.places else None
        self.by_friends = nn.Parameter(torch.zeros(num_items)) if config.friends else None

    def forward(self, u: Tensor, timestep: int | Tensor, context: Tensor | None = None) -> Tensor:
        """Return the clean rows (B, I) of ``u`` (B, I), with the friends' items (B, I) for a context."""
        out = self.linear(u, timestep)  # (B, I)
        if self.factors is not None:
            out = (1.0 - self.config.factorization) * out + self.factors(u)
        if self.nearby is not None:
            out = out + self.nearby(u)
        return out if self.by_friends is None or context is None else out + self.by_friends * context

    @abstractmethod
    def linear(self, u: Tensor, timestep: int | Tensor) -> Tensor:
        """Return the clean rows (B, I) of ``u`` (B, I) without the factorisation."""

    @torch.no_grad()
    def fit_scores(self, data: Dataset, inputs: sp.csr_matrix) -> None:
        """Compute the terms that are not linear, in units of the linear ones, which are fitted.

        The units are those in which both have the same standard deviation over the items, in the mean over
        train rows.

        Args:
            data: the episodes.
            inputs: (R, I), of ``training_pairs``.

        Raises:
            ValueError: for ``places`` where the items have no coordinates.
        """
        config = self.config
        if self.factors is not None:
            self.factors.fit(item_sets(data), config.factorization_l2)
            self._to_units(self.factors, config.factorization, data, inputs)
        if self.nearby is not None:
            self._check_places(data)
            self.nearby.fit(coordinates_of(data), train_counts(data))
            self._to_units(self.nearby, config.places, data, inputs)
        if self.by_friends is not None:
            theirs = friends_rows(data.train, social_edges(data, config))  # (U, I)
            device, spread = self.by_friends.device, torch.ones(())
            rows, others = _sample(inputs, device), _sample(theirs, device)  # others: of users with friends
            if len(rows) and len(others) and self.num_items > 1:
                spread = self(rows, 0).std(1).mean() / others.std(1).mean()
            self.by_friends.copy_(config.friends * spread * self._popularity(data, device))

    def _to_units(
        self, term: FoldIn | NearbyVisits, share: float, data: Dataset, inputs: sp.csr_matrix
    ) -> None:
        """Set the gains of a term, so that it has ``share`` of the linear terms' standard deviation."""
        rows = _sample(inputs, term.gain.device)  # (n, I)
        spread = torch.ones(())
        if len(rows) and self.num_items > 1:  # else there is no deviation
            spread = self.linear(rows, 0).std(1).mean() / term(rows).std(1).mean().clamp(min=1e-30)
        term.gain.copy_(share * spread * self._popularity(data, term.gain.device))

    def _popularity(self, data: Dataset, device: torch.device) -> Tensor:
        """Return the factors (I,) of scores by ``config.score_power``."""
        return torch.as_tensor(popularity_factor(data, self.config.score_power), device=device)

    @property
    def score_axes(self) -> dict[str, tuple[int, ...]]:
        """The axes of items in the terms that are not linear."""
        factors = () if self.factors is None else ("factors.items", "factors.gain")
        nearby = () if self.nearby is None else ("nearby.points", "nearby.everyone", "nearby.gain")
        by_friends = () if self.by_friends is None else ("by_friends",)
        return dict.fromkeys((*factors, *nearby, *by_friends), (0,))

    def training_pairs(self, dataset: Dataset) -> tuple[sp.csr_matrix, sp.csr_matrix | None]:
        """Return what the closed form is fitted to.

        Args:
            dataset: users and their interactions.

        Returns:
            Inputs (R, I), and targets (R, I): the next item of each train row of a sequential set, the items
            of the row's future with ``targets="future"``; None where rows predict themselves.

        Raises:
            ValueError: if the settings depend on time and the rows are not sorted by time.
        """
        if isinstance(dataset, RowDataset):
            items = dataset.targets.items
            place = (np.arange(items.size), items)
            targets = sp.csr_matrix((np.ones(items.size, np.float32), place), (items.size, dataset.num_items))
            return weighted_rows(dataset, self.config)[dataset.rows_of("train")], targets
        if self.config.targets == "future":
            return self._future_pairs(dataset)
        return weighted_rows(dataset, self.config), None

    def _future_pairs(self, dataset: Dataset) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """Return (cuts * U, I) the rows before each point, and (cuts * U, I) the items after it."""
        config = self.config
        if not dataset.time_ordered:
            raise ValueError(
                f"targets='future' predicts later items from earlier ones; the rows of {dataset.name!r} are "
                "not sorted by time. Use targets='row'"
            )
        inputs, targets = [], []
        for cut in range(config.cuts):
            at = 0.5 + 0.5 * cut / config.cuts
            known, future = split_rows(dataset.train, at, at + config.window)
            scale = np.maximum(future.counts, 1).astype(np.float32) ** (-config.pair_power / 2)  # (U,)
            scale[future.counts == 0] = 0.0  # a row without a future says nothing about it
            inputs.append(sp.diags(scale) @ weighted_rows(replace(dataset, train=known), config))
            targets.append(sp.diags(scale) @ future.csr)
        return sp.csr_matrix(sp.vstack(inputs)), sp.csr_matrix(sp.vstack(targets))

    def check_can_fit(self, dataset: Dataset) -> None:
        """Refuse data that a setting needs more of: the order of time, or social edges.

        Raises:
            ValueError: naming the setting.
        """
        self.rows(dataset, self.config)
        self.training_pairs(dataset.episodes)
        self._check_places(dataset)
        self._check_near(dataset.episodes)

    def _check_places(self, data: Dataset) -> None:
        """Refuse ``places`` where the items have no coordinates."""
        if self.config.places and not has_coordinates(data):
            raise ValueError(
                f"places={self.config.places:g} scores items near those of the row; the items of "
                f"{data.name!r} have no columns 'lat' and 'lon'. Use places=0"
            )

    def _check_near(self, data: Dataset) -> None:
        """Refuse ``pairs="near"`` where rows have no order, or too many items are near each other."""
        if self.config.pairs != "near":
            return
        if isinstance(data, RowDataset) or not data.time_ordered:
            why = "has histories for rows" if isinstance(data, RowDataset) else "is not sorted by time"
            raise ValueError(
                "pairs='near' counts items that are near each other in a user's row; "
                f"{data.name!r} {why}. Use pairs='targets' or pairs='sets'"
            )
        check_near(data.train, self.config.reach)

    def counted_pairs(
        self, data: Dataset, inputs: sp.csr_matrix, targets: sp.csr_matrix | None
    ) -> tuple[sp.csr_matrix, sp.csr_matrix | None]:
        """Return the inputs and targets of the co-occurrences, by ``config.pairs``.

        Args:
            data: the episodes.
            inputs: (R, I), of ``training_pairs``.
            targets: (R, I), of ``training_pairs``.

        Raises:
            ValueError: for ``near`` if rows are not sorted by time, are histories, or hold too many pairs.
        """
        config = self.config
        self._check_near(data)
        if config.pairs == "near":
            return near_pairs(data.train, config.reach, config.gap_power)
        return (item_sets(data), None) if config.pairs == "sets" else (inputs, targets)

    def counting(self) -> Counting:
        """Return how the pairs of the co-occurrences are counted."""
        config = self.config
        of_targets = config.nearest_of == "target"
        return Counting(config.shrink, config.balance, config.row_power, config.count_power, of_targets)

    @abstractmethod
    def fit(self, dataset: Dataset) -> None:
        """Compute the weights from the train split of ``dataset``; for a sequential set, from its rows.

        Raises:
            ValueError: if the data set is too large for this backbone, or ``l2`` is too small.
        """

    @classmethod
    @abstractmethod
    def search_space(cls, dataset: Dataset) -> Mapping[str, tuple[Any, ...]]:
        """Return field -> values from which validation chooses; the search starts at the first ones."""


def _sample(matrix: sp.csr_matrix, device: torch.device) -> Tensor:
    """Return at most SAMPLE rows (n, I) float32 that are not empty, evenly spaced."""
    filled = np.flatnonzero(np.diff(matrix.indptr))  # (R',)
    chosen = filled[np.linspace(0, len(filled) - 1, min(len(filled), SAMPLE)).astype(np.int64)]
    return torch.as_tensor(matrix[chosen].toarray(), dtype=torch.float32, device=device)


def popularity_factor(dataset: Dataset, power: float) -> npt.NDArray[np.float64]:
    """Return the factors (I,) of scores: (train count / mean count) ^ -power, with counts of at least 1."""
    counts = train_counts(dataset)  # (I,)
    return np.asarray((counts / counts.mean()) ** -power, np.float64)


def train_counts(dataset: Dataset) -> npt.NDArray[np.int64]:
    """Return the number of train interactions (I,) of each item, at least 1; of rows, of their targets."""
    items = dataset.targets.items if isinstance(dataset, RowDataset) else dataset.train.items
    return np.maximum(np.bincount(items, minlength=dataset.num_items), 1)
