"""Matrix factorisation as a denoiser: a row is folded into the items' embeddings, and scored by them.

From a row u, with V the items' embeddings of iALS (``refit_env.utils.least_squares``), the embedding of its
user is z(u) = (alpha0 V'V + V' diag(u) V + l2 q(u) I)^-1 V' u, and the scores are V z(u). That is a function
of the row alone, as iALS would compute it for a new user, so it denoises rows of anyone; it is not linear in
u, because V' diag(u) V is in the system. Fine-tuning trains V.

Letters: B rows of a batch, b of them at a time, I items, d size of an embedding, n largest number of items
of a row, m stored values.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from refit_env.utils.content_cache import CACHE
from refit_env.utils.least_squares import SINGULAR, LeastSquares, alternate, unsolvable

CELLS = 2**22
"""Most numbers that the gathered embeddings of some rows may have."""
EPOCHS = 12
"""Iterations over users and items of a fit."""


class FoldIn(nn.Module):
    """Scores of rows by embeddings of the items.

    Attributes:
        items: (I, d), V.
        ridge: (), the factor of q(u) = sum(u) + alpha0 I.
        gain: (I,), factors of the items' scores.
        unobserved: alpha0.
    """

    ridge: Tensor
    gain: Tensor

    def __init__(self, num_items: int, size: int, unobserved: float) -> None:
        """Start with embeddings of 0, whose scores are 0."""
        super().__init__()
        self.items = nn.Parameter(torch.zeros(num_items, size))
        self.register_buffer("ridge", torch.ones(()))
        self.register_buffer("gain", torch.ones(num_items))
        self.unobserved = unobserved

    def forward(self, u: Tensor) -> Tensor:
        """Return the scores (B, I) of rows ``u`` (B, I); values below 0 have no weight in the system."""
        if torch.compiler.is_exporting():
            return self._scores(self._folded(self.items, u))
        padded = torch.cat([self.items, self.items.new_zeros(1, self.items.shape[1])])  # (I + 1, d)
        parts = []
        for rows, places in self._places(u):
            values = torch.cat([rows, rows.new_zeros(len(rows), 1)], 1).gather(1, places)  # (b, n)
            parts.append(self._folded(padded[places], values))
        return self._scores(torch.cat(parts)) if parts else torch.zeros_like(u)

    def _places(self, u: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield some rows (b, I) of ``u`` (B, I), and their filled columns (b, n), padded with I.

        Where ``u`` is differentiated they are all columns: a value of 0 has a derivative.
        """
        items, size = u.shape[1], self.items.shape[1]
        if u.requires_grad and torch.is_grad_enabled():
            for rows in u.split(max(1, CELLS // (items * size))):
                yield rows, torch.arange(items, device=u.device).expand(len(rows), -1)
            return
        most = int((u != 0).sum(1).max()) if len(u) else 0
        for rows in u.split(max(1, CELLS // (max(most, 1) * size))):
            row, item = rows.nonzero(as_tuple=True)  # (m,) each
            count = row.bincount(minlength=len(rows))  # (b,)
            place = torch.arange(len(row), device=u.device) - (count.cumsum(0) - count)[row]  # (m,)
            out = torch.full((len(rows), max(most, 1)), items, device=u.device)
            out[row, place] = item
            yield rows, out

    def _folded(self, known: Tensor, values: Tensor) -> Tensor:
        """Return the embeddings (b, d) of rows, by those (b, n, d) or (n, d) and values (b, n) of items.

        Raises:
            ValueError: if the ridge is too small to solve the systems in that precision.
        """
        weighted = values.clamp(min=0)[:, :, None] * known  # (b, n, d)
        count = values.clamp(min=0).sum(1) + self.unobserved * len(self.items)  # (b,)
        eye = torch.eye(known.shape[-1], dtype=known.dtype, device=known.device)
        common = self.unobserved * self.items.T @ self.items  # (d, d)
        system = common + weighted.transpose(1, 2) @ known + (self.ridge * count)[:, None, None] * eye
        right = (values[:, :, None] * known).sum(1)[:, :, None]  # (b, d, 1)
        if torch.compiler.is_exporting():  # ONNX has no factorisation of matrices
            return conjugate_gradients(system, right)[:, :, 0]
        try:
            factor = torch.linalg.cholesky(system)  # (b, d, d)
        except SINGULAR as error:
            raise ValueError(unsolvable("factorization_l2", known.shape[-1], known.dtype, 0.1)) from error
        return torch.cholesky_solve(right, factor)[:, :, 0]

    def _scores(self, folded: Tensor) -> Tensor:
        """Return the scores (B, I) of embeddings (B, d)."""
        return (folded @ self.items.T) * self.gain

    @torch.no_grad()
    def fit(self, sets: sp.csr_matrix, l2: float) -> None:
        """Compute the embeddings from sets of items (U, I) as ones, with gains of 1."""
        problem, size = LeastSquares(self.unobserved, l2), self.items.shape[1]
        sets = sp.csr_matrix(sets, dtype=np.float64)

        def make() -> Tensor:
            first = torch.Generator().manual_seed(0)  # the same result in every process
            return alternate(sets, size, problem, EPOCHS, first, self.items.device)[1]

        self.items.copy_(CACHE.get("item embeddings", (sets, size, problem, str(self.items.device)), make))
        self.ridge.fill_(problem.scale(np.diff(sets.indptr), sets.shape[1]))
        self.gain.fill_(1.0)


def conjugate_gradients(system: Tensor, right: Tensor) -> Tensor:
    """Return the solutions (B, d, 1) of symmetric positive definite systems (B, d, d) by d steps.

    Args:
        system: (B, d, d), scaled by its diagonal first.
        right: (B, d, 1).

    Example:
        >>> conjugate_gradients(torch.tensor([[[4.0, 1.0], [1.0, 3.0]]]), torch.tensor([[[1.0], [2.0]]]))
        tensor([[[0.0909],
                 [0.6364]]])
    """
    scale = system.diagonal(dim1=1, dim2=2).rsqrt()[:, :, None]  # (B, d, 1)
    system = scale * system * scale.transpose(1, 2)
    rest = scale * right  # (B, d, 1)
    found, direction = torch.zeros_like(rest), rest
    length = rest.square().sum(1, keepdim=True)  # (B, 1, 1)
    for _ in range(system.shape[1]):
        ahead = system @ direction
        step = length / (direction * ahead).sum(1, keepdim=True).clamp(min=1e-30)
        found, rest = found + step * direction, rest - step * ahead
        longer = rest.square().sum(1, keepdim=True)
        direction = rest + longer / length.clamp(min=1e-30) * direction
        length = longer
    return scale * found
