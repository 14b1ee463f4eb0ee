"""Episodes on which a reward is measured: perturbed lists of a pretrained policy.

Letters: B users, P episodes of each, N = B * P, I items, K list length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import gymnasium as gym
import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from agents.rollouts.rollout import roll_out
from refit_env.data import Dataset, RowDataset
from refit_env.data.rows import SparseRows, without
from refit_env.envs.problem import DenoisingProblem
from refit_env.envs.vector import DenoisingVectorEnv
from refit_env.evaluation.metrics import ndcg_at_k, top_k
from refit_env.policy import DiffusionPolicy
from refit_env.registration import entry
from refit_env.rewards import Reward, RewardContext
from refit_env.rewards.registry import RewardSpec, reward_in

SCALES = (0.5, 1.0, 2.0, 4.0)
"""Standard deviations of the perturbations, in units of the exploration's."""


@dataclass
class Episodes:
    """Finished episodes of some users, at several sizes of noise.

    Attributes:
        problem: of the environment.
        users: (N,) int64, those of a user consecutive.
        scores: (N, I) item scores of u_0.
        scale: (N,) size of each episode's noise, in units of the exploration std.
    """

    problem: DenoisingProblem
    users: Tensor
    scores: Tensor
    scale: Tensor

    @property
    def count(self) -> int:
        """B."""
        return int(torch.unique_consecutive(self.users).numel())

    def by_user(self, value: Tensor) -> Tensor:
        """(B, P) the values (N,) of each user."""
        return value.view(self.count, -1)

    @cached_property
    def held_out_ndcg(self) -> tuple[Tensor, Tensor] | None:
        """NDCG@K (N,) of the lists on validation items, and (N,) whether the episode's user has any.

        The lists are those of ``scores`` without train items. Where episodes are rows, no item is left out,
        and the validation items are those of all validation rows of the same user. None where the reward
        reads validation items, or no user has any; those of sessions belong to other sessions.
        """
        problem = self.problem
        if problem.selecting is not None:
            return None
        data = problem.dataset
        owners, device = self.users, self.scores.device  # (N,)
        if isinstance(data, RowDataset):
            owners = torch.as_tensor(data.groups_of(self.users.cpu().numpy()), device=device)  # (N,)
        truth = SparseRows(_validation_items(data), device)
        counts = truth.counts(owners)  # (N,)
        if not bool((counts > 0).any()):
            return None
        hidden = SparseRows(data.masked("valid"), device).mask(self.users)  # (N, I)
        lists = top_k(self.scores, problem.reward_fn.k, hidden)  # (N, K)
        return ndcg_at_k(lists, truth.mask(owners)), counts > 0

    def with_reward(self, spec: RewardSpec, settings: Mapping[str, Any] | None = None) -> Reward:
        """Return another reward of the same problem, its table of lists set to the policy's where it has one.

        Raises:
            ValueError: if the data or the relevance do not allow it.
        """
        problem, config = self.problem, self.problem.config
        k, device = problem.reward_fn.k, self.scores.device
        context = RewardContext(
            problem.dataset, problem.relevance, k, device, config.checkpoint, config.other_data
        )
        return reward_in(context, spec, settings)


def _validation_items(data: Dataset) -> sp.csr_matrix:
    """Return the validation items that evaluation ranks (U, I); of rows, those of each source user (G, I)."""
    if not isinstance(data, RowDataset):
        return without(data.valid.csr, data.masked("valid"))
    places = data.groups_of(data.valid.users), data.valid.items
    shape = int(data.sessions.max(initial=-1)) + 1, data.num_items
    return sp.csr_matrix((np.ones(len(data.valid), np.float32), places), shape)


def make_env(
    env_id: str, policy: DiffusionPolicy, num_envs: int, env_kwargs: Mapping[str, Any], device: torch.device
) -> DenoisingVectorEnv:
    """Return a torch-backend environment of an id that fits a policy.

    Args:
        env_id: a registered id.
        policy: gives backbone and T.
        num_envs: sub-environments.
        env_kwargs: further keywords: reward, relevance, k, data ...
        device: where batches live.
    """
    kwargs: dict[str, Any] = {"num_steps": policy.num_steps, "backend": "torch", "device": str(device)}
    if policy.backbone.name != entry(env_id).backbone:
        kwargs["backbone"] = policy.backbone.name
    if not policy.backbone.embedding:
        kwargs["backbone_options"] = policy.backbone.config_dict()
    kwargs |= dict(env_kwargs) | {"autoreset_mode": "Disabled"}
    env = gym.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point", **kwargs)
    return cast("DenoisingVectorEnv", env)


@torch.no_grad()
def run_episodes(
    env: DenoisingVectorEnv,
    policy: DiffusionPolicy,
    users: Tensor,
    exploration_std: float,
    scales: Sequence[float],
    seed: int,
    problem: DenoisingProblem | None = None,
) -> Episodes:
    """Run ``num_envs / B`` episodes of each user at each size of noise.

    Args:
        env: of ``make_env``.
        policy: acts; its exploration is changed.
        users: (B,).
        exploration_std: the exploration's standard deviation.
        scales: sizes of the noise, in units of it.
        seed: of the noise.
        problem: whose reward is to be measured, if it is not that of ``env``.
    """
    draws = torch.Generator(users.device).manual_seed(seed)
    each = env.num_envs // users.numel()
    everyone = users.repeat_interleave(each)
    found = []
    for scale in scales:
        policy.set_exploration(exploration_std * scale, 0.0)
        u0 = roll_out(policy, env, users, generator=draws).u0  # (B * each, D)
        scores = env.problem.scores(u0, everyone)  # (B * each, I)
        found.append(scores.view(users.numel(), each, -1))
    scores = torch.cat(found, dim=1)  # (B, P, I)
    sizes = torch.tensor(scales).repeat_interleave(each).repeat(users.numel())  # (N,)
    repeated = users.repeat_interleave(scores.shape[1])
    return Episodes(
        env.problem if problem is None else problem, repeated, scores.flatten(0, 1), sizes.to(users.device)
    )
