"""The base classes of rewards, and of list rewards: sums over the positions of a top-K list.

Letters: B users (episodes) in the batch, I items, K list length, U users of the data set.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from refit_env.data.dataset import RowDataset
from refit_env.errors import ReturnedError, SettingError
from refit_env.evaluation.metrics import discounts, rankable
from refit_env.rewards.context import RewardContext, lists_of_each
from refit_env.utils.text import shown


class RewardResult(NamedTuple):
    """The reward of each episode of a batch.

    Attributes:
        value: (B,) float32, r(u_0).
        terms: the reward's parts by name, (B,) float32 each, unweighted.
        lists: (B, K) int64, the top-K lists, best item first.
    """

    value: Tensor
    terms: dict[str, Tensor]
    lists: Tensor


class Reward(ABC):
    """A terminal reward r(u_0): one number for each episode.

    A call depends on its arguments and the settings only (and, where ``uses_lists``, on the lists last
    set), not on earlier calls. The reward of an episode does not depend on the rest of its batch.

    Attributes:
        context: the data, the relevance and K.
        term_names: names of the terms in its results.
        counts_relevant: whether it counts relevant items, so that there must be some.
        needs_rows: whether it rewards items of the history, which only lists of sequential and check-in sets
            may hold.
        needs_dislikes: whether it reads items that users rated low, so that the data set must have some.
        outside: whether it sends requests to an endpoint, which its settings must name.
    """

    term_names: tuple[str, ...] = ()
    counts_relevant: ClassVar[bool] = False
    needs_rows: ClassVar[bool] = False
    needs_dislikes: ClassVar[bool] = False
    outside: ClassVar[bool] = False

    def __init__(self, context: RewardContext) -> None:
        """Set the context; subclasses have their settings as further keyword arguments.

        Raises:
            ValueError: if it counts relevant items and the relevance is ``none``, or the data set
                has no rows in order of time, or no dislikes, that it needs.
        """
        if self.counts_relevant and context.relevance.mode == "none":
            raise ValueError(
                f"reward {type(self).__name__} counts relevant items, and under relevance 'none' no item is: "
                "use 'holdout', 'recent', 'train' or 'validation', or a reward model ('ease', 'gf_cf')"
            )
        if self.needs_rows and not isinstance(context.dataset, RowDataset):
            raise ValueError(
                f"reward {type(self).__name__} rewards items of the history, and lists of "
                f"{context.dataset.name!r} may not hold those: use it with sequential and check-in "
                "sets in order of time"
            )
        if self.needs_dislikes and context.dataset.dislikes is None:
            where = context.dataset.name
            raise ValueError(
                f"reward {type(self).__name__} reads items that users rated low, and {where!r} has none: "
                "prepare it with --dislike-below (in Python Recipe(dislike_below=...))"
            )
        self.context = context

    @property
    def uses_lists(self) -> bool:
        """Whether it depends on the lists of all users, which an agent should then ``refresh``."""
        return False

    def lists_read(self, users: Tensor) -> Tensor | None:
        """Return the users (n,) whose lists the rewards of ``users`` (B,) depend on; None: all users."""
        return None if self.uses_lists else users[:0]

    @property
    def k(self) -> int:
        """K."""
        return self.context.k

    def __call__(
        self, scores: Tensor, users: Tensor, lists: Tensor | None = None, *, finite: bool = False
    ) -> RewardResult:
        """Reward each episode.

        Args:
            scores: (B, I) float, as denoised; items that no list may hold are masked here. -inf counts as
                the lowest finite number.
            users: (B,) int64.
            lists: (B, K) their top-K lists if the caller has them already (from ``top_k``).
            finite: whether the caller has checked that every score is finite, so that none is checked here.

        Returns:
            The rewards, their terms and the lists.

        Raises:
            ValueError: if scores hold NaN or have another shape than (B, I), or the rewards of ``compute``
                another one than (B,).
            ReturnedError: if ``compute`` returns no pair of a tensor and terms.
        """
        expected = (users.numel(), self.context.num_items)
        if tuple(scores.shape) != expected:
            raise ValueError(f"scores of shape {tuple(scores.shape)}, expected {expected}: users, items")
        scores = scores if finite else rankable(scores)
        lists = self.context.ranked(scores, users) if lists is None else lists
        value, terms = self.computed(scores, users, lists)
        return RewardResult(value.float(), terms, lists)

    def computed(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what ``compute`` returns, checked; of a user's own class every reward must be finite.

        Raises:
            ReturnedError: if it is no pair of a tensor and terms.
            ValueError: if the rewards have another shape than (B,), or one of a user's class is not finite.
        """
        value, terms = _checked_pair(type(self).__name__, self.compute(scores, users, lists), users)
        if self.is_own:
            parts = [("", value), *((f", term {name!r}", term) for name, term in terms.items())]
            # (1 + terms, B)
            finite = torch.stack([torch.isfinite(part).to(value.device) for _, part in parts])
            for place, episode in torch.nonzero(~finite)[:1].tolist():
                what, part = parts[place]
                self._refuse("compute", part[episode], users[episode], what)
        return value, terms

    @property
    def is_own(self) -> bool:
        """Whether the class is a user's, so that the numbers that it returns are checked."""
        return not type(self).__module__.startswith(f"{__package__}.")

    def _refuse(self, method: str, value: Tensor, user: Tensor, what: str = "") -> NoReturn:
        """Raise a ValueError that names the class, its method, the number and whose it is."""
        whose = self.context.dataset.users_by_id.named(int(user))
        raise ValueError(
            f"{type(self).__name__}: {method} returned {float(value)} for {whose}{what}; every number must "
            "be finite"
        )

    @abstractmethod
    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the reward (B,) and its terms by name, from scores (B, I), users (B,) and lists (B, K).

        The scores are finite.
        """

    def top_k(self, scores: Tensor, users: Tensor) -> Tensor:
        """(B, K) the lists of ``scores`` (B, I), best item first, ties to the lower id."""
        return self.context.top_k(scores, users)

    def hidden(self, users: Tensor) -> Tensor | None:
        """(B, I) bool, the items that no list of ``users`` may hold, or None."""
        return self.context.hidden_mask(users)

    def parts(self) -> list[tuple[Reward, float]]:
        """Return the rewards of which this one is a weighted sum: itself, unless it is a mix."""
        return [(self, 1.0)]

    @property
    def selecting(self) -> npt.NDArray[np.int64] | None:
        """(m,) users whose validation items it does not read, so that they can select; None: all can."""
        return self.context.relevance.selecting

    def with_own_lists(self) -> Reward:
        """Return the reward with its own table of lists; itself if it uses none.

        A shallow copy, so ``set_lists`` must assign attributes, not change them in place.
        """
        return copy.copy(self) if self.uses_lists else self

    @property
    def scheduled(self) -> bool:
        """Whether it changes during training, so that an agent should call ``set_progress``."""
        return False

    def set_progress(self, share: float) -> None:  # noqa: B027  # most rewards stay
        """Set how much of the training is done, 0 to 1, for weights that follow a schedule."""

    def set_lists(self, lists: Tensor) -> None:  # noqa: B027  # most rewards use no other lists
        """Set the table of all users' lists (U, K) int64; a reward that uses none ignores it."""

    def refresh(self, score: Callable[[Tensor], Tensor], batch: int = 512) -> None:
        """Set all users' lists to those of a model, if the reward uses them.

        Args:
            score: users (B,) -> scores (B, I), for example of ``DiffusionPolicy.scorer``.
            batch: users scored at a time.
        """
        refresh_all([self], score, batch)


def refresh_all(
    rewards: Sequence[Reward], score: Callable[[Tensor], Tensor], batch: int = 512
) -> list[Tensor]:
    """``Reward.refresh`` for the rewards of several environments: each user is scored once.

    Returns:
        The lists (U, K) of each, as its own relevance allows; none where no reward uses them.
    """
    using = [reward for reward in rewards if reward.uses_lists]
    contexts = list({id(reward.context): reward.context for reward in using}.values())
    found = dict(zip(map(id, contexts), lists_of_each(contexts, score, batch), strict=True))
    for reward in using:
        reward.set_lists(found[id(reward.context)])
    return [found[id(reward.context)] for reward in using]


class ListReward(Reward):
    """A sum over the list: sum over ranks of discount[rank] * gains[item at that rank].

    Subclasses define the gains of each term and its weight. Estimators that use this form have far less
    variance than the score function: see ``agents.gradients.estimators``.

    Attributes:
        weights: weight of each term in the reward.
        discount: (K,) float32 weight of each rank, non-increasing.
    """

    def __init__(self, context: RewardContext, discount: Tensor, weights: Mapping[str, float]) -> None:
        """Set the discount (K,) and the terms' weights."""
        super().__init__(context)
        if discount.shape != (context.k,):
            raise ValueError(
                f"{type(self).__name__}: discount of shape {tuple(discount.shape)}, expected ({context.k},): "
                "a weight for each rank"
            )
        self.discount = discount.to(context.device)
        self.weights = dict(weights)
        self.term_names = tuple(weights)

    @abstractmethod
    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """By term, (B, I) float32: the gain of each item in the lists of ``users`` (B,)."""

    def term_gains_at(self, users: Tensor, lists: Tensor) -> dict[str, Tensor]:
        """By term, (B, K) float32: the gains of the lists' items; subclasses may avoid (B, I) gains."""
        # A user's episodes are consecutive.
        some, index = torch.unique_consecutive(users, return_inverse=True)
        return {name: gain[index[:, None], lists] for name, gain in self._checked_gains(some).items()}

    def _checked_gains(self, users: Tensor) -> dict[str, Tensor]:
        """Return ``term_gains``; raise a ValueError for a wrong type or shape, or a term without a weight.

        Of a user's class every gain must be finite: the derivative of another one is no number.
        """
        gains: Any = self.term_gains(users)
        own = type(self).__name__
        if not isinstance(gains, dict) or not gains:
            raise ReturnedError(f"{own}: term_gains returned {shown(gains)}, expected tensors by term")
        shape = (users.numel(), self.context.num_items)
        for name, gain in gains.items():
            if not isinstance(gain, Tensor):
                kind = type(gain).__name__
                raise ReturnedError(f"{own}: term_gains returned {kind} for {name!r}, expected a tensor")
            if name not in self.weights:
                raise ValueError(
                    f"{own}: term_gains returned the term {name!r}, which has no weight; the "
                    f"weights are of {', '.join(self.weights)}"
                )
            if gain.shape != shape:
                raise ValueError(
                    f"{own}: term_gains returned shape {tuple(gain.shape)} for {name!r}, "
                    f"expected {shape}: a gain for each user and item"
                )
            for row, item in torch.nonzero(~torch.isfinite(gain))[:1].tolist() if self.is_own else ():
                whose = f", {self.context.dataset.items_by_id.named(item)}, term {name!r}"
                self._refuse("term_gains", gain[row, item], users[row], whose)
        return gains

    def gains(self, users: Tensor) -> Tensor:
        """(B, I) float32: the gain of each item, summed over the weighted terms."""
        out = torch.zeros(users.numel(), self.context.num_items, device=self.context.device)
        for name, gain in self._checked_gains(users).items():
            out.add_(gain, alpha=self.weights[name])
        return out

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the discounted gains of each list."""
        gains = self.term_gains_at(users, lists)
        if self.context.lists_may_fall_short and self.context.hidden is not None:
            filler = self.context.hidden.at(users, lists) > 0  # (B, K)
            gains = {name: value.masked_fill(filler, 0.0) for name, value in gains.items()}
        # In float64, so that an episode's reward does not depend on the batch that it is summed in.
        terms = {name: (value * self.discount).double().sum(1).float() for name, value in gains.items()}
        return weighted_sum([(self.weights[name], value) for name, value in terms.items()]), terms


def _checked_pair(name: str, found: Any, users: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what ``compute`` of the class ``name`` returned for ``users`` (B,), if it is as it should be."""
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], Tensor)):
        raise ReturnedError(
            f"{name}: compute returned {type(found).__name__}, expected a pair: the rewards, a tensor of one "
            "number for each episode, and the terms by name"
        )
    value, terms = found
    if value.shape != users.shape:
        raise ValueError(
            f"{name}: compute returned rewards of shape {tuple(value.shape)}, expected {tuple(users.shape)}: "
            "one number for each episode"
        )
    if not isinstance(terms, Mapping):
        raise ReturnedError(
            f"{name}: compute returned {shown(terms)} for the terms, expected tensors by name"
        )
    for term, part in terms.items():
        if not (isinstance(part, Tensor) and part.shape == users.shape):
            what = f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else shown(part)
            raise ReturnedError(
                f"{name}: compute returned {what} for the term {shown(term)}, expected a tensor of shape "
                f"{tuple(users.shape)}: one number for each episode"
            )
    return value, dict(terms)


def weighted_sum(parts: list[tuple[float, Tensor]]) -> Tensor:
    """Sum of weight * value (B,), term by term, so that no episode's sum depends on the batch."""
    total = torch.zeros_like(parts[0][1])
    for weight, value in parts:
        total = total + weight * value
    return total


def rank_discount(name: str, k: int) -> Tensor:
    """(K,) weights of the ranks that sum to 1.

    Args:
        name: ``"flat"`` (1 / K each: the list's mean) or ``"log"`` (1 / log2(rank + 1), scaled).
        k: K.

    Raises:
        ValueError: for another name.

    Example:
        >>> rank_discount("log", 2)
        tensor([0.6131, 0.3869])
    """
    if name == "flat":
        return torch.full((k,), 1.0 / k)
    if name == "log":
        weight = discounts(k)
        return weight / weight.sum()
    raise SettingError("discount", f"must be 'flat' or 'log', found {shown(name)}")
