"""Lists for users of a data set and for people who are in none, a batch at a time.

Letters: B people in a batch, n the longest history, I items, K list length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from agents.serving.graph import NOTHING, popular_where_alike, popularity
from refit_env.backbones.base import Lookup
from refit_env.backbones.row_weights import latest_items
from refit_env.data import Dataset
from refit_env.data.interactions import SPLITS
from refit_env.data.rows import SparseRows
from refit_env.data.sequences import LENGTHS
from refit_env.evaluation.metrics import top_k
from refit_env.policy import DiffusionPolicy


@dataclass(frozen=True)
class Query:
    """Whose list; users and items are numbers."""

    user: int | None = None
    """A user of the data set; None for the owner of ``history``."""
    history: tuple[int, ...] = ()
    """Items of a person who is in no data set, oldest first."""
    hidden: tuple[int, ...] = ()
    """Further items that the list leaves out."""
    only: tuple[int, ...] | None = None
    """The items that the list is made of; None: all."""
    repeats: bool = False
    """Whether the list may hold items that the person has, as the lists that evaluation measures of data in
    order of time."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """A list, best item first."""

    items: npt.NDArray[np.int64]
    """(K,) numbers of the items; fewer where fewer are left."""
    scores: npt.NDArray[np.float32]
    """(K,) their scores."""


class NoRepeats(ValueError):
    """Lists of a set of items never hold an item that the person has."""


class NoHistory(ValueError):
    """A model ranks for the users of its data alone."""


class Ranker:
    """A policy and a data set as a recommender: the deployed lists, by the noise-free chain.

    The model reads every interaction of a user, held-out ones included, and the list leaves all of them out,
    unless the query says that it may repeat them. Where it scores all items alike, as a closed form does for
    a person without items, the popular ones come first.

    Attributes:
        policy: the recommender.
        dataset: the data set, not its rows.
    """

    def __init__(self, policy: DiffusionPolicy, dataset: Dataset) -> None:
        """Check that the policy fits the data.

        Raises:
            ValueError: if the data set has another number of items than the policy, or another task.
            DataError: if it is another data set than the policy was trained on.
        """
        self.policy, self.dataset = policy.eval(), dataset
        self._shown: Lookup = policy.inputs(dataset.served)
        self._length = LENGTHS[dataset.task] if dataset.has_rows else None

    @cached_property
    def _known(self) -> SparseRows:
        """The items of each user, of all splits."""
        whole = sum((self.dataset.split(split).csr for split in SPLITS[1:]), self.dataset.train.csr)
        return SparseRows(sp.csr_matrix(whole), self.policy.device)

    @cached_property
    def _popular(self) -> Tensor:
        return popularity(self.dataset).to(self.policy.device)

    def known(self, user: int) -> npt.NDArray[np.int64]:
        """Return the items (n,) that a user has, ascending."""
        held = [self.dataset.split(split).of(user) for split in SPLITS]
        return np.unique(np.concatenate(held)).astype(np.int64)

    def history(self, user: int) -> npt.NDArray[np.int64]:
        """Return the items (n,) that a user has, oldest first where time is known, each once."""
        if self.dataset.has_rows:
            held = np.concatenate([self.dataset.split(split).of(user) for split in SPLITS])
        else:
            held = self.dataset.served.train.of(user)
        latest = dict.fromkeys(held[::-1].tolist())
        return np.array(list(latest)[::-1], dtype=np.int64)

    def inputs(self, queries: Sequence[Query]) -> tuple[Tensor, Tensor]:
        """Return the network's input (B, ...), and the items (B, I) bool that the lists leave out.

        Raises:
            NoHistory: for a history, of a model that ranks for the users of its data alone.
            NoRepeats: for a set of items, if a list may repeat them.
        """
        device, count = self.policy.device, self.dataset.num_items
        if any(query.repeats for query in queries):
            check_repeats(self.dataset)
        known = [place for place, query in enumerate(queries) if query.user is not None]
        others = [place for place, query in enumerate(queries) if query.user is None]
        hidden = torch.zeros(len(queries), count, dtype=torch.bool, device=device)
        parts = []
        if known:
            users = torch.tensor([queries[place].user for place in known], device=device)
            parts.append(self._shown(users))
            once = torch.tensor([not queries[place].repeats for place in known], device=device)  # (B,)
            hidden[known] = self._known.mask(users) & once[:, None]
        if others:
            histories = padded([queries[place].history for place in others], device)  # (B, n)
            latest = histories if self._length is None else latest_items(histories, count, self._length)
            try:
                parts.append(self.policy.backbone.show(latest))
            except ValueError as error:
                raise NoHistory(str(error)) from error
        for place, query in enumerate(queries):
            left_out = query.hidden if query.repeats else query.history + query.hidden
            if left_out:
                hidden[place, list(left_out)] = True
        for only in {query.only for query in queries if query.only is not None}:
            places = [place for place, query in enumerate(queries) if query.only == only]
            others_hidden = torch.ones(count, dtype=torch.bool, device=device)
            others_hidden[list(only)] = False
            hidden[places] |= others_hidden
        order = torch.tensor(known + others, device=device).argsort()
        return (parts[0] if len(parts) == 1 else torch.cat(parts)[order]), hidden

    def scores(self, queries: Sequence[Query]) -> tuple[Tensor, Tensor]:
        """Return the scores (B, I) of all items, and the items (B, I) bool that the lists leave out.

        Raises:
            NoHistory: for a history, of a model that ranks for the users of its data alone.
        """
        shown, hidden = self.inputs(queries)
        users = torch.tensor([query.user or 0 for query in queries], device=self.policy.device)
        return popular_where_alike(self.policy.recommend_scores(users, shown), self._popular), hidden

    def rank(self, queries: Sequence[Query], top: int) -> list[Ranked]:
        """Return the lists of at most ``top`` items.

        Raises:
            NoHistory: for a history, of a model that ranks for the users of its data alone.
            ValueError: for scores that are NaN.
        """
        return best(*self.scores(queries), top)

    @torch.no_grad()
    def chain(self, query: Query, top: int, most: int) -> list[tuple[int, Ranked, Tensor]]:
        """Return what one person's list would be after each step of the chain.

        Args:
            query: whose.
            top: K.
            most: most steps that are returned, evenly spaced; the last one is among them.

        Returns:
            For each step: how many steps were done, the list, and the scores (I,) of all items, -inf where
            an item is masked.
        """
        shown, hidden = self.inputs([query])
        backbone, users = self.policy.backbone, torch.tensor([query.user or 0], device=self.policy.device)
        u, context = backbone.initial_state(users, shown), backbone.context(users, shown)
        condition = self.policy.encode(context)
        steps = self.policy.num_steps
        kept = {round(steps * (part + 1) / most) for part in range(most)} | {steps}
        out = []
        for t in range(steps):
            u = self.policy.mean(u, t, condition)  # (1, D)
            if t + 1 in kept:
                scores = popular_where_alike(backbone.scores(u, users, context), self._popular)  # (1, I)
                ranked = best(scores, hidden, top)[0]
                out.append((t + 1, ranked, scores.masked_fill(hidden, -torch.inf)[0]))
        return out


def check_repeats(dataset: Dataset) -> None:
    """Refuse lists with items that a person has where evaluation masks these items.

    Raises:
        NoRepeats: for a set of items.
    """
    if not dataset.has_rows:
        raise NoRepeats(
            f"lists of {dataset.name!r} cannot repeat what a person has: it is a set of items, where these "
            "items are never relevant; sessions and visits in order of time can"
        )


def padded(histories: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor:
    """Return histories as one tensor (B, n) int64, padded at their ends with ``NOTHING``."""
    longest = max(1, *map(len, histories)) if histories else 1
    rows = [[*history, *[NOTHING] * (longest - len(history))] for history in histories]
    return torch.tensor(rows, dtype=torch.int64, device=device)


def best(scores: Tensor, hidden: Tensor, top: int) -> list[Ranked]:
    """Return the lists of at most ``top`` items by ``scores`` (B, I), without ``hidden`` (B, I) ones."""
    items = top_k(scores, min(top, scores.shape[1]), hidden)  # (B, K)
    left = (hidden.shape[1] - hidden.sum(1)).tolist()  # (B,)
    values = scores.gather(1, items).float().cpu().numpy()  # (B, K)
    rows = items.cpu().numpy()
    return [Ranked(row[:count], value[:count]) for row, value, count in zip(rows, values, left, strict=True)]
