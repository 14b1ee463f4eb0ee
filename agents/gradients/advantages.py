"""Baselines: what is taken off a reward before it weighs a log-probability's gradient.

Letters: B users in the batch, G episodes of each user. Rewards come as (B, G) float.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from refit_env.errors import SettingError, unknown_name

if TYPE_CHECKING:  # the baselines' names are in settings, which are read without PyTorch
    from torch import Tensor

EPSILON = 1e-3
"""Floor of a group's deviation; with less, rounding residue of equal counts is blown up."""


def none(reward: Tensor) -> Tensor:
    """Return the reward itself: the literal estimator of arXiv 2511.06937."""
    return reward


def batch(reward: Tensor) -> Tensor:
    """Subtract the mean of all the other episodes of the batch (unbiased: none is its own baseline)."""
    flat = reward.flatten()
    return _leave_one_out(flat).view_as(reward) if flat.numel() > 1 else reward


def leave_one_out(reward: Tensor) -> Tensor:
    """Subtract the mean of the user's other episodes (RLOO, arXiv 2402.14740): unbiased, per user.

    Raises:
        ValueError: with one episode per user, which has no others.

    Example:
        >>> import torch
        >>> leave_one_out(torch.tensor([[3.0, 0.0, 0.0]]))
        tensor([[ 3.0000, -1.5000, -1.5000]])
    """
    if reward.shape[1] < 2:
        raise ValueError(
            "baseline 'leave_one_out' needs samples_per_user >= 2; use 'batch' for one episode a user"
        )
    return _leave_one_out(reward)


def group(reward: Tensor) -> Tensor:
    """Standardise within the user's episodes (GRPO, arXiv 2402.03300); biased by its own mean and scale."""
    if reward.shape[1] < 2:
        raise ValueError("baseline 'group' needs samples_per_user >= 2; use 'batch' for one episode a user")
    centred = reward - reward.mean(1, keepdim=True)
    return centred / reward.std(1, keepdim=True).clamp(min=EPSILON)


def group_mean(reward: Tensor) -> Tensor:
    """Subtract the mean of the user's episodes (Dr. GRPO, arXiv 2503.20783); no division by their spread."""
    if reward.shape[1] < 2:
        raise ValueError(
            "baseline 'group_mean' needs samples_per_user >= 2; use 'batch' for one episode a user"
        )
    return reward - reward.mean(1, keepdim=True)


def _leave_one_out(reward: Tensor) -> Tensor:
    """Subtract from each entry the mean of the others along the last dimension."""
    count = reward.shape[-1]
    return (reward - reward.mean(-1, keepdim=True)) * (count / (count - 1))


BASELINES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": none,
    "batch": batch,
    "leave_one_out": leave_one_out,
    "group": group,
    "group_mean": group_mean,
}
OF_A_GROUP = ("leave_one_out", "group", "group_mean")
"""The baselines that are made of a user's own episodes."""


def check_baseline(name: str, samples_per_user: int) -> None:
    """Refuse a baseline of a user's own episodes where there is one episode of each.

    Raises:
        SettingError: naming ``samples_per_user``.
    """
    if name in OF_A_GROUP and samples_per_user < 2:
        raise SettingError(
            "samples_per_user",
            f"must be >= 2 for baseline {name!r}, found {samples_per_user}; "
            "use baseline 'batch' for one episode a user",
        )


def advantage(name: str, reward: Tensor) -> Tensor:
    """Apply the baseline called ``name`` to rewards (B, G); returns (B, G)."""
    if name not in BASELINES:
        raise unknown_name("baseline", name, BASELINES)
    return BASELINES[name](reward.float())
