"""Ridge regression on sparse rows.

Letters: R rows, I items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse as sp
import torch
from torch import Tensor


def ridge_weights(
    rows: sp.csr_matrix,
    l2: float,
    targets: sp.csr_matrix | None,
    device: torch.device | str,
    dtype: type[np.floating[Any]] = np.float64,
) -> Tensor:
    """Solve a ridge regression; without targets, the regression of each item on all others (EASE).

    Args:
        rows: (R, I) inputs X.
        l2: factor of the squared weights, > 0.
        targets: (R, I) outputs Y; None for X itself with a zero diagonal (Steck, WWW 2019, Eq. 8).
        device: device of the result.
        dtype: precision of the solution; float32 needs half the memory, for large catalogues.

    Returns:
        W (I, I) float32, such that X W predicts Y.

    Raises:
        ValueError: if ``l2`` is too small to solve the system in that precision.

    Example:
        >>> ridge_weights(sp.csr_matrix([[1.0, 1.0], [1.0, 1.0]]), 1.0, None, "cpu")
        tensor([[0.0000, 0.6667],
                [0.6667, 0.0000]])
    """
    weights = regularised(rows, l2, targets, dtype)
    if targets is None:  # the columns of the inverse, divided by their diagonals, are the regressions
        weights /= -np.diag(weights).copy()
        weights[np.diag_indices_from(weights)] = 0.0
    return torch.as_tensor(weights, dtype=torch.float32, device=device)


def regularised(
    rows: sp.csr_matrix,
    l2: float,
    targets: sp.csr_matrix | None,
    dtype: type[np.floating[Any]] = np.float64,
) -> npt.NDArray[Any]:
    """Return (X^T X + l2)^-1, or with targets (X^T X + l2)^-1 X^T Y, both (I, I).

    With fewer rows than items, a system of R unknowns is solved, with G = (X X^T + l2)^-1:
    (X^T X + l2)^-1 X^T = X^T G, and (X^T X + l2)^-1 = (1 - X^T G X) / l2.

    Args:
        rows: (R, I), X.
        l2: value added to the diagonal.
        targets: (R, I), Y, or None.
        dtype: precision of the system.

    Raises:
        ValueError: if ``l2`` is too small for that precision.
    """
    few, items = rows.shape
    by_rows = few < items
    gram = (rows @ rows.T if by_rows else rows.T @ rows).astype(dtype).toarray()
    least = smallest_l2(gram.sum(1).max(), dtype)
    refusal = l2_too_small(l2, len(gram), dtype, least)
    if l2 < least:
        raise ValueError(refusal)
    gram[np.diag_indices_from(gram)] += l2
    try:
        factor = scipy.linalg.cho_factor(gram, overwrite_a=True, check_finite=False)
    except scipy.linalg.LinAlgError as error:
        raise ValueError(refusal) from error
    if by_rows:
        right = (rows if targets is None else targets).astype(dtype).toarray()
        solved = scipy.linalg.cho_solve(factor, right, overwrite_b=True, check_finite=False)
        product = np.asarray(rows.T.astype(dtype) @ solved)  # (I, I)
        if targets is not None:
            return product
        product /= -l2
        product[np.diag_indices_from(product)] += 1.0 / l2
        return product
    right = np.eye(items, dtype=dtype) if targets is None else (rows.T @ targets).astype(dtype).toarray()
    return np.asarray(scipy.linalg.cho_solve(factor, right, overwrite_b=True, check_finite=False))


def smallest_l2(norm: float, dtype: type[np.floating[Any]]) -> float:
    """Return the l2 below which adding it to a Gram matrix of this norm is lost in rounding.

    Above it a factorisation may still fail because of rounding; ``regularised`` then raises an error.
    """
    return float(np.finfo(dtype).eps) * norm


def l2_too_small(l2: float, size: int, dtype: type[np.floating[Any]], least: float) -> str:
    """Return the message for an l2 that is too small: the value that was passed, and a sufficient one."""
    right = max(1.0, 10 * least)
    return f"l2={l2} is too small to solve {size} equations in {dtype.__name__}; use {right:.3g} or more"
