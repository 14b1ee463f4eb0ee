"""Normalised co-occurrences of items, the second closed form of ``linear`` and ``spectral``.

The value of a pair is n_ij / (n_i^(1 - b) n_j^b + shrink), n_ij the weighted number of rows with i in the
input and j in the target. Between the items of one row this is item-kNN with all neighbours (Sarwar et al.,
WWW 2001; the balance b of Aiolli, RecSys 2013); from a history to its next item, with b = 0, it is the share
of transitions of a Markov chain (Ludewig and Jannach, UMUAI 2018, arXiv 1803.09587). With rows divided by
their sums it is the random walk of RP3 (Cooper et al., WWW 2014, with exponent 1).

Letters: U users, I items, R train rows, S sessions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from refit_env.data.dataset import Dataset, RowDataset

Floats = npt.NDArray[np.float32]
BLOCK = 1000
"""Items whose co-occurrences are in memory at a time."""


def cooccurrences(
    inputs: sp.csr_matrix,
    targets: sp.csr_matrix | None,
    shrink: float,
    balance: float,
    row_power: float = 0.0,
) -> Floats:
    """Return the normalised co-occurrences (I, I) of inputs and targets.

    Args:
        inputs: (R, I).
        targets: (R, I); None for the inputs themselves, with a zero diagonal.
        shrink: added to each denominator.
        balance: b, the exponent of the target's sum; 1 - b is that of the input's.
        row_power: an input row counts (its sum)^-row_power.

    Example:
        >>> rows = sp.csr_matrix([[1.0, 1.0], [1.0, 0.0]])
        >>> cooccurrences(rows, None, shrink=0.0, balance=0.0)
        array([[0. , 0.5],
               [1. , 0. ]], dtype=float32)
    """
    out = np.empty((inputs.shape[1], inputs.shape[1]), np.float32)
    for items, part in _blocks(inputs, targets, shrink, balance, row_power):
        out[items] = part
    return out


def nearest_items(
    inputs: sp.csr_matrix,
    targets: sp.csr_matrix | None,
    count: int,
    shrink: float,
    balance: float,
    row_power: float = 0.0,
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return each item's largest normalised co-occurrences: target ids and values, (I, count) each.

    Args:
        inputs: (R, I).
        targets: (R, I), or None, as for ``cooccurrences``.
        count: number of targets of an item, at most I.
        shrink: as for ``cooccurrences``.
        balance: as for ``cooccurrences``.
        row_power: as for ``cooccurrences``.

    Example:
        >>> rows = sp.csr_matrix([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
        >>> nearest_items(rows, None, 1, shrink=0.0, balance=0.0)[0].ravel()
        array([1, 0, 0])
    """
    size = inputs.shape[1]
    ids, values = np.empty((size, count), np.int64), np.empty((size, count), np.float32)
    for items, part in _blocks(inputs, targets, shrink, balance, row_power):
        ids[items] = np.argsort(-part, axis=1, kind="stable")[:, :count]
        values[items] = np.take_along_axis(part, ids[items], 1)
    return ids, values


def _blocks(
    inputs: sp.csr_matrix, targets: sp.csr_matrix | None, shrink: float, balance: float, row_power: float
) -> Iterator[tuple[slice, Floats]]:
    """Yield some input items, and their co-occurrences (n, I)."""
    after = inputs if targets is None else targets
    length = np.maximum(np.asarray(inputs.sum(1), np.float64).ravel(), 1e-12)  # (R,)
    before = sp.csr_matrix((sp.diags(length**-row_power) @ inputs).T, dtype=np.float64)  # (I, R)
    given, wanted = (np.asarray(part.sum(0), np.float64).ravel() for part in (inputs, after))  # (I,) each
    for first in range(0, len(given), BLOCK):
        items = slice(first, min(first + BLOCK, len(given)))
        part = (before[items] @ after).toarray()  # (n, I)
        denominator = np.outer(given[items] ** (1.0 - balance), wanted**balance) + shrink  # (n, I)
        np.divide(part, denominator, out=part, where=denominator > 0)
        if targets is None:
            part[np.arange(len(part)), np.arange(items.start, items.stop)] = 0.0
        yield items, part.astype(np.float32)


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
