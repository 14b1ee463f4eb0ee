"""The literal reading of RACS has no gradient: shown on a tiny Gaussian policy.

Each user's scores are N(theta_u, std^2 I). REINFORCE's estimate of d E[N_sim-K] / d theta_u from the
target's own log-probability is N_sim-K * noise_u / std. In ``neighbor_lists`` N_sim-K is a function of the
neighbours' noise alone, which is independent of the target's: the expectation is E[N_sim-K] E[noise] = 0.

Letters: U users (all targets at once), I items, S samples.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from refit_env.data.dataset import Dataset
from refit_env.rewards import Reward, make_relevance, make_reward

STD = 0.5
TABLES, EPISODES = 300, 40  # tables of all users' lists, and episodes under each


def gradient_samples(reward: Reward, theta: Tensor, seed: int) -> Tensor:
    """(S, U, I) estimates, one of each episode; the neighbours' lists are sampled from the policy, too."""
    generator = torch.Generator().manual_seed(seed)
    users = torch.arange(len(theta))
    out = []
    for _ in range(TABLES):
        reward.refresh(lambda some: (theta + STD * torch.randn(theta.shape, generator=generator))[some])
        noise = torch.randn(EPISODES, *theta.shape, generator=generator)  # (E, U, I)
        scores = (theta + STD * noise).flatten(0, 1)
        similar = reward(scores, users.repeat(EPISODES)).terms["n_sim_k"].view(EPISODES, len(theta), 1)
        out.append(similar * noise / STD)
    return torch.cat(out).double()


def z_scores(samples: Tensor) -> Tensor:
    """(U, I) means in standard errors."""
    return samples.mean(0) / (samples.std(0) / math.sqrt(len(samples)) + 1e-12)


@pytest.fixture
def theta() -> Tensor:
    return torch.rand(5, 6, generator=torch.Generator().manual_seed(3)) * 0.5


def make(five: Dataset, variant: str) -> Reward:
    return make_reward("racs", five, make_relevance("train", five), k=2, neighbors=2, variant=variant)


def test_neighbor_lists_have_no_expected_gradient(five: Dataset, theta: Tensor) -> None:
    samples = gradient_samples(make(five, "neighbor_lists"), theta, seed=0)
    assert float(samples.std(0).mean()) > 0.1  # the term is there, and adds variance
    z = z_scores(samples)
    assert float(z.abs().max()) < 4.0  # 30 numbers
    assert float(z.square().mean()) < 2.0


def test_target_list_has_the_gradient_of_its_expectation(five: Dataset, theta: Tensor) -> None:
    reward = make(five, "target_list")
    samples = gradient_samples(reward, theta, seed=0)
    z = z_scores(samples)
    assert float(z.abs().max()) > 10.0
    # And it is the right one: finite differences under common random numbers, at user 0's items.
    noise = torch.randn(40_000, 6, generator=torch.Generator().manual_seed(1))
    users = torch.zeros(len(noise), dtype=torch.int64)
    for item in range(6):
        step = torch.zeros(6)
        step[item] = 0.1
        ends = []
        for sign in (1, -1):
            result = reward(theta[0] + sign * step + STD * noise, users)
            ends.append(float(result.terms["n_sim_k"].double().mean()))
        error = float(samples[:, 0, item].std()) / math.sqrt(len(samples))
        assert abs(float(samples[:, 0, item].mean()) - (ends[0] - ends[1]) / 0.2) < 4 * error + 0.02


def test_an_exact_pair_of_noises_cancels(five: Dataset, theta: Tensor) -> None:
    """Without sampling error: noise and its mirror image under one table sum to zero exactly."""
    noise = torch.randn(1, 6, generator=torch.Generator().manual_seed(2))
    users = torch.tensor([0])
    sums = {}
    for variant in ("neighbor_lists", "target_list"):
        reward = make(five, variant)
        total = np.zeros(6)
        for sign in (1, -1):
            result = reward(theta[:1] + 3 * sign * noise, users)
            total += float(result.terms["n_sim_k"]) * sign * noise[0].numpy()
        sums[variant] = np.abs(total).max()
    assert sums["neighbor_lists"] == 0.0 and sums["target_list"] > 0.1
