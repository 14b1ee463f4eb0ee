"""The evaluation protocol: full ranking, seen items masked, metrics per user.

Recall divides by the number of relevant items; the ideal list of NDCG has min(K, that number) items.
Validation masks the train items; test masks train and validation items. The model's input is the train row.

Letters: B users in a batch, I items, K list length, n evaluated users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from refit_env.data.dataset import Dataset
from refit_env.data.rows import SparseRows, without
from refit_env.errors import unknown_name
from refit_env.evaluation.metrics import coverage_at_k, gini, ndcg_of, recall_of, top_k
from refit_env.evaluation.selection import ACCURACY, DISLIKES, Rule, parse_rule
from refit_env.utils.memory import arrays_kept

ScoreFunction = Callable[[Tensor], Tensor]
"""Users (B,) int64 -> scores (B, I) float."""

SCORES = 2**26
"""Most scores of a batch: fewer than ``batch`` users are scored at a time where there are very many items."""

LENGTHS: dict[str, tuple[int, ...]] = {"cf": (10, 20), "sequential": (5, 10, 20, 50)}
"""Default list lengths by task; other tasks have those of ``cf``."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The metrics of a model for each user.

    Attributes:
        users: (n,) int64 users with at least one relevant item, ascending.
        per_user: metric name (``"recall@20"``) -> (n,) float64. If the data set has dislikes,
            ``"dislikes@20"`` is the share of the list that the user rated low in the evaluated split.
        num_users: number of all users, the divisor of ``means_over_all``; for a sequential set, the number of
            rows of the split, those without a history included.
        lists: (n, K) int64 the longest lists, best item first; -1 where no unseen item is left.
        num_items: I.
    """

    users: npt.NDArray[np.int64]
    per_user: dict[str, npt.NDArray[np.float64]]
    num_users: int
    lists: npt.NDArray[np.int64]
    num_items: int

    def means(self) -> dict[str, float]:
        """Return means over users with relevant items, and coverage and Gini of the longest lists."""
        lists = torch.from_numpy(self.lists)
        k = self.lists.shape[1]
        out = {name: float(values.mean()) for name, values in self.per_user.items()}
        out[f"coverage@{k}"] = coverage_at_k(lists, self.num_items)
        out[f"gini@{k}"] = gini(lists, self.num_items)
        return out

    def means_over_all(self) -> dict[str, float]:
        """Return means over all users, where users without relevant items count 0, as in DiffRec's code."""
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
    """Evaluate a model by full ranking, for every user with relevant items in the split.

    A relevant item that is also masked cannot be in a list, so it does not count as relevant (the data sets
    of the CF task have no such items).

    Args:
        score: the model: users (B,) -> scores (B, I) on ``device``. If it has a method ``held``, several
            batches are scored in the context that this returns: its weights do not change there.
        dataset: the relevant and the masked items. The users of a sequential set are its rows
            (``dataset.episodes``): each has one relevant item, its target, so Recall is the hit rate; all
            items are ranked, none is masked, and rows without a history are not evaluated.
        split: ``"valid"`` (train items masked) or ``"test"`` (train and validation items masked).
        ks: list lengths; None uses ``list_lengths``.
        users: evaluate only these users (if they have relevant items); None evaluates all.
        batch: number of users scored at a time, at most.
        device: device of the metrics.

    Raises:
        ValueError: for an unknown split, a list length outside 1..I, no user with relevant items, or scores
            that are NaN or have another number of items.
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
    low = dataset.disliked(split)
    disliked = None if low is None else SparseRows(low, device)
    lists, found = [], []
    size = max(1, min(batch, SCORES // dataset.num_items))
    # What a model computes of its weights alone pays for several batches.
    held = getattr(score, "held", nullcontext) if len(chosen) > size else nullcontext
    with held(), arrays_kept(4 * size * dataset.num_items, device):
        for ids in torch.split(torch.from_numpy(chosen).to(device), size):
            hidden = seen.mask(ids)
            ranked = _ranked(score(ids), hidden, max(ks))
            values = _metrics(relevant, ids, ranked, ks)
            ranked = ranked.masked_fill(hidden.gather(1, ranked), -1)
            if disliked is not None:
                bad = disliked.at(ids, ranked.clamp(min=0)) * (ranked >= 0)  # (B, K)
                values |= {f"{DISLIKES}@{k}": bad[:, :k].mean(1) for k in ks}
            lists.append(ranked.cpu())
            found.append(values)
    per_user = {name: torch.cat([f[name] for f in found]).double().cpu().numpy() for name in found[0]}
    return Evaluation(
        chosen, per_user, dataset.population(split), torch.cat(lists).numpy(), dataset.num_items
    )


def evaluated_users(
    dataset: Dataset, split: str, users: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.int64]:
    """Return the users with relevant items in a split, which an evaluation averages over.

    Args:
        dataset: the data set; the users of a sequential set are its rows.
        split: ``"valid"`` or ``"test"``.
        users: consider only these; None considers all.

    Returns:
        (n,) ids, ascending.

    Raises:
        ValueError: if there is no such user.
    """
    dataset = dataset.episodes
    truth = without(dataset.split(split).csr, dataset.masked(split))
    found = np.flatnonzero(np.diff(truth.indptr)).astype(np.int64)
    found = found if users is None else np.intersect1d(found, users)
    if not found.size:
        raise ValueError(f"no user to evaluate: none chosen has relevant items in {dataset.name!r}, {split}")
    return found


def evaluated_groups(dataset: Dataset, split: str) -> npt.NDArray[np.int64]:
    """Return the groups (n,) of ``evaluated_users``: rows with one number are not independent.

    Example:
        >>> from refit_env.data import synthesize
        >>> evaluated_groups(synthesize(), "valid")[:3]  # of a set, each user alone
        array([0, 1, 2])
    """
    return dataset.groups_of(evaluated_users(dataset, split))


def list_lengths(dataset: Dataset) -> tuple[int, ...]:
    """Return the default list lengths of an evaluation, ascending.

    10 and 20, for a sequential set also 5 and 50; a length larger than the catalogue is cut to it.

    Example:
        >>> from refit_env.data import synthesize
        >>> list_lengths(synthesize()), list_lengths(synthesize(num_users=9, num_items=18, num_clusters=1))
        ((10, 20), (10, 18))
    """
    usual = LENGTHS.get(dataset.task, LENGTHS["cf"])
    return fitted_lengths([k for k in usual if k <= max(20, dataset.num_items)], dataset.num_items)


def fitted_lengths(ks: Sequence[int], num_items: int) -> tuple[int, ...]:
    """Return list lengths, ascending, with lengths larger than the catalogue cut to it.

    Example:
        >>> fitted_lengths((10, 20), 12), fitted_lengths((10, 20), 3)
        ((10, 12), (3,))
    """
    return tuple(sorted({min(k, num_items) for k in ks}))


def selecting_rule(text: str, dataset: Dataset, ks: Sequence[int] | None = None) -> Rule:
    """Return the rule by which validation selects the weights of a model.

    Args:
        text: a metric such as ``"ndcg@20"``, or one with conditions; with a catalogue of 12 items ``ndcg@20``
            becomes ``ndcg@12``.
        dataset: the data set.
        ks: list lengths; None uses ``list_lengths``.

    Raises:
        SettingError: naming ``select``, if it is no rule, or there is no such metric.

    Example:
        >>> from refit_env.data import synthesize
        >>> str(selecting_rule("ndcg@20", synthesize(num_users=9, num_items=18, num_clusters=1)))
        'ndcg@18'
    """
    lengths = list_lengths(dataset.episodes) if ks is None else fitted_lengths(ks, dataset.num_items)
    measured = ACCURACY if dataset.dislikes is None else (*ACCURACY, DISLIKES)
    return parse_rule(text).fitted("select", lengths, dataset.num_items, measured)


def metric_title(metric: str) -> str:
    """Return a metric's name as papers write it.

    Example:
        >>> metric_title("ndcg@20"), metric_title("recall@10"), metric_title("coverage@20")
        ('NDCG@20', 'Recall@10', 'coverage@20')
    """
    return metric.replace("ndcg", "NDCG").replace("recall", "Recall")


def nearest_metric(name: str, names: Iterable[str]) -> str:
    """Return the measured metric that replaces ``name`` where the catalogue is small.

    Args:
        name: name such as ``"ndcg@20"``.
        names: names of the measured metrics.

    Returns:
        ``name`` if it was measured, else the same metric of the longest shorter list.

    Example:
        >>> nearest_metric("ndcg@20", ["ndcg@10", "ndcg@12", "recall@12"])
        'ndcg@12'
    """
    kind, _, length = name.partition("@")
    lengths = [int(k) for found, _, k in (n.partition("@") for n in names) if found == kind]
    return f"{kind}@{max((k for k in lengths if k <= int(length)), default=int(length))}"


def _ranked(scores: Tensor, seen: Tensor, k: int) -> Tensor:
    """Return lists (B, k) from scores and seen items (B, I)."""
    if scores.shape != seen.shape:
        raise ValueError(
            f"the model returned scores of shape {tuple(scores.shape)}, expected {tuple(seen.shape)}"
        )
    return top_k(scores, k, seen)


def _metrics(relevant: SparseRows, users: Tensor, ranked: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    """Return the metrics (B,) of the lists ``ranked`` (B, K) of ``users`` (B,)."""
    found, counts = (relevant.at(users, ranked) != 0).float(), relevant.counts(users)  # (B, K), (B,)
    values = {}
    for k in ks:
        values[f"recall@{k}"] = recall_of(found[:, :k], counts)
        values[f"ndcg@{k}"] = ndcg_of(found[:, :k], counts)
    return values


def _check_lengths(ks: Sequence[int], num_items: int) -> None:
    """Raise an error for list lengths outside 1..I."""
    if not ks or min(ks) < 1 or max(ks) > num_items:
        raise ValueError(f"ks={tuple(ks)} must be list lengths in 1..{num_items}, the number of items")
