"""A user's own function as a reward.

Letters: B users in the batch, I items, K list length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from refit_env.errors import ReturnedError
from refit_env.rewards.base import Reward, RewardResult
from refit_env.rewards.context import RewardContext
from refit_env.utils.user_code import is_async, misfit


class CallableReward(Reward):
    """A user's function of (scores (B, I), users (B,)), whose output is checked at every call."""

    term_names = ("custom",)

    def __init__(self, context: RewardContext, function: Callable[[Tensor, Tensor], Any]) -> None:
        """Wrap a function.

        Raises:
            ValueError: if it does not take scores and users, or must be awaited.
        """
        super().__init__(context)
        self.function = function
        self.name = str(getattr(function, "__name__", type(function).__name__))
        fault = misfit(function, 2)
        if fault is not None:
            raise ValueError(f"reward {self.name!r} accepts {fault}, expected (scores, users)")
        if is_async(function):
            raise ValueError(f"reward {self.name!r} is an async function, expected one without async")

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Call the function.

        Raises:
            ReturnedError: if it returns no numbers, or complex ones.
            ValueError: if it does not return (B,) of them, or one is NaN or infinite.
        """
        given = self.function(scores, users)
        given = given.value if isinstance(given, RewardResult) else given  # the function is a reward itself
        try:
            value = torch.as_tensor(given, device=scores.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ReturnedError(
                f"reward {self.name!r} returned {type(given).__name__}, expected a tensor or array of numbers"
            ) from error
        if value.is_complex():
            raise ReturnedError(f"reward {self.name!r} returned {value.dtype}, expected real numbers")
        if value.shape != users.shape:
            raise ValueError(
                f"reward {self.name!r} returned shape {tuple(value.shape)}, expected {tuple(users.shape)}: "
                "one number for each episode"
            )
        value = value.float()  # so that later arithmetic is not that of integers
        wrong = ~torch.isfinite(value)
        if bool(wrong.any()):
            place = int(torch.nonzero(wrong)[0])
            whose = self.context.dataset.users_by_id.named(int(users[place]))
            raise ValueError(
                f"reward {self.name!r} returned {float(value[place])} for {whose}, episode {place} of the "
                "batch; every reward must be finite"
            )
        return value, {"custom": value}
