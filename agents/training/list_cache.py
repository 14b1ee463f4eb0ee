"""A cache of users' lists with a time to live, for rewards that read the lists of some other users.

``neighbor_lists`` of RACS reads the lists of the neighbours of a batch. At each validation all users' lists
would be made for it, which a data set of a million users cannot afford; the cache makes those that a batch
needs and that are older than ``ttl`` iterations.

Letters: U users, B users in a batch, K list length, n users whose lists are needed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from refit_env.errors import SettingError
from refit_env.rewards.base import Reward

NEVER = -1
"""Iteration of a list that was not made yet."""


class ListCache:
    """The lists of users, each with the iteration in which it was made.

    Attributes:
        lists: (U, K) int64.
        made: (U,) int64, ``NEVER`` where none was made.
    """

    def __init__(self, reward: Reward, ttl: int) -> None:
        """Begin without lists.

        Args:
            reward: reads the lists.
            ttl: iterations after which a list is made again.

        Raises:
            SettingError: naming ``lists_ttl``, if the reward reads no lists, or those of all users.
        """
        context = reward.context
        if not reward.uses_lists or reward.lists_read(context.peers[:1]) is None:
            what = "those of all users" if reward.uses_lists else "none"
            raise SettingError(
                "lists_ttl",
                f"must be 0 for a reward that does not read the lists of some other users, as "
                f"variant='neighbor_lists' of racs does; this one reads {what}, found {ttl}",
            )
        self._reward, self._ttl = reward, ttl
        shape = context.num_users, context.k
        self.lists = torch.arange(context.k, device=context.device).expand(shape).clone()
        self.made = torch.full(shape[:1], NEVER, device=context.device)

    def refresh(
        self, users: Tensor, iteration: int, score: Callable[[Tensor], Tensor], batch: int = 512
    ) -> dict[str, float]:
        """Make the lists that the rewards of ``users`` (B,) need and that are missing or too old.

        Args:
            users: ids.
            iteration: the present one.
            score: users (b,) -> scores (b, I).
            batch: users scored at a time.

        Returns:
            ``lists/cache_hits``, the share of the needed lists that were there.
        """
        needed = self._reward.lists_read(users)  # (n,)
        assert needed is not None  # checked
        made = self.made[needed]
        old = needed[(made == NEVER) | (iteration - made >= self._ttl)]
        for some in torch.split(old, batch) if old.numel() else ():
            self.lists[some] = self._reward.top_k(score(some), some)
        self.made[old] = iteration
        self._reward.set_lists(self.lists)
        return {"lists/cache_hits": 1.0 - old.numel() / max(1, needed.numel())}
