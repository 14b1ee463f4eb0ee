"""Facts of a catalogue that metrics beyond accuracy and re-rankers read: popularity, vectors, groups.

Groups and vectors are made of the items' categories where the data set has a feature ``genres`` or
``categories`` (texts, several separated by ``|``), else of the train interactions.

Letters: U users, I items, G groups, d size of an item's vector, r rank.
"""

from __future__ import annotations

from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from refit_env.data.dataset import Dataset
from refit_env.item_factors import item_factors

CATEGORIES = ("genres", "categories", "genre", "category")
"""Features of the items that hold their categories."""
HEAD = 0.8
"""Share of the train interactions that the head has; the other items are the long tail."""
RANK = 64
"""r, of the item vectors of data sets without categories."""
GROUPS = 20
"""G, of data sets without categories."""

Floats = npt.NDArray[np.float32]


class Catalogue:
    """What metrics beyond accuracy read of a data set; it is computed from the train split alone.

    Attributes:
        num_users: U.
        num_items: I.
        counts: (I,) train interactions of each item (of rows: of their targets).
    """

    def __init__(self, dataset: Dataset) -> None:
        """Count; the rest is computed when it is first read."""
        data = dataset.episodes
        self._train = data.train.csr
        self._features = data.item_features or {}
        self.num_users, self.num_items = data.num_users, data.num_items
        counted = getattr(data, "targets", data.train)
        self.counts = np.bincount(counted.items, minlength=self.num_items).astype(np.int64)

    @cached_property
    def tail(self) -> npt.NDArray[np.bool_]:
        """(I,) the long tail: all but the fewest items that have 80 % of the train interactions.

        Abdollahpouri, Burke and Mobasher (2019), arXiv 1901.07555; of equally popular items the lower ids
        come first.
        """
        order = np.argsort(-self.counts, kind="stable")
        before = np.cumsum(self.counts[order]) - self.counts[order]  # interactions of more popular items
        out = np.zeros(self.num_items, np.bool_)
        out[order] = before >= HEAD * self.counts.sum()
        return out

    @cached_property
    def activity(self) -> npt.NDArray[np.int64]:
        """(U,) train items of each user."""
        return np.asarray(self._train.getnnz(axis=1), np.int64)

    @cached_property
    def self_information(self) -> npt.NDArray[np.float64]:
        """(I,) -log2 of the share of interactions per user; an item without any counts as one's."""
        return -np.log2(np.maximum(self.counts, 1) / max(self.num_users, 1))

    @cached_property
    def popularity_rank(self) -> npt.NDArray[np.int64]:
        """(I,) 1 for the most popular item; ties by the lower id."""
        out = np.empty(self.num_items, np.int64)
        out[np.argsort(-self.counts, kind="stable")] = np.arange(1, self.num_items + 1)
        return out

    @cached_property
    def _categories(self) -> tuple[sp.csr_matrix, str] | None:
        """(I, G) 1 for each category of an item, and the feature's name; None without one."""
        name = next((name for name in CATEGORIES if name in self._features), None)
        if name is None:
            return None
        texts = [[part for part in str(value).split("|") if part] for value in self._features[name]]
        number = {part: n for n, part in enumerate(sorted({p for parts in texts for p in parts}))}
        if len(number) < 2:
            return None
        rows = np.repeat(np.arange(len(texts)), [len(parts) for parts in texts])
        columns = np.array([number[part] for parts in texts for part in parts], np.int64)
        shape = (self.num_items, len(number))
        return sp.csr_matrix((np.ones(rows.size, np.float32), (rows, columns)), shape), name

    @property
    def source(self) -> str:
        """What item vectors and groups are made of, for a report."""
        if self._categories is not None:
            return f"{self._categories[0].shape[1]} item {self._categories[1]}"
        return (
            f"no item categories: vectors are {self.vectors.shape[1]} factors of the train interactions, "
            f"groups are {self.groups.shape[1]} clusters of them"
        )

    @cached_property
    def vectors(self) -> Floats:
        """(I, d) vectors of length 1, of which products are similarities; 0 for an item without features.

        The categories; else the rows of V S of the truncated SVD U S V' of the train rows, whose cosines are
        those of the items' columns as far as r factors hold them.
        """
        if self._categories is not None:
            table = self._categories[0].toarray()
        else:
            rank = min(RANK, min(self._train.shape) - 1)
            if rank < 1:
                return np.zeros((self.num_items, 1), np.float32)
            factors = item_factors(self._train, rank)  # (I, r)
            table = factors * np.linalg.norm(self._train @ factors, axis=0)  # (I, r)
            table[self._train.getnnz(axis=0) == 0] = 0.0
        length = np.linalg.norm(table, axis=1, keepdims=True)
        return np.asarray(table / np.where(length > 0, length, 1.0), np.float32)

    @cached_property
    def groups(self) -> Floats:
        """(I, G) the share of each group in an item, rows sum to 1: p(g|i) of Steck (RecSys 2018)."""
        if self._categories is not None:
            table = self._categories[0].toarray()
            without = table.sum(1, keepdims=True) == 0  # (I, 1) uniform over the groups
            return np.asarray(
                np.where(without, 1 / table.shape[1], table / np.maximum(table.sum(1, keepdims=True), 1)),
                np.float32,
            )
        labels = clusters(self.vectors, min(GROUPS, self.num_items))
        return np.eye(int(labels.max()) + 1, dtype=np.float32)[labels]

    @cached_property
    def taste(self) -> Floats:
        """(U, G) the distribution of a user's train items over the groups; uniform without train items."""
        total = np.asarray(self._train @ self.groups, np.float32)  # (U, G)
        size = total.sum(1, keepdims=True)  # (U, 1)
        return np.asarray(np.where(size > 0, total / np.maximum(size, 1e-12), 1 / total.shape[1]), np.float32)


_KNOWN: WeakKeyDictionary[Dataset, Catalogue] = WeakKeyDictionary()


def catalogue_of(dataset: Dataset) -> Catalogue:
    """Return the catalogue of a data set; one for each data set that is in memory.

    Example:
        >>> from refit_env.data import load_dataset
        >>> data = load_dataset("synthetic")
        >>> catalogue_of(data) is catalogue_of(data.episodes), catalogue_of(data).groups.shape
        (True, (400, 20))
    """
    data = dataset.episodes
    if data not in _KNOWN:
        _KNOWN[data] = Catalogue(data)
    return _KNOWN[data]


def clusters(vectors: Floats, count: int, rounds: int = 20) -> npt.NDArray[np.int64]:
    """Return k-means labels (I,) of the rows of ``vectors`` (I, d); the start is deterministic.

    The first centre is the row nearest to the mean, each further one the row farthest from all before
    (Gonzalez, 1985). Labels are 0 to at most ``count`` - 1 without gaps; empty clusters are left out.

    Example:
        >>> clusters(np.array([[0.0, 0.0], [0.1, 0.0], [1.0, 1.0]], np.float32), 2).tolist()
        [0, 0, 1]
    """
    first = int(((vectors - vectors.mean(0)) ** 2).sum(1).argmin())
    chosen, distance = [first], ((vectors - vectors[first]) ** 2).sum(1)  # (I,)
    for _ in range(count - 1):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((vectors - vectors[chosen[-1]]) ** 2).sum(1))
    centres = vectors[chosen]  # (G, d)
    labels = np.zeros(len(vectors), np.int64)
    for _ in range(rounds):
        labels = ((centres**2).sum(1) - 2 * vectors @ centres.T).argmin(1)  # (I,)
        members = sp.csr_matrix((np.ones(len(labels), np.float32), (labels, np.arange(len(labels)))))
        sizes = members.getnnz(axis=1)  # (G,)
        full = np.flatnonzero(sizes)
        centres = centres.copy()
        centres[full] = (members @ vectors)[full] / sizes[full, None]
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)
