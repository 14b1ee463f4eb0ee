"""The evaluation protocol: full ranking, seen items masked, per-user metrics.

Recall divides by the number of relevant items; the ideal DCG is cut at min(K, that number). Validation
masks the train items, test masks train and validation items. The model's input is the train row.

Letters: B users in a batch, I items, K list length, n evaluated users.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from refit_env.data.dataset import Dataset
from refit_env.data.rows import SparseRows
from refit_env.errors import unknown_name
from refit_env.metrics import coverage_at_k, gini, ndcg_at_k, recall_at_k, top_k

ScoreFunction = Callable[[Tensor], Tensor]
"""Users (B,) int64 -> scores (B, I) float."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model reached, user by user.

    Attributes:
        users: (n,) int64, those with at least one relevant item, ascending.
        per_user: metric name (``"recall@20"``) -> (n,) float64.
        num_users: of the whole data set (``means_over_all`` divides by it).
        lists: (n, K) int64 the longest lists, best item first.
        num_items: I.
    """

    users: npt.NDArray[np.int64]
    per_user: dict[str, npt.NDArray[np.float64]]
    num_users: int
    lists: npt.NDArray[np.int64]
    num_items: int

    def means(self) -> dict[str, float]:
        """Means over users with relevant items, and coverage and Gini of the longest lists."""
        lists = torch.from_numpy(self.lists)
        k = self.lists.shape[1]
        out = {name: float(values.mean()) for name, values in self.per_user.items()}
        return out | {f"coverage@{k}": coverage_at_k(lists, self.num_items), f"gini@{k}": gini(lists, self.num_items)}

    def means_over_all(self) -> dict[str, float]:
        """Sums divided by all users, those without relevant items counting 0, as DiffRec's code does."""
        return {name: float(values.sum() / self.num_users) for name, values in self.per_user.items()}


def evaluate(
    score: ScoreFunction,
    dataset: Dataset,
    split: str = "test",
    *,
    ks: Sequence[int] = (10, 20),
    users: npt.NDArray[np.int64] | None = None,
    batch: int = 512,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Rank all items for every user with relevant items in the split.

    Args:
        score: the model: users (B,) -> scores (B, I) on ``device``.
        dataset: gives the relevant items and what is masked.
        split: ``"valid"`` or ``"test"``.
        ks: list lengths.
        users: evaluate only these (among those with relevant items); None takes all.
        batch: users scored at a time.
        device: where the metrics are computed.

    Raises:
        ValueError: for an unknown split, no user with relevant items, or scores of another catalogue.
    """
    if split not in ("valid", "test"):
        raise unknown_name("evaluation split", split, ("valid", "test"))
    truth = SparseRows(dataset.split(split).csr, device)
    masks = [SparseRows(dataset.train.csr, device)]
    if split == "test":
        masks.append(SparseRows(dataset.valid.csr, device))
    chosen = np.flatnonzero(dataset.split(split).counts)
    if users is not None:
        chosen = np.intersect1d(chosen, users)
    if not chosen.size:
        raise ValueError(f"no user to evaluate: the {split} split of {dataset.name!r} is empty for the chosen users")
    lists, found = [], []
    for ids in torch.from_numpy(chosen).to(device).split(batch):
        scores = score(ids)  # (B, I)
        if scores.shape != (ids.numel(), dataset.num_items):
            raise ValueError(f"the model gave scores of shape {tuple(scores.shape)}, expected {(ids.numel(), dataset.num_items)}")
        seen = masks[0].mask(ids) if len(masks) == 1 else masks[0].mask(ids) | masks[1].mask(ids)  # (B, I)
        ranked = top_k(scores, max(ks), seen)  # (B, K)
        relevant = truth.mask(ids) & ~seen  # an item seen before can be in no list, so in no ideal list either
        lists.append(ranked)
        found.append({name: value for k in ks for name, value in _at(ranked[:, :k], relevant, k).items()})
    per_user = {name: torch.cat([f[name] for f in found]).double().cpu().numpy() for name in found[0]}
    return Evaluation(chosen, per_user, dataset.num_users, torch.cat(lists).cpu().numpy(), dataset.num_items)


def _at(lists: Tensor, relevant: Tensor, k: int) -> dict[str, Tensor]:
    """The metrics of lists (B, k), each (B,)."""
    return {f"recall@{k}": recall_at_k(lists, relevant), f"ndcg@{k}": ndcg_at_k(lists, relevant)}
