"""A minimal policy-gradient loop on a denoising chain: Gymnasium, torch, a pretrained policy.

    python examples/forty_lines.py

It pretrains DiffRec on the embedded data set, fine-tunes it by REINFORCE with a leave-one-out baseline, and
prints the test NDCG@20 before and after. Letters: B users, G episodes of each, N = B * G, T steps.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch

import refit_env  # noqa: F401  # registers the environments
from agents import PretrainConfig, pretrain
from refit_env.data import load_dataset
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy


def main(iterations: int = 60, batch: int = 32, group: int = 16, epochs: int = 200) -> tuple[float, float]:
    """Pretrain, fine-tune, and return the test NDCG@20 before and after."""
    data = load_dataset("synthetic")
    pretrained = pretrain(data, config=PretrainConfig(epochs=epochs), seed=0).backbone
    policy = DiffusionPolicy(pretrained, num_steps=4)
    before = evaluate(policy.scorer(data), data, "test").means()["ndcg@20"]

    env: Any = gym.make_vec("ReFiT-Synthetic-v0", num_envs=batch * group, backend="torch", reward="ndcg")
    optimizer = torch.optim.Adam(policy.parameters(), lr=2e-5)
    generator = torch.Generator().manual_seed(0)
    everyone = torch.as_tensor(env.unwrapped.problem.users)
    for iteration in range(iterations):
        users = everyone[torch.randperm(len(everyone), generator=generator)[:batch]]
        obs, _ = env.reset(options={"user": users.repeat_interleave(group)})
        log_prob = torch.zeros(batch * group)  # (N,)
        for t in range(policy.num_steps):
            with torch.no_grad():
                action = policy.sample(obs["u"], t, generator=generator)  # (N, D)
            log_prob = log_prob + policy.log_prob(action, obs["u"], t, reduction="mean")
            obs, reward, *_ = env.step(action)  # the reward is 0 before the last step
        grouped = reward.view(batch, group)
        advantage = (grouped - grouped.mean(1, keepdim=True)) * group / (group - 1)  # leave-one-out
        optimizer.zero_grad()
        (-(advantage.flatten() * log_prob).mean()).backward()
        optimizer.step()
        if iteration % 20 == 0:
            print(f"iteration {iteration:3d}  reward {reward.mean():.4f}")

    after = evaluate(policy.scorer(data), data, "test").means()["ndcg@20"]
    print(f"test NDCG@20: {before:.4f} -> {after:.4f}")
    return before, after


if __name__ == "__main__":
    main()
