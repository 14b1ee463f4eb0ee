"""The data of the denoising explorer: chains of some users, of the start and of the run's model.

Letters: B users, I items, D size of the diffused vector, T steps, K shown items, S bins of a strip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.reports.measured import Measured
from refit_env.data import Dataset, RowDataset
from refit_env.data.rows import SparseRows
from refit_env.evaluation.metrics import top_k
from refit_env.policy import DiffusionPolicy

SHOWN = 20
"""K."""
STATES = 8
"""States of a chain that are kept, the first and the last among them."""
BINS = 72
"""S."""
HISTORY, RELEVANT = 12, 12
"""Items of the history (the latest) and held-out items that are listed, at most."""
LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""Digits of a strip: 0 is the lowest value of a state, z the highest."""
OF_ITEMS = "left the items with the highest final scores, one each, then ever more together."
OF_DIMENSIONS = "its places are dimensions of the embedding."
"""What the places of a strip are."""
_BATCH = 64


@dataclass(frozen=True)
class Sample:
    """The users of the explorer.

    Attributes:
        users: (B,) ids of the data set's episodes, by group.
        groups: name of each user's group.
    """

    users: list[int]
    groups: list[str]


def choose_users(measured: Measured, count: int, named: Sequence[int] = (), seed: int = 0) -> Sample:
    """Choose the users of the explorer.

    Those that were named; then a fifth each of the users with the largest gain, the largest loss, the fewest
    and the most train items; the rest are drawn at random.

    Args:
        measured: the models.
        count: users besides the named ones, at most.
        named: episodes that the caller chose; those without test items among them have no hits.
        seed: of the draw.
    """
    users, gain, items = measured.after.users, measured.gain, measured.counts
    chosen: dict[int, str] = dict.fromkeys((int(user) for user in named), "chosen by --users")
    share, limit = max(1, count // 5), len(chosen) + count

    def add(order: npt.NDArray[np.int64], group: str, most: int) -> None:
        for user in users[order].tolist():
            if most <= 0 or len(chosen) >= limit:
                return
            if user not in chosen:
                chosen[user] = group
                most -= 1

    rising = np.argsort(-gain, kind="stable")
    if measured.before is not None:
        add(rising[gain[rising] > 0], "largest gains", share)
        falling = rising[::-1]
        add(falling[gain[falling] < 0], "largest losses", share)
    few = np.argsort(items, kind="stable")
    add(few, "fewest train items", share)
    add(few[::-1], "most train items", share)
    add(np.random.default_rng(seed).permutation(users.size), "drawn at random", count)
    return Sample(list(chosen), list(chosen.values()))


def explorer(
    measured: Measured, before: DiffusionPolicy | None, after: DiffusionPolicy, sample: Sample
) -> dict[str, Any]:
    """Return the chains of a sample, JSON-plain.

    Returns:
        ``metric`` (its name), ``sampled`` and ``order`` (sentences on the users and on the strips), ``steps``
        (names of the states), ``items`` (names of the items that occur) and ``users``. A user has
        ``id``, ``user`` (its id in the source), ``group``, ``train`` (number of train items), ``metric``
        before and after, ``history`` and ``held`` (places in ``items``), and ``before`` and ``after`` with a
        list and a strip for each state.
    """
    dataset = measured.dataset.episodes
    policies = {"before": before, "after": after}
    made = {
        name: chains(policy, dataset, sample.users) for name, policy in policies.items() if policy is not None
    }
    names = Names(measured.dataset)
    out = []
    for at, (user, group) in enumerate(zip(sample.users, sample.groups, strict=True)):
        test = dataset.test.of(user)
        entry = {
            "id": label_of(measured.dataset, user),
            "user": str(measured.dataset.users_by_id.of(session_of(dataset, user))),
            "group": group,
            "train": int(dataset.train.counts[user]),
            "metric": metric_of(measured, user),
            "history": [names.place(item) for item in dataset.train.of(user)[::-1][:HISTORY]],
            "held": [names.place(item) for item in test[:RELEVANT]],
            "heldCount": len(test),
        }
        for name, (lists, strips) in made.items():
            hits = set(test.tolist())
            entry[name] = {
                "lists": [[names.place(item) for item in state] for state in lists[at]],
                "hits": [[int(item in hits) for item in state] for state in lists[at]],
                "strips": strips[at],
            }
        out.append(entry)
    items = after.backbone.dim == after.backbone.num_items
    return {
        "metric": measured.metric.replace("ndcg", "NDCG"),
        "sampled": sampled(len(sample.users), len(measured.after.users), measured.dataset.unit),
        "order": OF_ITEMS if items else OF_DIMENSIONS,
        "historyTitle": "History, latest first" if dataset.time_ordered else "History",
        "steps": state_names(after.num_steps),
        "items": names.names,
        "users": out,
    }


def sampled(count: int, total: int, unit: str = "users") -> str:
    """Return a sentence on which of the evaluated users or rows (``unit``) the explorer holds.

    Example:
        >>> sampled(9, 9)
        'All 9 evaluated users are here.'
    """
    if count >= total:
        return f"All {total} evaluated {unit} are here."
    return (
        f"The page holds {count} of {total} evaluated {unit}: those with the largest gains and losses, the "
        "fewest and the most train items, and random ones; refit report --users ID adds others."
    )


def kept_states(num_steps: int) -> list[int]:
    """Return which of the states u_T (0) .. u_0 (T) are kept.

    Example:
        >>> kept_states(3), kept_states(100)
        ([0, 1, 2, 3], [0, 14, 29, 43, 57, 71, 86, 100])
    """
    if num_steps < STATES:
        return list(range(num_steps + 1))
    return [round(n * num_steps / (STATES - 1)) for n in range(STATES)]


def state_names(num_steps: int) -> list[int]:
    """Return the subscripts of the kept states: T .. 0."""
    return [num_steps - state for state in kept_states(num_steps)]


@torch.no_grad()
def chains(
    policy: DiffusionPolicy, dataset: Dataset, users: Sequence[int]
) -> tuple[list[list[list[int]]], list[list[str]]]:
    """Return the list and the strip of each kept state of users' noise-free chains.

    Args:
        policy: whose.
        dataset: the episodes.
        users: (B,) ids.

    Returns:
        Lists (B, states, K) of unseen items, empty where all unseen items have the same score, and strips
        (B, states) of S digits.
    """
    shown = policy.backbone.shown(dataset, policy.device)
    seen = SparseRows(dataset.masked("test"), policy.device)
    lists: list[list[list[int]]] = []
    strips: list[list[str]] = []
    for ids in torch.split(torch.tensor(users, device=policy.device), _BATCH):
        states, scores = _states(policy, ids, shown(ids))
        hidden = seen.mask(ids)  # (B, I)
        k = min(SHOWN, dataset.num_items)
        ranked = [top_k(score, k, hidden) for score in scores]  # (B, K) each
        empty = [
            hidden.gather(1, items) | tied(score, hidden)[:, None]
            for score, items in zip(scores, ranked, strict=True)
        ]
        order = _bins(states[-1], policy)
        for at in range(len(ids)):
            lists.append(
                [
                    [
                        item
                        for item, none in zip(items[at].tolist(), gone[at].tolist(), strict=True)
                        if not none
                    ]
                    for items, gone in zip(ranked, empty, strict=True)
                ]
            )
            strips.append([_strip(state[at], order[at]) for state in states])
    return lists, strips


def tied(scores: Tensor, hidden: Tensor) -> Tensor:
    """Return (B,) whether all items that are not hidden have the same score, so that they have no order.

    Args:
        scores: (B, I).
        hidden: (B, I) bool.

    Example:
        >>> scores, hidden = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 2.0]]), torch.zeros(2, 3, dtype=bool)
        >>> hidden[:, 0] = True
        >>> tied(scores, hidden).tolist()
        [True, False]
    """
    highest = scores.masked_fill(hidden, -torch.inf).amax(1)
    return highest <= scores.masked_fill(hidden, torch.inf).amin(1)


def _states(policy: DiffusionPolicy, users: Tensor, shown: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The kept states (B, D) of a chain, and their scores (B, I)."""
    dtype = policy.std.dtype
    u = policy.backbone.initial_state(users, shown).to(dtype)  # (B, D)
    context = policy.backbone.context(users, shown)  # (B, C) or None
    context = None if context is None else context.to(dtype)
    condition, kept = policy.encode(context), set(kept_states(policy.num_steps))
    states = [u]
    for t in range(policy.num_steps):
        u = policy.mean(u, t, condition)
        if t + 1 in kept:
            states.append(u)
    return states, [policy.backbone.scores(state, users, context) for state in states]


def _bins(last: Tensor, policy: DiffusionPolicy) -> Tensor:
    """(B, D) the order of a strip: where u holds item scores, by the last one; else as they are."""
    if policy.backbone.dim != policy.backbone.num_items:
        return torch.arange(last.shape[1], device=last.device).expand(last.shape[0], -1)
    return last.argsort(dim=1, descending=True, stable=True)


def _strip(state: Tensor, order: Tensor) -> str:
    """A state (D,) as S digits: means of bins that grow from one number each to many, by ``order`` (D,)."""
    values = state[order].double().cpu().numpy()  # (D,)
    edges = bin_edges(values.size)
    sums = np.add.reduceat(values, edges[:-1])
    means = sums / np.diff(edges)
    low, high = float(means.min()), float(means.max())
    shares = (means - low) / ((high - low) or 1.0)
    return "".join(LETTERS[round(share * (len(LETTERS) - 1))] for share in shares.tolist())


def bin_edges(size: int, bins: int = BINS) -> npt.NDArray[np.int64]:
    """Return the edges of bins that hold one number each at first, and ever more.

    Example:
        >>> bin_edges(5, 3).tolist(), np.diff(bin_edges(3000))[[0, 20, 40, 71]].tolist()
        ([0, 1, 2, 5], [1, 1, 13, 287])
    """
    if size <= bins:
        return np.arange(size + 1)
    single = bins // 3
    rest = np.geomspace(single, size, bins - single + 1).round().astype(np.int64)
    edges = np.concatenate([np.arange(single), rest])
    for at in range(1, len(edges)):  # at least one number each
        edges[at] = max(edges[at], edges[at - 1] + 1)
    edges[-1] = size
    for at in range(len(edges) - 2, -1, -1):
        edges[at] = min(edges[at], edges[at + 1] - 1)
    return edges


class Names:
    """The names of the items that occur: each is stored once."""

    def __init__(self, dataset: Dataset) -> None:
        """Begin with none."""
        self._ids, self._titles = dataset.items_by_id, dataset.item_names
        self._places: dict[int, int] = {}
        self.names: list[str] = []

    def place(self, item: int) -> int:
        """Return the place of an item in ``names``."""
        item = int(item)
        if item not in self._places:
            self._places[item] = len(self.names)
            self.names.append(self.name(item))
        return self._places[item]

    def name(self, item: int) -> str:
        """Return the name of an item: its title, or its source's id."""
        title = "" if self._titles is None else str(self._titles[item]).strip()
        return title or f"item {self._ids.of(item)}"


def label_of(dataset: Dataset, user: int) -> str:
    """Return what the explorer calls an episode: the source's id of the user; of a row, with its place.

    Args:
        dataset: the data set, not its rows.
        user: an episode.
    """
    rows = dataset.episodes
    session = session_of(rows, user)
    own = str(dataset.users_by_id.of(session))
    if not isinstance(rows, RowDataset):
        return own
    before = int(np.count_nonzero(rows.sessions[:user] == session))
    return f"{own}, event {before + 2}"


def session_of(rows: Dataset, user: int) -> int:
    """Return the number of the source's user of an episode."""
    return int(rows.sessions[user]) if isinstance(rows, RowDataset) else user


def episodes_of(dataset: Dataset, given: str) -> int:
    """Return the episode of the source's user id; of rows, the latest one that has a test item.

    Raises:
        ValueError: for an unknown id, or a user without any episode.
    """
    number, rows = dataset.users_by_id.number(given), dataset.episodes
    if not isinstance(rows, RowDataset):
        return number
    own = np.flatnonzero(rows.sessions == number)
    if not own.size:
        raise ValueError(f"{dataset.users_by_id.named(number)} has one event or none, thus no chain")
    return int(own[-1])


def metric_of(measured: Measured, user: int) -> list[float | None]:
    """Return the metric of a user before and after; None where there is none."""
    place = int(np.searchsorted(measured.after.users, user))
    if place == len(measured.after.users) or measured.after.users[place] != user:
        return [None, None]
    old = None if measured.before is None else float(measured.before.per_user[measured.metric][place])
    return [old, float(measured.after.per_user[measured.metric][place])]
