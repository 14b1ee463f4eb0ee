"""Ridge regression on sparse rows.

The regression of each item on all others needs the inverse of a matrix of items by items. It is computed in
the memory of that matrix, in float32 for large catalogues: 40,000 items need 6.4 GB.

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

from refit_env.utils.memory import check_memory

DOUBLE = 10_000
"""Up to this many items a system is solved in float64, unless the caller chooses."""
BLOCK = 1024
"""Rows of a Gram matrix that are computed at a time."""


def ridge_weights(
    rows: sp.csr_matrix,
    l2: float,
    targets: sp.csr_matrix | None,
    device: torch.device | str,
    dtype: type[np.floating[Any]] | None = None,
) -> Tensor:
    """Solve a ridge regression; without targets, the regression of each item on all others (EASE).

    With at least as many rows as items the system is solved on the device; EASE in the memory of W.

    Args:
        rows: (R, I) inputs X.
        l2: factor of the squared weights, > 0.
        targets: (R, I) outputs Y; None for X itself with a zero diagonal (Steck, WWW 2019, Eq. 8).
        device: device of the result.
        dtype: precision of the solution; None is float64 up to 10,000 items, else float32, which needs half
            the memory.

    Returns:
        W (I, I) float32, such that X W predicts Y.

    Raises:
        ValueError: if ``l2`` is too small to solve the system in that precision, or the system does not fit
            into memory.

    Example:
        >>> ridge_weights(sp.csr_matrix([[1.0, 1.0], [1.0, 1.0]]), 1.0, None, "cpu")
        tensor([[0.0000, 0.6667],
                [0.6667, 0.0000]])
    """
    if dtype is None:
        dtype = np.float64 if rows.shape[1] <= DOUBLE else np.float32
    if rows.shape[0] < rows.shape[1]:
        weights = torch.as_tensor(regularised(rows, l2, targets, dtype), device=device)  # (I, I)
    elif targets is None:
        weights = inverse_of(rows, l2, device, dtype)
    else:
        weights = solution_of(rows, l2, targets, device, dtype)
    if targets is None:  # the columns of the inverse, divided by their diagonals, are the regressions
        weights /= -weights.diagonal().clone()
        weights.fill_diagonal_(0.0)
    return weights.float()


def inverse_of(
    rows: sp.csr_matrix, l2: float, device: torch.device | str, dtype: type[np.floating[Any]]
) -> Tensor:
    """Return (X^T X + l2)^-1 of rows X (R, I), (I, I), on the device.

    The Gram matrix becomes its factor, and the factor the inverse, in the same memory; the solver of a GPU
    needs as much again.

    Raises:
        ValueError: if ``l2`` is too small for that precision, or the system does not fit into memory.
    """
    factor = factor_of(rows, l2, device, dtype)
    torch.cholesky_inverse(factor.mT, out=factor.mT)
    return factor


def solution_of(
    rows: sp.csr_matrix,
    l2: float,
    targets: sp.csr_matrix,
    device: torch.device | str,
    dtype: type[np.floating[Any]],
) -> Tensor:
    """Return (X^T X + l2)^-1 X^T Y of rows X and targets Y (R, I), (I, I), on the device.

    Raises:
        ValueError: if ``l2`` is too small for that precision, or the system does not fit into memory.
    """
    factor = factor_of(rows, l2, device, dtype, copies=2)
    right = (rows.T @ targets).astype(dtype).toarray()
    return torch.cholesky_solve(torch.as_tensor(right, device=factor.device), factor.mT)


def factor_of(
    rows: sp.csr_matrix, l2: float, device: torch.device | str, dtype: type[np.floating[Any]], copies: int = 1
) -> Tensor:
    """Return F (I, I) on the device, whose transpose is the Cholesky factor of X^T X + l2.

    Args:
        rows: (R, I), X.
        l2: value added to the diagonal.
        device: of the factor.
        dtype: precision.
        copies: matrices of that size that the caller needs at a time; on a GPU the solver needs one more.

    Raises:
        ValueError: if ``l2`` is too small for that precision, or the system does not fit into memory.
    """
    device, size = torch.device(device), rows.shape[1]
    needed = (copies + (device.type != "cpu")) * np.dtype(dtype).itemsize * size**2
    check_memory(needed, device, f"a system of {size:,} equations in {np.dtype(dtype).name}")
    gram = gram_matrix(rows, device, dtype)
    least = smallest_l2(gram.sum(1).max().item(), dtype)
    refusal = l2_too_small(l2, size, dtype, least)
    if l2 < least:
        raise ValueError(refusal)
    gram.diagonal().add_(l2)
    failed = torch.empty(0, dtype=torch.int32, device=device)
    # The transposes are in the column order of the solvers, which therefore write into `gram` itself.
    torch.linalg.cholesky_ex(gram.mT, out=(gram.mT, failed))
    if bool(failed):  # before the inverse, which raises another error
        raise ValueError(refusal)
    return gram


def gram_matrix(rows: sp.csr_matrix, device: torch.device | str, dtype: type[np.floating[Any]]) -> Tensor:
    """Return X^T X of rows X (R, I), (I, I), computed some items at a time."""
    size, columns = rows.shape[1], sp.csr_matrix(rows.T)
    kind = torch.float64 if np.dtype(dtype) == np.float64 else torch.float32
    gram = torch.empty(size, size, dtype=kind, device=device)
    for first in range(0, size, BLOCK):
        part = (columns[first : first + BLOCK] @ rows).toarray()  # (BLOCK, I)
        gram[first : first + BLOCK] = torch.as_tensor(part, dtype=kind, device=device)
    return gram


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
    if rows.shape[0] >= rows.shape[1]:
        if targets is None:
            return inverse_of(rows, l2, "cpu", dtype).numpy()
        return solution_of(rows, l2, targets, "cpu", dtype).numpy()
    gram = (rows @ rows.T).astype(dtype).toarray()
    least = smallest_l2(gram.sum(1).max(), dtype)
    refusal = l2_too_small(l2, len(gram), dtype, least)
    if l2 < least:
        raise ValueError(refusal)
    gram[np.diag_indices_from(gram)] += l2
    try:
        factor = scipy.linalg.cho_factor(gram, overwrite_a=True, check_finite=False)
    except scipy.linalg.LinAlgError as error:
        raise ValueError(refusal) from error
    right = (rows if targets is None else targets).astype(dtype).toarray()
    solved = scipy.linalg.cho_solve(factor, right, overwrite_b=True, check_finite=False)
    product = np.asarray(rows.T.astype(dtype) @ solved)  # (I, I)
    if targets is None:
        product /= -l2
        product[np.diag_indices_from(product)] += 1.0 / l2
    return product


def smallest_l2(norm: float, dtype: type[np.floating[Any]]) -> float:
    """Return the l2 below which adding it to a Gram matrix of this norm is lost in rounding.

    Above it a factorisation may still fail because of rounding; ``regularised`` then raises an error.
    """
    return float(np.finfo(dtype).eps) * norm


def l2_too_small(l2: float, size: int, dtype: type[np.floating[Any]], least: float) -> str:
    """Return the message for an l2 that is too small: the value that was passed, and a sufficient one."""
    right = max(1.0, 10 * least)
    return f"l2={l2} is too small to solve {size} equations in {dtype.__name__}; use {right:.3g} or more"
