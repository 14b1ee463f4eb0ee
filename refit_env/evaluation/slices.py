"""Parts of an evaluation: users of whom little is known, popular items, the long tail.

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
from refit_env.evaluation.metrics import ndcg_at_k, recall_at_k
from refit_env.evaluation.ranking import Evaluation

COLD, POPULAR, TAIL = "cold", "popular", "tail"
"""Names of the slices."""
FEW = 5
"""Users with fewer train items than this are cold."""
HEAD = 0.2
"""Share of the catalogue, the most interacted with in training, that is popular; the rest is the tail."""
_BATCH = 512


@dataclass(frozen=True, eq=False)
class Slice:
    """The metrics of one part.

    Attributes:
        users: (n,) int64, those that count.
        per_user: metric name -> (n,) float64.
    """

    users: npt.NDArray[np.int64]
    per_user: dict[str, npt.NDArray[np.float64]]

    def means(self) -> dict[str, float]:
        """Means over the slice's users; empty where there is none."""
        return {name: float(values.mean()) for name, values in self.per_user.items() if values.size}


def slices(evaluation: Evaluation, dataset: Dataset, split: str = "test") -> dict[str, Slice]:
    """Cut an evaluation into parts.

    - ``cold``: the users with fewer than 5 train items (of rows: of items that the model is shown).
    - ``popular``, ``tail``: only the relevant items among the most popular fifth of the catalogue, or among
      the others, count; the lists are the same, so the two say whom an improvement serves. Users without
      such a relevant item are left out.

    Args:
        evaluation: of ``refit_env.evaluation.ranking.evaluate``.
        dataset: what was evaluated.
        split: which part of it.
    """
    dataset = dataset.episodes
    cold = dataset.train.csr.getnnz(axis=1)[evaluation.users] < FEW  # (n,)
    out = {COLD: Slice(evaluation.users[cold], {m: v[cold] for m, v in evaluation.per_user.items()})}
    truth = without(dataset.split(split).csr, dataset.masked(split))  # (U, I)
    head = popular_items(dataset)
    for name, items in ((POPULAR, head), (TAIL, ~head)):
        part = sp.csr_matrix(truth @ sp.diags_array(items.astype(np.float32)))
        out[name] = _of_items(evaluation, part, dataset.num_items)
    return out


def popular_items(dataset: Dataset, share: float = HEAD) -> npt.NDArray[np.bool_]:
    """(I,) whether an item is among the ``share`` most interacted with in training; ties by lower id.

    Of rows, the train rows' targets are counted: each event once.
    """
    counted = getattr(dataset.episodes, "targets", dataset.episodes.train)
    counts = np.bincount(counted.items, minlength=dataset.num_items)  # (I,)
    out = np.zeros(dataset.num_items, np.bool_)
    out[np.argsort(-counts, kind="stable")[: max(1, round(share * dataset.num_items))]] = True
    return out


def _of_items(evaluation: Evaluation, truth: sp.csr_matrix, num_items: int) -> Slice:
    """The metrics where only ``truth`` (U, I) is relevant, over the users who have some of it."""
    truth.eliminate_zeros()
    kept = np.flatnonzero(np.diff(truth.indptr)[evaluation.users])  # places in the evaluation
    relevant = SparseRows(truth)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in evaluation.per_user}
    for places in np.array_split(kept, max(1, -(-kept.size // _BATCH))):
        mask = relevant.mask(torch.from_numpy(evaluation.users[places]))  # (B, I)
        mask = torch.nn.functional.pad(mask, (0, 1))  # empty places of lists, -1, point to the last column
        lists = torch.from_numpy(evaluation.lists[places]) % (num_items + 1)  # (B, K)
        for name, values in found.items():
            metric, k = name.split("@")
            values.append((recall_at_k if metric == "recall" else ndcg_at_k)(lists[:, : int(k)], mask))
    per_user = {name: torch.cat(values).double().numpy() for name, values in found.items()}
    return Slice(evaluation.users[kept], per_user)
