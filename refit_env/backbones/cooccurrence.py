"""Normalised co-occurrences of items, the second closed form of ``linear`` and ``spectral``.

The value of a pair is n_ij / ((n_i^(1 - b) n_j^b)^p + shrink), n_ij the weighted number of rows with i in the
input and j in the target. Between the items of one row this is item-kNN (Sarwar et al., WWW 2001; the balance
b of Aiolli, RecSys 2013); from a history to its next item, with b = 0, it is the share of transitions of a
Markov chain (Ludewig and Jannach, UMUAI 2018, arXiv 1803.09587). With rows divided by their sums to a power
it is a random walk: RP3beta (Paudel et al., ACM TiiS 2017) has (1 - b) p = row_power = alpha and b p = beta.

Letters: U users, I items, R train rows, S sessions, n items of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from refit_env.data.dataset import Dataset, RowDataset
from refit_env.data.interactions import Interactions
from refit_env.utils.content_cache import CACHE
from refit_env.utils.sparse_rows import largest_of_rows

Floats = npt.NDArray[np.float32]
BLOCK = 1000
"""Items whose co-occurrences are in memory at a time."""
KEPT = 5000
"""Most items of a catalogue whose counts are cached: a search of the other settings counts once."""
MOST_NEAR = 50_000_000
"""Most pairs of near items that are counted: 2 GB of memory."""


@dataclass(frozen=True)
class Counting:
    """How pairs are counted and divided."""

    shrink: float = 0.0
    """Added to each denominator."""
    balance: float = 0.5
    """b, the target's share of the exponents in the denominator."""
    row_power: float = 0.0
    """An input row counts (its sum)^-row_power."""
    count_power: float = 1.0
    """p, the sum of both exponents."""
    of_targets: bool = False
    """Keep the nearest input items of each target, as item-kNN, instead of the nearest targets of each
    input item, as RP3beta."""


def cooccurrences(
    inputs: sp.csr_matrix, targets: sp.csr_matrix | None, counting: Counting, nearest: int | None = None
) -> Floats:
    """Return the normalised co-occurrences (I, I) of inputs and targets.

    Args:
        inputs: (R, I).
        targets: (R, I); None for the inputs themselves, with a zero diagonal.
        counting: how pairs are counted.
        nearest: number of the largest values of an item that are kept; None keeps all.

    Example:
        >>> rows = sp.csr_matrix([[1.0, 1.0], [1.0, 0.0]])
        >>> cooccurrences(rows, None, Counting(balance=0.0))
        array([[0. , 0.5],
               [1. , 0. ]], dtype=float32)
    """
    out = np.empty((inputs.shape[1], inputs.shape[1]), np.float32)
    by_item = out.T if counting.of_targets else out  # the same values
    for items, part in _blocks(inputs, targets, counting):
        by_item[items] = (part if nearest is None else largest_of_rows(part, nearest)).toarray()
    return out


def nearest_items(
    inputs: sp.csr_matrix, targets: sp.csr_matrix | None, count: int, counting: Counting
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return each item's largest normalised co-occurrences: ids and values, (I, count) each.

    The ids of an input item are those of targets; with ``of_targets``, those of a target are input items.
    An item with fewer co-occurrences has further items, each with the value 0; no id is there twice.

    Args:
        inputs: (R, I).
        targets: (R, I), or None, as for ``cooccurrences``.
        count: number of nearest items of an item, at most I.
        counting: how pairs are counted.

    Example:
        >>> rows = sp.csr_matrix([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
        >>> nearest_items(rows, None, 1, Counting(balance=0.0))[0].ravel()
        array([1, 0, 0])
    """
    size = inputs.shape[1]
    ids, values = np.empty((size, count), np.int64), np.zeros((size, count), np.float32)
    for items, part in _blocks(inputs, targets, counting):
        part = largest_of_rows(part, count)
        part.eliminate_zeros()
        for row, item in enumerate(range(items.start, items.stop)):
            stored = slice(part.indptr[row], part.indptr[row + 1])
            order = np.argsort(-part.data[stored], kind="stable")
            found = part.indices[stored][order]
            other = np.ones(min(count + found.size, size), bool)
            other[found[found < other.size]] = False
            ids[item] = np.concatenate([found, np.flatnonzero(other)[: count - found.size]])
            values[item, : found.size] = part.data[stored][order]
    return ids, values


def _blocks(
    inputs: sp.csr_matrix, targets: sp.csr_matrix | None, counting: Counting
) -> Iterator[tuple[slice, sp.csr_matrix]]:
    """Yield some items, and their co-occurrences (n, I): input items, or targets with ``of_targets``."""
    after = inputs if targets is None else targets
    given, wanted = (np.asarray(part.sum(0), np.float64).ravel() for part in (inputs, after))  # (I,) each
    given = given ** ((1.0 - counting.balance) * counting.count_power)
    wanted = wanted ** (counting.balance * counting.count_power)
    own, other = (wanted, given) if counting.of_targets else (given, wanted)
    for items, counts in _counted(inputs, targets, counting.row_power, counting.of_targets):
        row = np.repeat(np.arange(items.start, items.stop), np.diff(counts.indptr))  # of each stored value
        denominator = own[row] * other[counts.indices] + counting.shrink
        values = np.divide(counts.data, denominator, where=denominator > 0, out=counts.data.copy())
        if targets is None:
            values[counts.indices == row] = 0.0
        stored = values.astype(np.float32), counts.indices, counts.indptr
        yield items, sp.csr_matrix(stored, shape=counts.shape)


def _counted(
    inputs: sp.csr_matrix, targets: sp.csr_matrix | None, row_power: float, of_targets: bool
) -> list[tuple[slice, sp.csr_matrix]] | Iterator[tuple[slice, sp.csr_matrix]]:
    """Return some items and their counts (n, I) with each other item, block by block."""
    parts = (inputs, targets, row_power, of_targets)
    if inputs.shape[1] > KEPT:
        return _count(*parts)
    return CACHE.get("cooccurrences", parts, lambda: list(_count(*parts)))


def _count(
    inputs: sp.csr_matrix, targets: sp.csr_matrix | None, row_power: float, of_targets: bool
) -> Iterator[tuple[slice, sp.csr_matrix]]:
    """Count the pairs of some input items at a time."""
    after = inputs if targets is None else targets
    length = np.maximum(np.asarray(inputs.sum(1), np.float64).ravel(), 1e-12)  # (R,)
    weighted = sp.csr_matrix(sp.diags(length**-row_power) @ inputs, dtype=np.float64)  # (R, I)
    own, other = (after, weighted) if of_targets else (weighted, after)
    before = sp.csr_matrix(own.T, dtype=np.float64)  # (I, R)
    for first in range(0, inputs.shape[1], BLOCK):
        items = slice(first, min(first + BLOCK, inputs.shape[1]))
        yield items, sp.csr_matrix(before[items] @ other).sorted_indices()


def item_sets(dataset: Dataset) -> sp.csr_matrix:
    """Return the sets of train items as ones: of each user (U, I), or of each session (S, I) of rows.

    A session's set holds the histories and the targets of its train rows.
    """
    if not isinstance(dataset, RowDataset):
        return dataset.train.csr
    train = dataset.rows_of("train")
    session = np.unique(dataset.sessions[train], return_inverse=True)[1]  # (R,)
    shown = dataset.history[train] < dataset.num_items  # (R, L)
    row = np.concatenate([np.repeat(session, shown.sum(1)), session])
    item = np.concatenate([dataset.history[train][shown], dataset.targets.items])
    shape = (int(session.max()) + 1, dataset.num_items)
    out = sp.csr_matrix((np.ones(row.size, np.float32), (row, item)), shape=shape)
    out.sum_duplicates()
    out.data[:] = 1.0
    return out


def near_pairs(train: Interactions, reach: int, power: float) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Return each interaction's neighbours in its user's row, and the interaction itself: (N, I) each.

    Their product counts the items that are near each other, as sequential rules do (Ludewig and Jannach,
    UMUAI 2018, arXiv 1803.09587), in both directions.

    Args:
        train: the interactions, each user's oldest first.
        reach: places between two items that are counted.
        power: a neighbour g places before or after weighs g^-power.

    Raises:
        ValueError: if there are more than ``MOST_NEAR`` pairs.

    Example:
        >>> rows = Interactions.from_pairs([0, 0, 0], [2, 0, 1], num_users=1, num_items=3)
        >>> near, own = near_pairs(rows, reach=2, power=1.0)
        >>> (near.T @ own).toarray()
        array([[0. , 1. , 1. ],
               [1. , 0. , 0.5],
               [1. , 0.5, 0. ]], dtype=float32)
    """
    check_near(train, reach)
    size, shape = len(train), (len(train), train.num_items)
    before, after = _sides(train, reach)
    neighbours = before + after  # (N,)
    ends = np.concatenate([[0], np.cumsum(neighbours)])  # (N + 1,)
    event = np.repeat(np.arange(size, dtype=np.int32), neighbours)  # (pairs,) as the next ones
    offset = (np.arange(ends[-1]) - (ends[:-1] + before)[event]).astype(np.int32)
    offset[offset >= 0] += 1  # an interaction is not its own neighbour
    weight = np.abs(offset).astype(np.float32) ** np.float32(-power)
    near = sp.csr_matrix((weight, train.items[event + offset], ends), shape=shape)
    own = sp.csr_matrix((np.ones(size, np.float32), train.items, np.arange(size + 1)), shape=shape)
    return near, own


def check_near(train: Interactions, reach: int) -> None:
    """Check that the pairs of ``near_pairs`` fit in memory.

    Raises:
        ValueError: if there are more than ``MOST_NEAR``.
    """
    if (pairs := near_count(train, reach)) > MOST_NEAR:
        raise ValueError(
            f"pairs='near' with reach={reach} counts {pairs:,} pairs of items; at most {MOST_NEAR:,} fit in "
            "memory. Use a smaller reach, or pairs='sets'"
        )


def near_count(train: Interactions, reach: int) -> int:
    """Return the number of pairs that ``near_pairs`` counts, without counting them one by one.

    Example:
        >>> near_count(Interactions.from_pairs([0, 0, 0], [2, 0, 1], num_users=1, num_items=3), reach=1)
        4
    """
    before, after = _sides(train, reach)
    return int(before.sum() + after.sum())


def _sides(train: Interactions, reach: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the numbers of neighbours (N,) before and after each interaction."""
    place = train.places
    return np.minimum(place, reach), np.minimum(train.counts[train.users] - 1 - place, reach)
