"""Is a reward well formed: shapes, finite, repeatable, each episode on its own; its cost and its variance.

Letters: B users, N episodes, P episodes of each user, I items.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agents.reward_checks.episodes import Episodes, make_env, run_episodes
from refit_env.policy import DiffusionPolicy
from refit_env.rewards import Reward

TOLERANCE = 1e-5
"""Largest difference of two values of one episode that counts as none, in units of the reward's spread."""
ALONE = 16
"""Episodes that are rewarded one by one."""
USERS, SAMPLES = 128, 8
"""Users and episodes of each by which ``reward_spread`` measures."""


@dataclass(frozen=True)
class Check:
    """One property.

    Attributes:
        name: of it.
        passed: whether the reward has it.
        found: what was found, a clause.
    """

    name: str
    passed: bool
    found: str


def check_properties(reward: Reward, episodes: Episodes) -> list[Check]:
    """Return the checks of shape, finiteness, side effects, determinism and independence of the batch.

    Raises:
        TypeError, ValueError: what a user's function raises, or its wrapper of what it returned.
    """
    scores, users = episodes.scores.clone(), episodes.users.clone()
    before, whose = episodes.scores, episodes.users
    value = reward(scores, users).value
    if tuple(value.shape) != tuple(users.shape):
        raise ValueError(
            f"it returned shape {tuple(value.shape)}, expected {tuple(users.shape)}: one number an episode"
        )
    finite = int(torch.isfinite(value).sum())
    out = [Check("finite", finite == value.numel(), f"{finite} of {value.numel()} rewards are finite")]
    pairs = {"scores": (before, scores), "users": (whose, users)}
    changed = [name for name, (one, other) in pairs.items() if not torch.equal(one, other)]
    side_effects = (
        f"it changes {' and '.join(changed)} in place" if changed else "its arguments are as they were"
    )
    out.append(Check("free of side effects", not changed, side_effects))
    again = reward(before.clone(), whose.clone()).value
    out.append(_alike("deterministic", value, again, "two calls with the same scores differ by at most"))
    out.append(_alone(reward, before, whose, value))
    return out


def _alone(reward: Reward, scores: Tensor, users: Tensor, value: Tensor) -> Check:
    """Compare the rewards of a batch with those of single episodes, and of the batch in another order."""
    order = torch.arange(users.numel() - 1, -1, -1, device=users.device)
    turned = reward(scores[order], users[order]).value[order]
    places = torch.linspace(0, users.numel() - 1, min(ALONE, users.numel()), device=users.device).long()
    single = torch.cat(
        [reward(scores[n : n + 1].clone(), users[n : n + 1].clone()).value for n in places.tolist()]
    )
    whole = torch.cat([value, value[places]])
    others = torch.cat([turned, single])
    return _alike(
        "batch independent", whole, others, "alone or in another order an episode's reward differs by at most"
    )


def _alike(name: str, one: Tensor, other: Tensor, words: str) -> Check:
    """Compare two values of the same episodes."""
    gap = float((one.double() - other.double()).abs().max())
    spread = max(float(one.double().std()) if one.numel() > 1 else 0.0, 1e-12)
    passed = gap <= TOLERANCE * spread or gap <= 1e-7
    return Check(name, passed, f"{words} {gap:.2g}")


def seconds_per_thousand(reward: Reward, episodes: Episodes, calls: int = 3) -> float:
    """Return the seconds that 1,000 episodes take: of the fastest of several calls."""
    found = []
    for _ in range(calls):
        scores, users = episodes.scores.clone(), episodes.users.clone()
        begin = time.perf_counter()
        value = reward(scores, users).value
        float(value[0])  # waits for a GPU
        found.append(time.perf_counter() - begin)
    return min(found) * 1000 / episodes.users.numel()


def reward_spread(
    env_id: str,
    policy: DiffusionPolicy,
    env_kwargs: Mapping[str, Any],
    exploration_std: float,
    seed: int,
    device: str = "cpu",
) -> dict[str, float]:
    """Return ``spread`` of an environment's reward over eight episodes of each of up to 128 users.

    Args:
        env_id: a registered id.
        policy: acts; its exploration is changed.
        env_kwargs: keywords of the environment.
        exploration_std: standard deviation of each step.
        seed: of the users and the noise.
        device: where batches live.
    """
    if exploration_std <= 0:
        return {}
    target = torch.device(device)
    policy = policy.to(target)
    everyone = torch.as_tensor(make_env(env_id, policy, 1, env_kwargs, target).problem.users)
    draws = torch.Generator().manual_seed(seed)
    users = everyone[torch.randperm(everyone.numel(), generator=draws)[:USERS]].sort().values.to(target)
    env = make_env(env_id, policy, users.numel() * SAMPLES, env_kwargs, target)
    episodes = run_episodes(env, policy, users, exploration_std, (1.0,), seed)
    return spread(episodes.problem.reward_fn(episodes.scores, episodes.users).value, episodes)


def spread(value: Tensor, episodes: Episodes) -> dict[str, float]:
    """Return the mean of a reward at the exploration std, and how it varies within and between users.

    Args:
        value: (N,) rewards.
        episodes: of them; those at scale 1 count.

    Returns:
        ``mean``, ``std``, ``within_user_std`` (mean over users), ``within_share`` (of the variance that is
        within users) and ``zero_variance_share`` (users whose episodes are all rewarded alike).
    """
    at_one = episodes.by_user(episodes.scale) == 1.0  # (B, P)
    rows = episodes.by_user(value.double())[at_one].view(episodes.count, -1)  # (B, P')
    within = rows.var(1)  # (B,)
    total = float(rows.flatten().var())
    return {
        "mean": float(rows.mean()),
        "std": total**0.5,
        "within_user_std": float(within.sqrt().mean()),
        "within_share": float(within.mean()) / total if total > 0 else 0.0,
        "zero_variance_share": float((within < 1e-12).double().mean()),
    }
