"""Alternating least squares of implicit feedback: the half steps, and factors of the items.

Users W and items H minimise sum_(u,i) in X (w_u h_i - 1)^2 + alpha0 sum_(u,i) (w_u h_i)^2
+ l2 (sum_u q_u |w_u|^2 + sum_i q_i |h_i|^2), q_u = (n_u + alpha0 I)^nu and q_i = (n_i + alpha0 U)^nu (Hu et
al., ICDM 2008; the regularisation of Rendle et al., RecSys 2022, arXiv 2110.14037, Eq. 3 to 5, whose l2 is
scaled so that nu does not change its size on average). Each half step solves a system a user (an item).

Letters: U users, I items, N rows, M columns, d size of an embedding, b rows solved at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

CELLS = {"cpu": 2**20, "cuda": 2**24}
"""Numbers that the gathered embeddings of some rows may have, by device; few stay in the cache."""
SINGULAR: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
"""The error of a system that cannot be solved."""


@dataclass(frozen=True)
class LeastSquares:
    """What is minimised."""

    unobserved: float
    """alpha0, the weight of every pair, observed or not, beside the 1 of an observed one."""
    l2: float
    """Weight of the squared embeddings."""
    frequency: float = 1.0
    """nu: 0 regularises all equally, 1 in proportion to the interactions."""

    def weights(self, counts: npt.NDArray[np.integer], columns: int) -> npt.NDArray[np.float64]:
        """Return (n + alpha0 M)^nu of rows (N,) with ``counts`` n of ``columns`` M."""
        return np.asarray((counts + self.unobserved * columns) ** self.frequency, np.float64)

    def scale(self, counts: npt.NDArray[np.integer], columns: int) -> float:
        """Return the number that makes ridges of the ``weights`` of rows."""
        return float(self.l2 * counts.mean() / self.weights(counts, columns).mean())


def alternate(
    rows: sp.csr_matrix,
    size: int,
    problem: LeastSquares,
    epochs: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Return the embeddings of users (U, d) and items (I, d).

    Args:
        rows: (U, I) of ones.
        size: d.
        problem: what is minimised.
        epochs: number of iterations over users and items.
        generator: of the items' first embeddings.
        device: of the embeddings.
    """
    columns = sp.csr_matrix(rows.T)
    items = torch.randn(rows.shape[1], size, generator=generator, device=generator.device)  # (I, d)
    items = items.to(device) / size**0.5 * 0.1
    users = torch.zeros(rows.shape[0], size, device=device)  # (U, d)
    for _ in range(epochs):
        users = solve(rows, items, problem)
        items = solve(columns, users, problem)
    return users, items


def solve(rows: sp.csr_matrix, others: Tensor, problem: LeastSquares) -> Tensor:
    """Return the least-squares embeddings (N, d) of ``rows`` (N, M), given those of the columns (M, d).

    Raises:
        ValueError: if ``l2`` is too small to solve the systems in that precision.
    """
    device, size = others.device, others.shape[1]
    counts = np.diff(rows.indptr)
    weights = problem.weights(counts, rows.shape[1])  # (N,)
    ridge = torch.as_tensor(problem.scale(counts, rows.shape[1]) * weights, dtype=others.dtype)
    common = problem.unobserved * others.T @ others  # (d, d)
    out = torch.zeros(rows.shape[0], size, dtype=others.dtype, device=device)
    order = np.argsort(counts, kind="stable")  # rows of similar length together, with little padding
    eye = torch.eye(size, dtype=others.dtype, device=device)
    padded = torch.cat([others, others.new_zeros(1, size)])  # (M + 1, d)
    most = max(CELLS.get(device.type, 2**20) // size, 1)
    first = 0
    while first < order.size:
        last = _end(np.maximum(counts[order], size), first, most)
        ids = order[first:last]  # (b,)
        columns = _columns(rows, ids)  # (b, n)
        known = padded[torch.as_tensor(columns, device=device)]  # (b, n, d)
        system = common + known.transpose(1, 2) @ known + ridge[ids].to(device)[:, None, None] * eye
        try:
            out[torch.as_tensor(ids, device=device)] = torch.linalg.solve(system, known.sum(1))
        except SINGULAR as error:
            raise ValueError(unsolvable(f"l2={problem.l2:g}", size, others.dtype, 0.1)) from error
        first = last
    return out


def unsolvable(which: str, size: int, dtype: torch.dtype, usual: float) -> str:
    """Return the message for systems of ``size`` equations that rounding makes singular.

    Example:
        >>> unsolvable("l2=1e-30", 64, torch.float32, 0.1)
        'l2=1e-30 is too small to solve systems of 64 equations in float32; use a larger one (default 0.1)'
    """
    systems = f"systems of {size} equations in {str(dtype).removeprefix('torch.')}"
    return f"{which} is too small to solve {systems}; use a larger one (default {usual:g})"


def _end(counts: np.ndarray, first: int, most: int) -> int:
    """Return the end of the rows from ``first`` on that together, padded, have at most ``most`` columns.

    Args:
        counts: (N,) ascending.
        first: one row is always in.
        most: the bound.
    """
    last = first + 1
    while last < counts.size and (last + 1 - first) * int(counts[last]) <= most:
        last += 1
    return last


def _columns(rows: sp.csr_matrix, ids: np.ndarray) -> np.ndarray:
    """Return the stored columns (b, n) of rows ``ids`` (b,), padded with the number of columns."""
    part = rows[ids]
    counts = np.diff(part.indptr)
    out = np.full((ids.size, max(int(counts.max(initial=0)), 1)), rows.shape[1], dtype=np.int64)
    row = np.repeat(np.arange(ids.size), counts)
    out[row, np.arange(part.nnz) - np.repeat(part.indptr[:-1], counts)] = part.indices
    return out
