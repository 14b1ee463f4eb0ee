"""Weights between each item and few others: the part of `spectral` that its leading directions do not hold.

The weights are normalised co-occurrences, or the ridge regression of each item on its nearest ones alone:
columns w_j minimise |X_S w - y_j|^2 + l2 |w|^2, S the ``count`` items with the largest co-occurrences with
item j. With all items in S this is the matrix of `linear`; with a hundred of them it fits catalogues of any
size. (SLIM with feature selection, fsSLIM, restricts its regression likewise: Ning and Karypis, ICDM 2011.)

Letters: B users in a batch, I items (= D), R train rows, U users, n nearest items, m stored values.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from refit_env.backbones.cooccurrence import Counting, Floats, nearest_items
from refit_env.backbones.latest import Latest
from refit_env.utils.content_cache import CACHE
from refit_env.utils.least_squares import SINGULAR, unsolvable

SPARSE = 0.02
"""Share of a row's items above which the product with the nearest items is that of a sparse matrix."""
SYSTEMS = 2**22
"""Most numbers of the systems that are solved at a time."""


class NearestItems(nn.Module):
    """Weights between each item and its nearest ones.

    Attributes:
        ids: (I, n) int64, the nearest items of each item: its targets or, with ``of_targets``, the input
            items of which it is the target.
        values: (I, n), their weights.
        of_targets: whether rows are targets.
    """

    ids: Tensor

    def __init__(self, num_items: int, count: int, of_targets: bool = False) -> None:
        """Start with weights of 0."""
        super().__init__()
        self.of_targets = of_targets
        self.register_buffer("ids", torch.zeros(num_items, count, dtype=torch.int64))
        self.values = nn.Parameter(torch.zeros(num_items, count))
        self._runs: Latest[tuple[Tensor, Tensor]] = Latest()

    def forward(self, u: Tensor) -> Tensor:
        """Return the sums (B, I) of the weights of the items in ``u`` (B, I), each times its value in u."""
        if torch.compiler.is_exporting():  # sums of few items depend on the data
            matrix = torch.zeros(u.shape[1], u.shape[1]).scatter_add(1, self.ids, self.values)
            return u @ (matrix.T if self.of_targets else matrix)
        if int(u.count_nonzero()) > SPARSE * u.numel():
            return self._by_all(u)
        user, item = u.nonzero(as_tuple=True)  # (n,) each
        if self.of_targets:
            order, ends = self._runs.get([self.ids], self._by_input)
            length = ends[item + 1] - ends[item]  # (n,)
            user, of = user.repeat_interleave(length), item.repeat_interleave(length)  # (m,) each
            before = (length.cumsum(0) - length).repeat_interleave(length)  # (m,)
            pair = order[ends[of] + torch.arange(len(of), device=u.device) - before]  # (m,)
            weights = u[user, of] * self.values.reshape(-1)[pair]
            places = user * u.shape[1] + pair // self.ids.shape[1]
        else:
            weights = u[user, item][:, None] * self.values[item]  # (n, count)
            places = user[:, None] * u.shape[1] + self.ids[item]  # (n, count)
        flat = torch.zeros(u.numel(), dtype=weights.dtype, device=u.device)
        return flat.scatter_add(0, places.reshape(-1), weights.reshape(-1)).view_as(u)

    def set_weights(
        self, ids: npt.NDArray[np.int64], values: Floats, factor: npt.NDArray[np.float64], size: float
    ) -> None:
        """Store ids and weights (I, n), of which an item's are multiplied by its ``factor`` (I,) as a target.

        Args:
            ids: (I, n).
            values: (I, n).
            factor: (I,).
            size: the norm of the weights that are stored.
        """
        scaled = values * (factor[:, None] if self.of_targets else factor[ids])
        scaled *= size / max(float(np.linalg.norm(scaled)), 1e-30)
        self.ids.copy_(torch.as_tensor(ids))
        self.values.copy_(torch.as_tensor(scaled))

    def carry_over(self, other: NearestItems, former: npt.NDArray[np.int64]) -> None:
        """Replace the weights of pairs of known items by those of another catalogue.

        An item keeps the n pairs with the largest absolute weights, of these and of its pairs with new items.

        Args:
            other: the weights of the other catalogue, of I' items.
            former: (I,) the number of each item in the other catalogue, -1 for a new one.
        """
        known = former >= 0  # (I,)
        now = np.full(len(other.ids), -1)  # (I',) number of each former item
        now[former[known]] = np.flatnonzero(known)
        ids, values = self.ids.cpu().numpy(), self.values.detach().cpu().numpy()  # (I, n) each
        ids_before = now[other.ids.cpu().numpy()[former]]  # (I, n')
        values_before = other.values.detach().cpu().numpy()[former]  # (I, n')
        values_before = np.where(known[:, None] & (ids_before >= 0), values_before, 0.0)
        values = np.where(known[:, None] & known[ids], 0.0, values)
        both = np.append(values, values_before, 1)  # (I, n + n')
        kept = np.argsort(-np.abs(both), 1, kind="stable")[:, : ids.shape[1]]  # (I, n)
        whole = np.append(ids, ids_before.clip(0), 1)
        self.ids.copy_(torch.as_tensor(np.take_along_axis(whole, kept, 1)))
        self.values.copy_(torch.as_tensor(np.take_along_axis(both, kept, 1)))

    def check_ids(self, ids: Tensor, name: str) -> None:
        """Raise a ValueError for ids (I, n) out of range; ``name`` is that of the tensor."""
        if bool(((ids < 0) | (ids >= len(self.ids))).any()):
            raise ValueError(f"{name} holds ids outside 0..{len(self.ids) - 1}")

    def _by_all(self, u: Tensor) -> Tensor:
        """Return the sums by a product with a sparse matrix (I, I) of targets and input items."""
        near, count = self.ids.reshape(-1), self.ids.shape[1]
        items = torch.arange(u.shape[1], device=u.device).repeat_interleave(count)  # (I * count,)
        places = torch.stack([items, near] if self.of_targets else [near, items])
        shape, values = (u.shape[1], u.shape[1]), self.values.reshape(-1)
        matrix = torch.sparse_coo_tensor(places, values, shape, check_invariants=False)
        product: Tensor = torch.sparse.mm(matrix, u.T).T
        return product

    def _by_input(self) -> tuple[Tensor, Tensor]:
        """Return the pairs (I * n,) in order of their input items, and where each item's begin (I + 1,)."""
        near = self.ids.reshape(-1)
        ends = torch.zeros(len(self.ids) + 1, dtype=torch.int64, device=near.device)
        ends[1:] = near.bincount(minlength=len(self.ids)).cumsum(0)
        return near.argsort(stable=True), ends


def nearest_regressions(
    inputs: sp.csr_matrix, targets: sp.csr_matrix | None, count: int, l2: float, counting: Counting
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the ridge regression of each item on its nearest ones: their ids and weights, (I, count) each.

    Args:
        inputs: (R, I), X.
        targets: (R, I), Y; None for X itself, each item regressed on others.
        count: number of nearest items of an item, at most I.
        l2: factor of the squared weights, > 0.
        counting: how the co-occurrences are counted that choose the nearest items.

    Example:
        >>> rows = sp.csr_matrix([[1.0, 1.0], [1.0, 1.0]])
        >>> nearest_regressions(rows, None, 1, 1.0, Counting(of_targets=True))[1].round(4)
        array([[0.6667],
               [0.6667]], dtype=float32)
    """
    return CACHE.get(
        "nearest regressions",
        (inputs, targets, count, l2, counting),
        lambda: _regressions(inputs, targets, count, l2, counting),
    )


def _regressions(
    inputs: sp.csr_matrix, targets: sp.csr_matrix | None, count: int, l2: float, counting: Counting
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Solve the systems, some items at a time."""
    ids, near = nearest_items(inputs, targets, count, counting)
    columns = sp.csr_matrix(inputs.T, dtype=np.float32)  # (I, R)
    wanted = columns if targets is None else sp.csr_matrix(targets.T, dtype=np.float32)  # (I, R)
    values = np.zeros(ids.shape, np.float32)
    size = max(1, SYSTEMS // count**2)
    for first in range(0, len(ids), size):
        items = range(first, min(first + size, len(ids)))
        systems = np.zeros((len(items), count, count), np.float32)
        right = np.zeros((len(items), count, 1), np.float32)
        for place, item in enumerate(items):
            used = int(np.count_nonzero(near[item]))  # the others, which have no co-occurrence, get 0
            chosen = columns[ids[item, :used]]  # (used, R)
            systems[place, :used, :used] = (chosen @ chosen.T).toarray()
            right[place, :used] = (chosen @ wanted[item].T).toarray()
        systems[:, np.arange(count), np.arange(count)] += l2
        try:
            solved = torch.linalg.solve(torch.from_numpy(systems), torch.from_numpy(right))
        except SINGULAR as error:
            raise ValueError(unsolvable(f"regression_l2={l2:g}", count, torch.float32, 30.0)) from error
        values[first : items.stop] = solved[:, :, 0].numpy()
    return ids, values
