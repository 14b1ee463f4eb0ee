"""Slices of an evaluation: cold users, popular items, long-tail items.

Letters: U users, I items, n evaluated users, B users in a batch, K list length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from refit_env.data.dataset import Dataset
from refit_env.data.rows import SparseRows, without
from refit_env.evaluation.metrics import ndcg_of, recall_of
from refit_env.evaluation.ranking import Evaluation

COLD, POPULAR, TAIL = "cold", "popular", "tail"
"""Names of the slices."""
FEW = 5
"""Users with fewer train items than this are cold."""
HEAD = 0.2
"""Share of items, those with the most train interactions, that are popular; the others are the tail."""
_BATCH = 512


@dataclass(frozen=True, eq=False)
class Slice:
    """The metrics of one slice.

    Attributes:
        users: (n,) int64 users of the slice.
        per_user: metric name -> (n,) float64.
    """

    users: npt.NDArray[np.int64]
    per_user: dict[str, npt.NDArray[np.float64]]

    def means(self) -> dict[str, float]:
        """Return means over the slice's users; empty if it has none."""
        return {name: float(values.mean()) for name, values in self.per_user.items() if values.size}


def slices(evaluation: Evaluation, dataset: Dataset, split: str = "test") -> dict[str, Slice]:
    """Return the metrics of three slices of an evaluation.

    - ``cold``: the users with fewer than 5 train items (for rows: with a history of fewer than 5 items).
    - ``popular``, ``tail``: only relevant items in the most popular fifth of the catalogue, or only the
      others, count. The lists are the same, so the two slices show which items an improvement concerns. Users
      without such a relevant item are not counted.

    Args:
        evaluation: result of ``refit_env.evaluation.ranking.evaluate``.
        dataset: the data set of the evaluation.
        split: the split of the evaluation.
    """
    dataset = dataset.episodes
    cold = dataset.train.csr.getnnz(axis=1)[evaluation.users] < FEW  # (n,)
    out = {COLD: Slice(evaluation.users[cold], {m: v[cold] for m, v in evaluation.per_user.items()})}
    truth = without(dataset.split(split).csr, dataset.masked(split))  # (U, I)
    head = popular_items(dataset)
    for name, items in ((POPULAR, head), (TAIL, ~head)):
        part = sp.csr_matrix(truth @ sp.diags_array(items.astype(np.float32)))
        out[name] = _of_items(evaluation, part)
    return out


def popular_items(dataset: Dataset, share: float = HEAD) -> npt.NDArray[np.bool_]:
    """Return (I,) whether an item is in the ``share`` with the most train interactions; ties by lower id.

    For rows, the targets of the train rows are counted, so that each event counts once.
    """
    counted = getattr(dataset.episodes, "targets", dataset.episodes.train)
    counts = np.bincount(counted.items, minlength=dataset.num_items)  # (I,)
    out = np.zeros(dataset.num_items, np.bool_)
    out[np.argsort(-counts, kind="stable")[: max(1, round(share * dataset.num_items))]] = True
    return out


def _of_items(evaluation: Evaluation, truth: sp.csr_matrix) -> Slice:
    """Return the metrics with only ``truth`` (U, I) relevant, over the users with such items."""
    truth.eliminate_zeros()
    kept = np.flatnonzero(np.diff(truth.indptr)[evaluation.users])  # positions in the evaluation
    relevant = SparseRows(truth)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in evaluation.per_user}
    for places in np.array_split(kept, max(1, -(-kept.size // _BATCH))):
        users = torch.from_numpy(evaluation.users[places])  # (B,)
        lists = torch.from_numpy(evaluation.lists[places])  # (B, K), -1 in empty positions
        hits = ((relevant.at(users, lists.clamp(min=0)) != 0) & (lists >= 0)).float()  # (B, K)
        counts = relevant.counts(users)  # (B,)
        for name, values in found.items():
            metric, k = name.split("@")
            values.append((recall_of if metric == "recall" else ndcg_of)(hits[:, : int(k)], counts))
    per_user = {name: torch.cat(values).double().numpy() for name, values in found.items()}
    return Slice(evaluation.users[kept], per_user)
