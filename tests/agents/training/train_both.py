"""Pretrains and fine-tunes tiny networks in the processes that a launcher started; not a test itself.

python -m torch.distributed.run --nproc-per-node 2 tests/agents/training/train_both.py OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer
from refit_env.backbones import backbone_for
from refit_env.data import synthesize
from refit_env.policy import DiffusionPolicy


def train_both() -> dict[str, Tensor]:
    """Return the tensors of the state of a pretraining and of a fine-tuning that starts from its model."""
    data = synthesize(num_users=40, num_items=30, seed=0)
    backbone = backbone_for(data, "diffrec", {"hidden": (16,), "num_steps": 5}, seed=0)
    trainer = Pretrainer(
        data, backbone, PretrainConfig(users_per_batch=15, epochs=3, eval_every=1), device="cpu"
    )
    trainer.learn()
    out = {f"pretraining.{name}": value.clone() for name, value in trainer.state_dict().tensors.items()}
    config = ReinforceConfig(users_per_batch=12, iterations=3, eval_every=1)
    kwargs = {"data": data, "backbone": "diffrec", "k": 5}
    agent = Reinforce(
        DiffusionPolicy(backbone, 3), "ReFiT-Custom-v0", config, env_kwargs=kwargs, device="cpu"
    )
    agent.learn()
    return out | {f"fine-tuning.{name}": value for name, value in agent.state_dict().tensors.items()}


if __name__ == "__main__":
    found = train_both()
    torch.save(found, Path(sys.argv[1]) / f"{torch.distributed.get_rank()}.pt")
