"""Defines and registers a reward, and measures its effect on accuracy and coverage.

    python examples/own_reward.py

The reward of a relevant item rises with its rarity. It is a list reward (gains and rank discounts), so the
low-variance estimators support it. Letters: B users, I items, K list length.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from agents import PretrainConfig, Reinforce, ReinforceConfig, pretrain
from refit_env.data import load_dataset
from refit_env.policy import DiffusionPolicy
from refit_env.rewards import ListReward, RewardContext, register_reward


@register_reward("rare_hits")
class RareHits(ListReward):
    """Hits with larger gains for rare items: relevant / log2(2 + popularity), divided by K."""

    counts_relevant = True  # an environment with relevance="none" refuses this reward

    def __init__(self, context: RewardContext) -> None:
        """Compute the gains from the popularity in the visible data."""
        super().__init__(context, torch.full((context.k,), 1.0 / context.k), {"rare_hits": 1.0})
        popularity = torch.as_tensor(context.popularity, dtype=torch.float32, device=context.device)
        self.gain = 1.0 / torch.log2(2.0 + popularity)  # (I,)

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """Return the gain (B, I) of each item in the list of each user."""
        return {"rare_hits": self.context.relevant.dense(users) * self.gain}


def main(iterations: int = 40, epochs: int = 200) -> dict[str, dict[str, float]]:
    """Fine-tune with two rewards from the same pretrained weights, and return test metrics by reward."""
    data = load_dataset("synthetic")
    pretrained = pretrain(data, config=PretrainConfig(epochs=epochs), seed=0).backbone
    found: dict[str, dict[str, float]] = {}
    for reward in ("ndcg", "rare_hits"):
        policy = DiffusionPolicy(copy.deepcopy(pretrained), num_steps=4)
        config = ReinforceConfig(iterations=iterations, eval_every=10)
        agent = Reinforce(policy, "ReFiT-Synthetic-v0", config, env_kwargs={"reward": reward})
        found.setdefault("pretrained", agent.evaluate("test").means())
        agent.learn()
        found[reward] = agent.evaluate("test").means()
    for name, means in found.items():
        print(f"{name:12s} NDCG@20 {means['ndcg@20']:.4f}   coverage@20 {means['coverage@20']:.3f}")
    return found


if __name__ == "__main__":
    main()
