"""The evaluation protocol: full ranking, seen items masked, per-user metrics.

Recall divides by the number of relevant items; the ideal DCG is cut at min(K, that number). Validation
masks the train items, test masks train and validation items. The model's input is the train row.

Letters: B users in a batch, I items, K list length, n evaluated users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from refit_env.data.dataset import Dataset
from refit_env.data.rows import SparseRows, without
from refit_env.errors import SettingError, did_you_mean, unknown_name
from refit_env.evaluation.metrics import coverage_at_k, gini, ndcg_at_k, recall_at_k, top_k

ScoreFunction = Callable[[Tensor], Tensor]
"""Users (B,) int64 -> scores (B, I) float."""

LENGTHS: dict[str, tuple[int, ...]] = {"cf": (10, 20), "sequential": (5, 10, 20, 50)}
"""List lengths that are reported where nothing is said, by task; others' are those of ``cf``."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model reached, user by user.

    Attributes:
        users: (n,) int64, those with at least one relevant item, ascending.
        per_user: metric name (``"recall@20"``) -> (n,) float64.
        num_users: of the whole data set (``means_over_all`` divides by it); of a sequential set, the
            split's rows, those without a history included.
        lists: (n, K) int64 the longest lists, best item first; -1 where no unseen item is left.
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
        out[f"coverage@{k}"] = coverage_at_k(lists, self.num_items)
        out[f"gini@{k}"] = gini(lists, self.num_items)
        return out

    def means_over_all(self) -> dict[str, float]:
        """Sums divided by all users, those without relevant items counting 0, as DiffRec's code does."""
        return {name: float(values.sum() / self.num_users) for name, values in self.per_user.items()}


def evaluate(
    score: ScoreFunction,
    dataset: Dataset,
    split: str = "test",
    *,
    ks: Sequence[int] | None = None,
    users: npt.NDArray[np.int64] | None = None,
    batch: int = 512,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Rank all items for every user with relevant items in the split.

    An item of the split that the user has among the masked ones can be in no list, so it is not counted
    as relevant (data sets of the CF task have none).

    Args:
        score: the model: users (B,) -> scores (B, I) on ``device``.
        dataset: gives the relevant items and what is masked. Of a sequential set, the users are its rows
            (``dataset.episodes``): each has one relevant item, its target, so Recall is the hit rate; all
            items are ranked, nothing is masked, and rows without a history are left out.
        split: ``"valid"`` (train items masked) or ``"test"`` (train and validation items masked).
        ks: list lengths; None takes those of ``list_lengths``.
        users: evaluate only these (among those with relevant items); None takes all.
        batch: users scored at a time.
        device: where the metrics are computed.

    Raises:
        ValueError: for an unknown split, a list length outside 1..I, no user with relevant items, or scores
            that are NaN or of another catalogue.
    """
    if split not in ("valid", "test"):
        raise unknown_name("evaluation split", split, ("valid", "test"))
    dataset = dataset.episodes
    ks = list_lengths(dataset) if ks is None else ks
    _check_lengths(ks, dataset.num_items)
    chosen = evaluated_users(dataset, split, users)
    masked = dataset.masked(split)
    truth = without(dataset.split(split).csr, masked)
    seen, relevant = SparseRows(masked, device), SparseRows(truth, device)
    lists, found = [], []
    for ids in torch.split(torch.from_numpy(chosen).to(device), batch):
        ranked, values = _rank(score(ids), seen.mask(ids), relevant.mask(ids), ks)
        lists.append(ranked.cpu())
        found.append(values)
    per_user = {name: torch.cat([f[name] for f in found]).double().cpu().numpy() for name in found[0]}
    return Evaluation(
        chosen, per_user, dataset.population(split), torch.cat(lists).numpy(), dataset.num_items
    )


def evaluated_users(
    dataset: Dataset, split: str, users: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.int64]:
    """The users that an evaluation is about: those with relevant items in a split.

    Args:
        dataset: what is evaluated; of a sequential set, users are its rows.
        split: ``"valid"`` or ``"test"``.
        users: only these; None takes all.

    Returns:
        (n,) ids, ascending.

    Raises:
        ValueError: if there are none.
    """
    dataset = dataset.episodes
    truth = without(dataset.split(split).csr, dataset.masked(split))
    found = np.flatnonzero(np.diff(truth.indptr)).astype(np.int64)
    found = found if users is None else np.intersect1d(found, users)
    if not found.size:
        raise ValueError(f"no user to evaluate: none chosen has relevant items in {dataset.name!r}, {split}")
    return found


def list_lengths(dataset: Dataset) -> tuple[int, ...]:
    """The lengths of the lists that are evaluated where nothing is said, ascending.

    10 and 20, and for a sequential set 5 and 50 too; where the catalogue is smaller, all its items.

    Example:
        >>> from refit_env.data import synthesize
        >>> list_lengths(synthesize()), list_lengths(synthesize(num_users=9, num_items=12, num_clusters=1))
        ((10, 20), (10, 12))
    """
    usual = LENGTHS.get(dataset.task, LENGTHS["cf"])
    return fitted_lengths([k for k in usual if k <= max(20, dataset.num_items)], dataset.num_items)


def fitted_lengths(ks: Sequence[int], num_items: int) -> tuple[int, ...]:
    """List lengths, those beyond the catalogue cut to it, ascending.

    Example:
        >>> fitted_lengths((10, 20), 12), fitted_lengths((10, 20), 3)
        ((10, 12), (3,))
    """
    return tuple(sorted({min(k, num_items) for k in ks}))


def selecting_metric(name: str, dataset: Dataset, ks: Sequence[int] | None = None) -> str:
    """The metric by which validation chooses the weights of a model of a data set.

    Args:
        name: such as ``"ndcg@20"``, of which a smaller catalogue takes the longest list: ``"ndcg@12"``.
        dataset: what is evaluated.
        ks: list lengths; None takes those of ``list_lengths``.

    Raises:
        SettingError: naming ``select_on``, if there is no such metric, or if less of it is better.

    Example:
        >>> from refit_env.data import synthesize
        >>> selecting_metric("ndcg@20", synthesize(num_users=9, num_items=12, num_clusters=1))
        'ndcg@12'
    """
    lengths = list_lengths(dataset.episodes) if ks is None else fitted_lengths(ks, dataset.num_items)
    kind, _, length = name.partition("@")
    fitted = name
    if length.isascii() and length.isdigit() and int(length) > max(lengths) == dataset.num_items:
        fitted = f"{kind}@{max(lengths)}"
    known = [f"{kind}@{k}" for k in lengths for kind in ("recall", "ndcg")] + [f"coverage@{max(lengths)}"]
    if fitted not in known:
        raise SettingError(
            "select_on", f"must be one of {', '.join(known)}; found {name!r}.{did_you_mean(name, known)}"
        )
    return fitted


def nearest_metric(name: str, names: Iterable[str]) -> str:
    """Of metrics that were measured, the one that stands for ``name`` where the catalogue is small.

    Args:
        name: such as ``"ndcg@20"``.
        names: of the metrics.

    Returns:
        ``name`` itself if it was measured, else that of the longest shorter list.

    Example:
        >>> nearest_metric("ndcg@20", ["ndcg@10", "ndcg@12", "recall@12"])
        'ndcg@12'
    """
    kind, _, length = name.partition("@")
    lengths = [int(k) for found, _, k in (n.partition("@") for n in names) if found == kind]
    return f"{kind}@{max((k for k in lengths if k <= int(length)), default=int(length))}"


def _rank(
    scores: Tensor, seen: Tensor, relevant: Tensor, ks: Sequence[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Lists (B, K) and their metrics (B,), from scores, seen and relevant items (B, I)."""
    if scores.shape != seen.shape:
        raise ValueError(
            f"the model gave scores of shape {tuple(scores.shape)}, expected {tuple(seen.shape)}"
        )
    ranked = top_k(scores, max(ks), seen)  # (B, K)
    values = {}
    for k in ks:
        values[f"recall@{k}"] = recall_at_k(ranked[:, :k], relevant)
        values[f"ndcg@{k}"] = ndcg_at_k(ranked[:, :k], relevant)
    return ranked.masked_fill(seen.gather(1, ranked), -1), values


def _check_lengths(ks: Sequence[int], num_items: int) -> None:
    """Refuse list lengths that the catalogue cannot fill."""
    if not ks or min(ks) < 1 or max(ks) > num_items:
        raise ValueError(f"ks={tuple(ks)} must be list lengths in 1..{num_items}, the number of items")
