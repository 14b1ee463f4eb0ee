"""EASE in closed form: from a system of items, or of users where they are fewer.

EASE predicts x (I - P diag(1 / diag P)) for a row x, with P = (X^T X + l2)^-1 of the train rows X. P has
I^2 numbers, but l2 P = I - X^T G X with G = (X X^T + l2)^-1 needs only U^2, so that the row of a user u, less
its hidden part h, times P is (G_u + h X^T G / l2) X - h / l2.

The regression of next items T on rows X without one row x follows from that with it: the row's own target t
has the weight h = x P x^T in the prediction x W, and without the row it is (x W - h t) / (1 - h) (the
leave-one-out identity of linear smoothers; Hastie, Tibshirani and Friedman, Elements of Statistical Learning,
Eq. 7.64).

Letters: B users in the batch, I items, U users of the data set, R train rows, G (U, U), W = (I, I) weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional

from refit_env.data.rows import SparseRows
from refit_env.utils.ridge import inverse_of, l2_too_small, regularised, smallest_l2


class Regression(ABC):
    """A fitted model that predicts the items of rows that were set before."""

    @abstractmethod
    def predict(self, users: Tensor) -> Tensor:
        """Return the predictions (B, I) float32 of every item for the rows of ``users`` (B,) int64."""


class ByItems(Regression):
    """A row times W."""

    def __init__(self, weights: Tensor, visible: sp.csr_matrix) -> None:
        """``weights`` (I, I) float32, and the rows (U, I) to predict from."""
        self.weights = weights
        self._rows = SparseRows(visible, weights.device)

    def predict(self, users: Tensor) -> Tensor:
        """Return each row's weights, summed in the order of its items."""
        return times(self._rows, users, self.weights)


class WithoutItself(Regression):
    """A model of next items that predicts each row of the fit as if it were not in the fit."""

    def __init__(self, model: Regression, targets: Tensor, shares: Tensor) -> None:
        """The model, and the next item and h of every row (U,): h is 0 for rows that are not in the fit."""
        self.model = model
        self._targets, self._shares = targets, shares

    def predict(self, users: Tensor) -> Tensor:
        """(x W - h t) / (1 - h)."""
        share = self._shares[users][:, None]  # (B, 1)
        found = self.model.predict(users)  # (B, I)
        return found.scatter_add(1, self._targets[users][:, None], -share) / (1.0 - share)


class ByUsers(Regression):
    """The same model without W: memory U^2, and time B for each stored value of X.

    The prediction of a row without a hidden part needs its row of G only.
    """

    def __init__(self, fitted: Dual, visible: sp.csr_matrix) -> None:
        """The fit to X, and the visible part (U, I) of X."""
        self.fitted = fitted
        rest = sp.csr_matrix(fitted.rows - visible)
        rest.eliminate_zeros()
        self._rest = rest if rest.nnz else None
        self._visible = SparseRows(visible, fitted.inverse.device)

    def predict(self, users: Tensor) -> Tensor:
        """Return the visible row, less that row times P over P's diagonal."""
        fitted = self.fitted
        by_user = fitted.inverse[users]  # (B, U)
        rest = None if self._rest is None else self._rest[users.cpu().numpy()]  # (B, I) h
        each = torch.arange(users.numel(), device=users.device)
        if rest is not None:
            shared = SparseRows(sp.csr_matrix(rest @ fitted.rows.T), users.device)  # (B, U)
            by_user += times(shared, each, fitted.inverse) / fitted.l2
        # In float64, so that a row's predictions do not depend on the rest of its batch.
        # Contiguous, because a sparse sum over strided columns is five times slower.
        product = (fitted.transposed @ by_user.T.double().contiguous()).T.float()  # (B, I)
        if rest is not None:
            product -= SparseRows(rest, users.device).dense(each) / fitted.l2
        return self._visible.dense(users) - product / fitted.diagonal


class Dual:
    """The fit of ``ByUsers`` to the train rows, for any visible part of them.

    Attributes:
        rows: (U, I) float64, X.
        transposed: (I, U) sparse float64.
        inverse: (U, U) float32, G.
        diagonal: (I,) float32, that of P.
        l2: weight of the squared weights.
    """

    def __init__(self, rows: sp.csr_matrix, l2: float, device: torch.device) -> None:
        """Solve, in float32, which is exact enough unless l2 is tiny.

        Raises:
            ValueError: if it is too small for float32, or the system does not fit into memory.
        """
        self.rows, self.l2 = rows, l2
        self.transposed = on(sp.csr_matrix(rows.T), device)
        self.inverse = inverse_of(sp.csr_matrix(rows.T), l2, device, np.float32)
        self.diagonal = (1.0 - self._within()) / l2
        if not bool((self.diagonal > 0).all()):
            norm = float((rows @ (rows.T @ np.ones(rows.shape[0]))).max())
            least = smallest_l2(norm, np.float32)
            raise ValueError(l2_too_small(l2, rows.shape[0], np.float32, least))

    def _within(self) -> Tensor:
        """(I,) x_i^T G x_i of each column x_i of X."""
        columns, device = sp.csc_matrix(self.rows), self.inverse.device
        out = torch.zeros(columns.shape[1], device=device)
        users = torch.as_tensor(columns.indices, dtype=torch.int64, device=device)
        # No value leaves the device in the loop: the host must not wait for a GPU at each item.
        for item, who in enumerate(users.split(np.diff(columns.indptr).tolist())):
            out[item] = self.inverse[who[:, None], who].sum(dtype=torch.float64)
        return out


def leverages(rows: sp.csr_matrix, l2: float) -> npt.NDArray[np.float64]:
    """Return the weight h = x P x^T (R,) of the own target of each row x in a fit to ``rows`` (R, I).

    Raises:
        ValueError: if ``l2`` is too small for float64.
    """
    few, items = rows.shape
    if few < items:  # X P X^T = 1 - l2 (X X^T + l2)^-1
        return 1.0 - l2 * np.diag(regularised(sp.csr_matrix(rows.T), l2, None))
    inverse = regularised(rows, l2, None)
    out = np.zeros(few)
    for row in range(few):  # from its few items: a product of all rows would have I columns
        kept = slice(rows.indptr[row], rows.indptr[row + 1])
        column, value = rows.indices[kept], rows.data[kept]
        out[row] = value @ inverse[np.ix_(column, column)] @ value
    return out


def times(rows: SparseRows, users: Tensor, table: Tensor) -> Tensor:
    """Return the rows of ``users`` (B,) times ``table`` (I, C), each row's sum in the order of its items."""
    _, column, value = rows.entries(users)  # (n,) each
    counts = rows.counts(users)
    first = torch.cumsum(counts, 0) - counts  # (B,)
    weights = value.to(table.dtype)
    return functional.embedding_bag(column, table, first, mode="sum", per_sample_weights=weights)


def on(matrix: sp.csr_matrix, device: torch.device) -> Tensor:
    """Convert a SciPy matrix to a sparse tensor."""
    entries = matrix.tocoo()
    places = torch.as_tensor(np.stack([entries.row, entries.col]), dtype=torch.int64)
    made = torch.sparse_coo_tensor(
        places, torch.as_tensor(entries.data), matrix.shape, check_invariants=False
    )
    return made.coalesce().to(device)
