"""The base of closed-form denoisers: weighted rows, a fit without gradient steps, a search space.

The best linear denoiser of an interaction row is a ridge regression, which has a closed form. Such a backbone
is a diffusion recommender like the others: it has a schedule, chains and gradients, and fine-tuning trains
its matrices.

Letters: B users in a batch, U users, I items (= D), R train rows, N interactions, T steps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from msgspec import Meta
from torch import Tensor, nn

from refit_env.backbones.base import Backbone, Condition, Lookup
from refit_env.backbones.cooccurrence import Counting, check_near, item_sets, near_pairs
from refit_env.backbones.fold_in import FoldIn
from refit_env.backbones.geography import coordinates_of, has_coordinates
from refit_env.backbones.nearby_visits import NearbyVisits
from refit_env.backbones.noise_schedule import LinearVariance
from refit_env.backbones.row_weights import (
    Weigh,
    friends_rows,
    history_rows,
    reciprocal,
    reciprocal_weights,
    rising,
    rising_weights,
    split_rows,
)
from refit_env.data.dataset import Dataset, RowDataset
from refit_env.data.rows import SparseRows
from refit_env.settings import Nonnegative, OneOf, Share, Size

RECENCY = ("none", "rising", "reciprocal")
"""Names for ``ClosedFormConfig.recency``."""
TARGETS = ("row", "future")
"""Values of ``ClosedFormConfig.targets``."""
REPEATS = ("latest", "sum")
"""Values of ``ClosedFormConfig.repeats``."""
PAIRS = ("targets", "sets", "near")
"""Values of ``ClosedFormConfig.pairs``."""
SAMPLE = 500
"""Train rows by which scores of the factorisation and of the other terms are brought to the same units."""


@dataclass(frozen=True)
class ClosedFormConfig(LinearVariance):
    """Settings of rows, scores and schedule of every closed-form denoiser."""

    l2: Annotated[float, Meta(gt=0)] = 500.0
    """Factor of the squared weights in the ridge regression: the assumed variance of the noise."""
    recency: Annotated[str, OneOf(RECENCY)] = "none"
    """Weights of a user's items in u_T: ``none``, ones; ``rising``, from ``oldest`` to 1 in order of time, as
    in T-DiffRec; ``reciprocal``, 1 / b for the b-th latest."""
    oldest: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """With ``rising``: weight of the oldest item in u_T."""
    decay: Annotated[float, Meta(gt=0, le=4)] = 1.0
    """With ``reciprocal``: the power of 1 / b."""
    repeats: Annotated[str, OneOf(REPEATS)] = "latest"
    """Weight in u_T of an item that is several times in a history: ``latest``, of its latest position;
    ``sum``, of all its positions."""
    friends: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """Weight of the items that a user's friends have, in units of equal standard deviations; needs social
    edges. They are the context of the denoiser, see ``friends_rows``."""
    targets: Annotated[str, OneOf(TARGETS)] = "row"
    """What the regression predicts. ``row``: each item from the others of its row, as EASE. ``future``: from
    the items before a point of the row, those after it; the rows must be sorted by time. Sequential and
    check-in sets have their own target, the next item, and ignore this."""
    cuts: Annotated[int, Meta(ge=1, le=50)] = 5
    """With ``future``: points in each row, evenly spaced from its middle on."""
    window: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """With ``future``: the share of the row after a point that is predicted."""
    pair_power: Share = 0.0
    """With ``future``: the error at a point is divided by (items to predict)^pair_power, so that long rows
    do not outweigh short ones."""
    neighborhood: Share = 0.0
    """Share of the normalised co-occurrences in the sum, the rest is the regression: 1 is item-kNN, RP3beta
    or a Markov chain."""
    pairs: Annotated[str, OneOf(PAIRS)] = "targets"
    """Which co-occurrences: ``targets``, of the regression's inputs and targets; ``sets``, of any two items
    of a user or session; ``near``, of two items that are near each other in a row, which must be sorted by
    time. Sequential and check-in sets have no ``near``: their inputs are histories, and ``recency`` weights
    them by the distance from the target."""
    reach: Annotated[int, Meta(ge=1, le=1000)] = 40
    """With ``pairs="near"``: places between two items that are counted."""
    gap_power: Annotated[float, Meta(ge=0, le=4)] = 0.5
    """With ``pairs="near"``: two items g places from each other count g^-gap_power."""
    nearest_of: Annotated[str, OneOf(("input", "target"))] = "input"
    """Whose ``neighbors`` largest co-occurrences are kept: of each ``input`` item, as RP3beta, or of each
    ``target`` item, as item-kNN."""
    shrink: Nonnegative = 10.0
    """Added to the denominator of a co-occurrence: those of rare items count less."""
    balance: Share = 0.5
    """Share of the target item in the exponents of the counts in that denominator; the input has the rest."""
    count_power: Annotated[float, Meta(ge=0, le=5)] = 1.0
    """Sum of both exponents: 0 divides by no count, above 1 popular items count less."""
    row_power: Annotated[float, Meta(ge=0, le=5)] = 0.0
    """An input row counts (its sum)^-row_power in the co-occurrences: long rows count less."""
    factorization: Share = 0.0
    """Share of a matrix factorisation in the sum, iALS, into which each row is folded; the rest are the other
    terms."""
    embedding: Size = 64
    """With ``factorization``: size of an item's embedding."""
    unobserved: Annotated[float, Meta(gt=0)] = 0.1
    """With ``factorization``: weight of every pair, observed or not, beside the 1 of an observed one."""
    factorization_l2: Annotated[float, Meta(gt=0, le=1e12)] = 0.1
    """With ``factorization``: weight of the squared embeddings."""
    places: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """Weight of the visits near each item, in units of equal standard deviations; the items need the columns
    ``lat`` and ``lon``."""
    places_scale: Annotated[float, Meta(ge=1e-3, le=1e4)] = 0.3
    """With ``places``: kilometres over which nearness falls to 1 / e."""
    score_power: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    """An item's scores are divided by (its train count / the mean count) to this power: above 0, less
    popular items are recommended more."""


class RowDenoiser(Backbone):
    """A denoiser of weighted rows; a closed form computes all its weights, or those from which it starts.

    Attributes:
        config: its settings, which determine the fit.
    """

    tasks: ClassVar[tuple[str, ...]] = ("cf", "sequential", "social", "poi")
    config: ClosedFormConfig

    def __init__(self, num_items: int, config: ClosedFormConfig) -> None:
        """Store the settings; subclasses create the weights."""
        super().__init__()
        self.config = config
        self.num_items = self.dim = num_items
        self.diffusion = config.diffusion()

    @classmethod
    def rows(cls, dataset: Dataset, config: ClosedFormConfig) -> sp.csr_matrix:
        """Return the rows (U, I) for u_T: the train rows, weighted by ``config``.

        Raises:
            ValueError: if the weights depend on time and the rows are not sorted by time, or if there are no
                social edges for ``config.friends``.
        """
        if config.friends:
            _social(dataset, config)
        return weighted_rows(dataset, config)

    @classmethod
    def contexts(cls, dataset: Dataset, config: Any, device: torch.device | str) -> Lookup | None:
        """Return the function users (B,) -> the friends' items (B, I); None without ``config.friends``."""
        if not config.friends:
            return None
        return SparseRows(friends_rows(dataset.train, _social(dataset, config)), device).dense

    @classmethod
    def context_bounds(cls, num_items: int, config: Any) -> tuple[float, float, int] | None:
        """Return the bounds and the number of the friends' items; None without ``config.friends``."""
        return (0.0, 1.0, num_items) if config.friends else None

    def shown(self, dataset: Dataset, device: torch.device | str) -> Lookup:
        """Return the function users (B,) -> u_T (B, I), with the context (B, I) beside it if there is one."""
        own, context = super().shown(dataset, device), self.contexts(dataset, self.config, device)
        return own if context is None else lambda users: torch.cat([own(users), context(users)], 1)

    def initial_state(self, users: Tensor, shown: Tensor) -> Tensor:
        """Return the rows (B, I) of ``shown``."""
        return shown[:, : self.num_items]

    def context(self, users: Tensor, shown: Tensor) -> Tensor | None:
        """Return the context (B, C) of ``shown``, if there is one; rows alone are those without friends."""
        return shown[:, self.num_items :] if shown.shape[1] > self.num_items else None

    def show(self, histories: Tensor) -> Tensor:
        """Return rows (B, I) of histories, weighted by ``config.recency`` and ``config.repeats``.

        With ``config.friends`` the context (B, I) of people without friends is beside them.
        """
        config = self.config
        weigh: dict[str, Weigh | None] = {
            "none": None,
            "rising": lambda place, count: rising(place, count, config.oldest, 1.0),
            "reciprocal": lambda place, count: reciprocal(place, count, config.decay),
        }
        rows = history_rows(histories, self.num_items, weigh[config.recency], config.repeats)
        return torch.cat([rows, torch.zeros_like(rows)], 1) if config.friends else rows

    def predict_x0(self, u: Tensor, timestep: int | Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the clean rows (B, I) from ``u`` (B, I)."""
        context = None if condition is None else condition.value
        out: Tensor = self(u, timestep, context)  # called as a module: the work of training is counted there
        return out

    def elbo_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the mean squared error of the denoised rows at uniformly drawn steps, a scalar.

        The items of friends have no part in it: rows are denoised, not completed.

        Args:
            shown: (B, I) rows that are noised; the context (B, C) after them, if there is one.
            target: (B, I) prediction targets.
            generator: random generator of the steps and the noise.
        """
        row, context = shown[:, : self.num_items], shown[:, self.num_items :]
        k = torch.randint(self.diffusion.num_steps, (len(row),), generator=generator, device=row.device)
        noise = torch.randn(row.shape, generator=generator, device=row.device)
        condition = self.encode(context) if context.shape[1] else None
        out = self.predict_x0(self.diffusion.q_sample(row, k, noise), k, condition)  # (B, I)
        return (target - out).square().mean()


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
            theirs = friends_rows(data.train, _social(data, config))  # (U, I)
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


def _social(dataset: Dataset, config: ClosedFormConfig) -> npt.NDArray[np.int32]:
    """Return the social edges (S, 2) that ``config.friends`` needs.

    Raises:
        ValueError: if the data set has none, or its users are sessions or visits.
    """
    if dataset.social is None or dataset.has_rows or isinstance(dataset, RowDataset):
        raise ValueError(
            f"friends={config.friends:g} adds the items of a user's friends; {dataset.name!r} has no social "
            "edges. Use friends=0"
        )
    return dataset.social


def _sample(matrix: sp.csr_matrix, device: torch.device) -> Tensor:
    """Return at most SAMPLE rows (n, I) float32 that are not empty, evenly spaced."""
    filled = np.flatnonzero(np.diff(matrix.indptr))  # (R',)
    chosen = filled[np.linspace(0, len(filled) - 1, min(len(filled), SAMPLE)).astype(np.int64)]
    return torch.as_tensor(matrix[chosen].toarray(), dtype=torch.float32, device=device)


def weighted_rows(dataset: Dataset, config: ClosedFormConfig) -> sp.csr_matrix:
    """Return the train rows (U, I), weighted by ``config.recency`` and ``config.repeats``.

    Raises:
        ValueError: if the weights depend on time and the rows are not sorted by time.
    """
    if config.recency == "none":
        return reciprocal_weights(dataset.train, 0.0, config.repeats)
    if not dataset.time_ordered:
        raise ValueError(
            f"recency={config.recency!r} weights items by their time; the rows of {dataset.name!r} are "
            "not sorted by time. Use recency='none'"
        )
    if config.recency == "reciprocal":
        return reciprocal_weights(dataset.train, config.decay, config.repeats)
    return rising_weights(dataset.train, config.oldest, 1.0, config.repeats)


def popularity_factor(dataset: Dataset, power: float) -> npt.NDArray[np.float64]:
    """Return the factors (I,) of scores: (train count / mean count) ^ -power, with counts of at least 1."""
    counts = train_counts(dataset)  # (I,)
    return np.asarray((counts / counts.mean()) ** -power, np.float64)


def train_counts(dataset: Dataset) -> npt.NDArray[np.int64]:
    """Return the number of train interactions (I,) of each item, at least 1; of rows, of their targets."""
    items = dataset.targets.items if isinstance(dataset, RowDataset) else dataset.train.items
    return np.maximum(np.bincount(items, minlength=dataset.num_items), 1)
