"""Metrics beyond accuracy: of each user's list, and of all lists together.

Letters: n evaluated users, I items, K list length, G groups, d size of an item's vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from refit_env.data.dataset import Dataset
from refit_env.data.rows import without
from refit_env.evaluation.catalogue import Catalogue, catalogue_of
from refit_env.evaluation.metrics import coverage_at_k, gini
from refit_env.evaluation.ranking import Evaluation
from refit_env.evaluation.selection import BEYOND

Floats = npt.NDArray[np.float64]
SMOOTHING = 0.01
"""Weight of the history in the list's distribution of ``calibration`` (alpha of Steck, 2018)."""
ACTIVE = 0.2
"""Share of the users, those with the most train items, that are the active ones of ``user_gap``."""


@dataclass(frozen=True)
class Lists:
    """What the metrics read.

    Attributes:
        items: (n, K) the lists, best item first; -1 where no item is left.
        users: (n,) whose.
        catalogue: facts of the items.
        truth: (n, I) the relevant items.
        masked: (n, I) 1 for the items that no list may hold.
        ndcg: (n,) of each user.
    """

    items: npt.NDArray[np.int64]
    users: npt.NDArray[np.int64]
    catalogue: Catalogue
    truth: sp.csr_matrix
    masked: sp.csr_matrix
    ndcg: Floats

    @property
    def there(self) -> npt.NDArray[np.bool_]:
        """(n, K) whether a position holds an item."""
        return self.items >= 0

    def mean_of(self, values: npt.NDArray[np.generic]) -> Floats:
        """(n,) the mean over each list of a number of each item (I,); 0 for an empty list."""
        found = np.where(self.there, values[self.items], 0.0).sum(1)
        return np.asarray(found / np.maximum(self.there.sum(1), 1), np.float64)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(I,) number of lists that hold each item."""
        return np.bincount(self.items[self.there], minlength=self.catalogue.num_items)

    @property
    def hits(self) -> npt.NDArray[np.bool_]:
        """(n, K) whether a position holds a relevant item."""
        rows = np.repeat(np.arange(len(self.items)), self.items.shape[1])
        found = np.asarray(self.truth[rows, np.maximum(self.items, 0).ravel()]).reshape(self.items.shape)
        return np.asarray((found > 0) & self.there)


def arp(lists: Lists) -> Floats:
    """Average recommendation popularity: the mean number of train interactions of a list's items.

    Yin et al., "Challenging the Long Tail Recommendation" (VLDB 2012); ARP of Elliot, AveragePopularity of
    RecBole. Less is better.
    """
    return lists.mean_of(lists.catalogue.counts)


def aplt(lists: Lists) -> Floats:
    """Average percentage of long-tail items in a list (Abdollahpouri et al., 2019, arXiv 1901.07555)."""
    return lists.mean_of(lists.catalogue.tail)


def novelty(lists: Lists) -> Floats:
    """Mean self-information of a list's items in bits, -log2 of the share of users who have the item.

    Vargas and Castells (RecSys 2011); mean inverse user frequency of RecTools.
    """
    return lists.mean_of(lists.catalogue.self_information)


def ild(lists: Lists) -> Floats:
    """Intra-list diversity: the mean of 1 - cosine over all pairs of a list's items.

    Ziegler et al. (WWW 2005). With unit vectors c_i, the sum over pairs of cosines is
    (|sum_i c_i|^2 - sum_i |c_i|^2) / 2. A list of fewer than two items has 0.
    """
    table = lists.catalogue.vectors  # (I, d)
    there, size = lists.there, lists.there.sum(1)  # (n, K), (n,)
    out = np.zeros(len(lists.items))
    for rows in np.array_split(np.arange(len(out)), max(1, lists.items.size * table.shape[1] // 2**24)):
        near = table[lists.items[rows]] * there[rows, :, None]  # (b, K, d)
        pairs = (near.sum(1) ** 2).sum(1) - (near**2).sum((1, 2))  # (b,) twice the sum over pairs
        out[rows] = 1 - pairs / np.maximum(size[rows] * (size[rows] - 1), 1)
    return np.where(size > 1, out, 0.0)


def serendipity(lists: Lists) -> Floats:
    """Relevant items that popularity would have ranked lower: the mean of hit * max(p_u - p, 0).

    p_u = (I + 1 - rank in the list) / I and p = (I + 1 - rank by popularity) / I, as in RecTools.
    """
    count, k = lists.catalogue.num_items, lists.items.shape[1]
    own = count + 1 - np.arange(1, k + 1)  # (K,)
    usual = count + 1 - lists.catalogue.popularity_rank[lists.items]  # (n, K)
    gain = np.maximum(own - usual, 0) / count * lists.hits  # (n, K)
    return np.asarray(gain.sum(1) / np.maximum(lists.there.sum(1), 1), np.float64)


def calibration(lists: Lists) -> Floats:
    """Miscalibration: KL(p || q~) of a user's train items to the list over item groups (Steck, RecSys 2018).

    q~ = (1 - alpha) q + alpha p with alpha = 0.01; p and q are the mean p(g|i) of the train items and of the
    list. 0 is calibrated; less is better.
    """
    groups, own = lists.catalogue.groups, lists.catalogue.taste[lists.users].astype(np.float64)  # (n, G)
    found = (groups[lists.items] * lists.there[..., None]).sum(1, dtype=np.float64)  # (n, G)
    found /= np.maximum(lists.there.sum(1, keepdims=True), 1)
    smooth = (1 - SMOOTHING) * found + SMOOTHING * own  # (n, G)
    ratio = np.where(own > 0, own / np.maximum(smooth, 1e-30), 1.0)
    return np.asarray((own * np.log(ratio)).sum(1), np.float64)


def coverage(lists: Lists) -> float:
    """Share of the catalogue in at least one list (aggregate diversity, Adomavicius and Kwon, 2012)."""
    return coverage_at_k(torch.from_numpy(lists.items), lists.catalogue.num_items)


def concentration(lists: Lists) -> float:
    """Gini coefficient of the numbers of lists that hold each item; 0 is uniform, less is better."""
    return gini(torch.from_numpy(lists.items), lists.catalogue.num_items)


def entropy(lists: Lists) -> float:
    """Shannon entropy of the items in all lists, divided by log I: 1 is uniform.

    RecBole's ShannonEntropy divides by the number of recommended items instead.
    """
    share = lists.counts / max(int(lists.counts.sum()), 1)  # (I,)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum() / math.log(max(lists.catalogue.num_items, 2)))


def personalization(lists: Lists) -> float:
    """Mean over pairs of users of 1 - (items that both lists hold) / K, as in torch-geometric.

    It is NaN, unknown, of a single user.
    """
    n, k = lists.items.shape
    if n < 2:
        return float("nan")
    counts = lists.counts.astype(np.float64)  # (I,)
    common = (counts * (counts - 1)).sum() / 2  # summed over the pairs of users
    return float(1 - common / (k * n * (n - 1) / 2))


def rsp(lists: Lists) -> float:
    """Unequal exposure of item groups: std / mean over groups of P(recommended | group), less is better.

    Ranking-based statistical parity (Zhu, Wang and Caverlee, SIGIR 2020), over the groups of ``Catalogue``.
    """
    return _unequal(lists, lists.catalogue.groups.astype(np.float64))


def pop_rsp(lists: Lists) -> float:
    """``rsp`` over two groups, head and long tail, as in Elliot; less is better."""
    return _unequal(lists, _head_and_tail(lists.catalogue))


def pop_reo(lists: Lists) -> float:
    """Unequal opportunity of head and long tail: std / mean of P(recommended | group, relevant).

    Less is better. Ranking-based equal opportunity (Zhu, Wang and Caverlee, SIGIR 2020), as in Elliot.
    """
    groups = _head_and_tail(lists.catalogue)  # (I, 2)
    wanted = np.asarray(lists.truth.sum(0)).ravel() @ groups  # (2,)
    return _spread(groups[lists.items[lists.hits]].sum(0), wanted)


def user_gap(lists: Lists) -> float:
    """Unequal quality: |NDCG of the most active fifth of the users - NDCG of the others|; less is better.

    User-oriented fairness (Li et al., WWW 2021), with a fifth in place of their 5 %.
    """
    activity = lists.catalogue.activity[lists.users]  # (n,)
    order = np.argsort(-activity, kind="stable")
    cut = min(max(1, round(ACTIVE * order.size)), order.size)
    if cut == order.size:
        return 0.0
    return float(abs(lists.ndcg[order[:cut]].mean() - lists.ndcg[order[cut:]].mean()))


def _head_and_tail(catalogue: Catalogue) -> Floats:
    """(I, 2) 1 for the head, 1 for the tail."""
    return np.stack([~catalogue.tail, catalogue.tail], 1).astype(np.float64)


def _unequal(lists: Lists, groups: Floats) -> float:
    """Std / mean over groups (I, G) of the recommended share of the candidates of each."""
    masked = np.asarray(lists.masked.sum(0)).ravel()  # (I,)
    return _spread(lists.counts @ groups, (len(lists.items) - masked) @ groups)


def _spread(part: Floats, whole: Floats) -> float:
    """Std / mean of part / whole over the groups that have any."""
    share = part[whole > 0] / whole[whole > 0]
    return float(share.std() / share.mean()) if share.size and share.mean() > 0 else 0.0


OF_USERS: Mapping[str, Callable[[Lists], Floats]] = {
    "arp": arp,
    "aplt": aplt,
    "novelty": novelty,
    "ild": ild,
    "serendipity": serendipity,
    "calibration": calibration,
}
"""Metrics of each user's list, by name."""
OF_ALL: Mapping[str, Callable[[Lists], float]] = {
    "coverage": coverage,
    "gini": concentration,
    "entropy": entropy,
    "personalization": personalization,
    "rsp": rsp,
    "pop_rsp": pop_rsp,
    "pop_reo": pop_reo,
    "user_gap": user_gap,
}
"""Metrics of all lists together, by name."""


@dataclass(frozen=True)
class Beyond:
    """Metrics beyond accuracy of one evaluation, at the longest list.

    Attributes:
        per_user: metric name (``"novelty@20"``) -> (n,).
        means: metric name -> mean over users, or the value of all lists together.
    """

    per_user: dict[str, Floats]
    means: dict[str, float]


def beyond_accuracy(
    evaluation: Evaluation, dataset: Dataset, split: str = "test", names: Iterable[str] = BEYOND
) -> Beyond:
    """Measure the longest lists of an evaluation beyond accuracy.

    Args:
        evaluation: result of ``refit_env.evaluation.ranking.evaluate``.
        dataset: the data set of the evaluation.
        split: the split of the evaluation.
        names: metrics without their list length.

    Example:
        >>> from refit_env.data import load_dataset
        >>> from refit_env.evaluation.ranking import evaluate
        >>> data = load_dataset("synthetic")
        >>> popularity = torch.from_numpy(catalogue_of(data).counts).float()
        >>> found = evaluate(lambda users: popularity.expand(users.numel(), -1), data)
        >>> round(beyond_accuracy(found, data).means["coverage@20"], 3)
        0.115
    """
    data, k = dataset.episodes, evaluation.lists.shape[1]
    users, masked = evaluation.users, data.masked(split)
    truth = without(data.split(split).csr, masked)
    lists = Lists(
        evaluation.lists,
        users,
        catalogue_of(data),
        truth[users],
        (masked[users] > 0).astype(np.int64),
        evaluation.per_user[f"ndcg@{k}"],
    )
    wanted = tuple(names)
    per_user = {f"{name}@{k}": OF_USERS[name](lists) for name in wanted if name in OF_USERS}
    means = {name: float(values.mean()) for name, values in per_user.items()}
    means |= {f"{name}@{k}": OF_ALL[name](lists) for name in wanted if name in OF_ALL}
    return Beyond(per_user, means)


def beyond_names(evaluation: Evaluation) -> list[str]:
    """Return the metrics beyond accuracy with the evaluation's longest list, for ``means_of``."""
    return [f"{name}@{evaluation.lists.shape[1]}" for name in BEYOND]


def measured(evaluation: Evaluation, dataset: Dataset, split: str, names: Iterable[str] = ()) -> Beyond:
    """Return all metrics of an evaluation, and further ones beyond accuracy, each computed once.

    Args:
        evaluation: result of ``refit_env.evaluation.ranking.evaluate``.
        dataset: the data set of the evaluation.
        split: the split of the evaluation.
        names: further metrics with their list length, for example of a rule that selects.
    """
    means, per_user = evaluation.means(), evaluation.per_user
    kinds = dict.fromkeys(name.partition("@")[0] for name in names if name not in means)
    if not kinds:
        return Beyond(dict(per_user), means)
    further = beyond_accuracy(evaluation, dataset, split, kinds)
    return Beyond(per_user | further.per_user, means | further.means)


def means_of(
    evaluation: Evaluation, dataset: Dataset, split: str, names: Iterable[str] = ()
) -> dict[str, float]:
    """Return the means over users, or values of all lists together; arguments as of ``measured``."""
    return measured(evaluation, dataset, split, names).means


def values_of(evaluation: Evaluation, dataset: Dataset, split: str, name: str) -> Floats | None:
    """Return a metric's values of the users (n,); None for a metric of all lists together.

    Args:
        evaluation: result of ``refit_env.evaluation.ranking.evaluate``.
        dataset: the data set of the evaluation.
        split: the split of the evaluation.
        name: the metric with its list length.
    """
    kind = name.partition("@")[0]
    if name in evaluation.per_user or kind not in OF_USERS:
        return evaluation.per_user.get(name)
    return measured(evaluation, dataset, split, [name]).per_user[name]
