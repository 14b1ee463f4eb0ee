"""Reward research: write a reward, register it, see what it does to accuracy and to coverage.

    python examples/own_reward.py

The reward pays for relevant items by their rarity. It is a list reward (gains and rank discounts), so the
low-variance estimators work with it. Letters: B users, I items, K list length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import pretrain
from refit_env.data import load_dataset
from refit_env.policy import DiffusionPolicy
from refit_env.rewards import ListReward, RewardContext, register_reward


@register_reward("rare_hits")
class RareHits(ListReward):
    """Hits, an item that few users have counting more: relevant / log2(2 + popularity), over K."""

    counts_relevant = True  # so that an environment with relevance="none" refuses it

    def __init__(self, context: RewardContext) -> None:
        """The popularity is that of what the model may see."""
        super().__init__(context, torch.full((context.k,), 1.0 / context.k), {"rare_hits": 1.0})
        popularity = torch.as_tensor(context.popularity, dtype=torch.float32, device=context.device)
        self.worth = 1.0 / torch.log2(2.0 + popularity)  # (I,)

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """(B, I) what each item is worth in the list of each user."""
        return {"rare_hits": self.context.relevant.dense(users) * self.worth}


def main(iterations: int = 40, epochs: int = 200) -> dict[str, dict[str, float]]:
    """Fine-tune with two rewards from the same pretrained weights; returns test metrics by reward."""
    data = load_dataset("synthetic")
    pretrained = pretrain(data, config=PretrainConfig(epochs=epochs), seed=0).backbone.state_dict()
    found = {}
    for reward in ("ndcg", "rare_hits"):
        untrained = pretrain(data, config=PretrainConfig(epochs=0), seed=0).backbone
        policy = DiffusionPolicy(untrained, num_steps=4)
        policy.backbone.load_state_dict(pretrained)
        agent = Reinforce(
            policy,
            "ReFiT-Synthetic-v0",
            ReinforceConfig(iterations=iterations, eval_every=10),
            env_kwargs={"reward": reward},
        )
        found.setdefault("pretrained", agent.evaluate("test").means())
        agent.learn()
        found[reward] = agent.evaluate("test").means()
    for name, means in found.items():
        print(f"{name:12s} NDCG@20 {means['ndcg@20']:.4f}   coverage@20 {means['coverage@20']:.3f}")
    return found


if __name__ == "__main__":
    main()
