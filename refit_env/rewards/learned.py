"""A learned reward model: an ensemble of small networks, fitted to validation feedback.

A member maps the visible row to r factors z = V^T x / |V^T x|, and scores all items by a network with one
hidden layer beside the factors themselves:

    s = (z + W_2 tanh(W_1 z)) (c V)^T + b,    b the logarithm of the items' popularity at the start,

trained by cross-entropy over the items, the user's visible ones left out, on the validation items of a part
of the users. The members differ in their start and in their users (drawn with replacement). A prediction is
the members' mean probability less ``penalty`` times their standard deviation: items on which they disagree
earn less, which makes it harder to exploit an error of one (Coste et al., ICLR 2024, arXiv 2310.02743).

The users who are left select the weights, as under relevance ``validation``.

Letters: B users in the batch, n users with feedback, I items, r rank, H hidden units, E members.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from msgspec import Meta
from torch import Tensor

from refit_env.data.rows import SparseRows
from refit_env.item_factors import item_factors
from refit_env.rewards.context import RewardContext
from refit_env.rewards.linear_models import ModelReward
from refit_env.rewards.relevance import Relevance, common, make_relevance
from refit_env.settings import Nonnegative, Seed, Size, check_setting
from refit_env.utils.content_cache import CACHE

Members = Annotated[int, Meta(ge=1, le=64)]
"""E."""
Epochs = Annotated[int, Meta(ge=1, le=1000)]
"""Passes over the users with feedback."""
RATE, BATCH, DECAY = 3e-3, 256, 1e-4
"""Adam's step size, users in a batch, and weight decay of the fit."""


class Member(NamedTuple):
    """One fitted network."""

    first: Tensor
    """W_1 (H, r)."""
    second: Tensor
    """W_2 (r, H)."""
    scale: Tensor
    """C, a scalar."""
    bias: Tensor
    """B (I,)."""

    def scores(self, z: Tensor, table: Tensor) -> Tensor:
        """(B, I) from factors ``z`` (B, r) and the items' ``table`` V (I, r)."""
        return (z + torch.tanh(z @ self.first.T) @ self.second.T) @ table.T * self.scale + self.bias


class Learned(ModelReward):
    """``learned``: an ensemble of small networks fitted to validation items, less a penalty for disagreement.

    Half of the users with validation items are the feedback; the others select, so that no validation item
    both rewards and selects.
    """

    term = "learned"

    def __init__(
        self,
        context: RewardContext,
        *,
        members: int = 4,
        penalty: float = 1.0,
        rank: int = 64,
        hidden: int = 64,
        epochs: int = 30,
        seed: int = 0,
    ) -> None:
        """Fit.

        Args:
            context: data, relevance, K.
            members: E, networks of the ensemble; with one there is no penalty.
            penalty: factor of the members' standard deviation that is subtracted.
            rank: r, factors of the visible rows; data of a lower rank have fewer.
            hidden: H, hidden units.
            epochs: passes over the users with feedback.
            seed: of the starts and the drawn users.

        Raises:
            ValueError: if a setting is out of range, or no user has feedback.
        """
        check_setting("members", members, Members)
        check_setting("penalty", penalty, Nonnegative)
        check_setting("rank", rank, Size)
        check_setting("hidden", hidden, Size)
        check_setting("epochs", epochs, Epochs)
        check_setting("seed", seed, Seed)
        super().__init__(context)
        self.penalty = float(penalty)
        own = context.relevance
        self._feedback = own if own.mode == "validation" else _feedback_of(context)
        self._selecting = common([own.selecting, self._feedback.selecting])
        rows = self._feedback.visible
        rank = min(rank, *(size - 1 for size in rows.shape))
        self._table = torch.from_numpy(item_factors(rows, rank).copy())  # (I, r)
        key = (rows, self._feedback.relevant, self._feedback.users, members, rank, hidden, epochs, seed)
        fitted = CACHE.get(
            "learned reward", key, lambda: _fit(self._feedback, self._table, members, hidden, epochs, seed)
        )
        # In float64, so that a reward does not depend on the rest of its batch.
        self._members = [Member(*(part.double().to(context.device) for part in member)) for member in fitted]
        self._table = self._table.double().to(context.device)
        self._rows = SparseRows(own.visible, context.device)

    @property
    def selecting(self) -> npt.NDArray[np.int64] | None:
        """(m,) users whose validation items it was not fitted to; None: all can select."""
        return self._selecting

    @torch.no_grad()
    def predict(self, users: Tensor) -> Tensor:
        """Return the mean probability of each item less the penalty, from the visible row."""
        mean, std = self.moments(users)
        return mean - self.penalty * std

    @torch.no_grad()
    def moments(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """(B, I) mean and standard deviation over the members of each item's probability."""
        z = _factors(self._rows, users, self._table)
        found = torch.stack([torch.softmax(m.scores(z, self._table), 1) for m in self._members])  # (E, B, I)
        std = found.std(0, unbiased=False)
        return found.mean(0).float(), std.float()


def _feedback_of(context: RewardContext) -> Relevance:
    """The validation items of a part of the users.

    Raises:
        ValueError: if nobody has any.
    """
    share = context.relevance.selection_share
    try:
        return make_relevance("validation", context.dataset, selection_share=share)
    except ValueError as error:
        raise ValueError(f"reward 'learned' is fitted to validation items: {error}") from error


def _factors(rows: SparseRows, users: Tensor, table: Tensor) -> Tensor:
    """(B, r) the factors of the visible rows, of length 1."""
    place, item, value = rows.entries(users)  # (n,) each
    z = torch.zeros(users.numel(), table.shape[1], dtype=torch.float64, device=table.device)
    z.index_add_(0, place, table[item].double() * value.double()[:, None])
    length: Tensor = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    unit: Tensor = z / length.clamp(min=1e-12)
    return unit.to(table.dtype)


@torch.enable_grad()  # also where a caller needs no gradients
def _fit(
    feedback: Relevance, table: Tensor, members: int, hidden: int, epochs: int, seed: int
) -> list[Member]:
    """Fit each member to its own sample of the users with feedback."""
    visible, relevant = SparseRows(feedback.visible), SparseRows(feedback.relevant)
    users = torch.from_numpy(feedback.users)  # (n,)
    z = _factors(visible, users, table)  # (n, r)
    counts = np.bincount(feedback.visible.indices, minlength=table.shape[0])
    start = torch.log(torch.from_numpy(counts).float() + 1.0)  # (I,)
    out = []
    for number in range(members):
        draws = torch.Generator().manual_seed(seed * 1009 + number)
        member = _start(table.shape[1], hidden, start, draws)
        optimizer = torch.optim.Adam(list(member), RATE, weight_decay=DECAY)
        for part in _batches(users.numel(), epochs, draws):
            scores = member.scores(z[part], table)  # (B, I)
            hid = visible.mask(users[part])
            if feedback.hidden is not None:
                scores = scores.masked_fill(hid, -math.inf)
            truth = relevant.dense(users[part])  # (B, I)
            log = torch.log_softmax(scores, 1).masked_fill(truth == 0, 0.0)
            loss = -((truth * log).sum(1) / truth.sum(1).clamp(min=1)).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        out.append(Member(*(part.detach() for part in member)))
    return out


def _start(rank: int, hidden: int, bias: Tensor, draws: torch.Generator) -> Member:
    """Return a network before its training."""
    first = torch.randn(hidden, rank, generator=draws) / math.sqrt(rank)
    second = torch.randn(rank, hidden, generator=draws) * 0.1 / math.sqrt(hidden)
    parts = first, second, torch.tensor(10.0), bias.clone()
    return Member(*(part.requires_grad_(True) for part in parts))


def _batches(count: int, epochs: int, draws: torch.Generator) -> Iterator[Tensor]:
    """Yield positions of users: a sample with replacement, shuffled in each epoch."""
    sample = torch.randint(count, (count,), generator=draws)
    for _ in range(epochs):
        yield from torch.split(sample[torch.randperm(count, generator=draws)], BATCH)
