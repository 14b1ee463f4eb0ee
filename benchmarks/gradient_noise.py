"""Signal-to-noise ratio of REINFORCE's gradient where u_0 is an embedding: sampled pairs, or all of a list.

    python -m benchmarks.gradient_noise --env ReFiT-Zhihu-v0 --checkpoint FOLDER

The weights of a checkpoint (``refit pretrain``) are not changed; one batch of users is rolled out many times,
with different noise. The ratio is |mean gradient|^2, without the contribution of noise, divided by the trace
of the gradient's covariance: at 1, a step has as much signal as noise.

Letters: R repetitions, W weights.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from torch import Tensor

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from benchmarks.harness import report
from refit_env.policy import DiffusionPolicy
from refit_env.registration import entry

CONTESTANTS: dict[str, dict[str, Any]] = {
    "score function, 16 episodes a user": {
        "estimator": "score",
        "baseline": "leave_one_out",
        "samples_per_user": 16,
    },
    "1 pair of each item drawn": {"draw_lists": True, "pairs": 1},
    "4 pairs of each item drawn": {"draw_lists": True, "pairs": 4},
    "all swaps of the list at once": {},
}


@dataclass(frozen=True)
class Args:
    """Settings of the measurement."""

    env: str
    """Environment id with a backbone that scores by embeddings."""
    checkpoint: str
    """Folder of the pretrained policy."""
    reward: str = "ease"
    """Name of the reward."""
    std: float = 0.1
    """Floor of the policy's standard deviation."""
    users: int = 256
    """Users in the batch."""
    repetitions: int = 12
    """R."""


def make_agent(args: Args, changes: dict[str, Any]) -> Reinforce:
    """Return a REINFORCE agent without optimiser steps, with gradients of the scores if possible."""
    policy = DiffusionPolicy.load(args.checkpoint)
    kwargs = {"reward": args.reward, "checkpoint": args.checkpoint, "backbone": policy.backbone.name}
    trained = 0.0 if changes.get("estimator") == "score" else 1e-3
    config = ReinforceConfig(
        **({"users_per_batch": args.users, "exploration_std": args.std} | changes),
        scores_learning_rate=trained,
    )
    agent = Reinforce(
        policy,
        entry(args.env).env_id,
        config,
        env_kwargs=kwargs | {"num_steps": policy.num_steps},
        device="cpu",
    )
    agent.take_step = lambda: 0.0  # type: ignore[method-assign]
    return agent


def gradients(agent: Reinforce, users: Tensor) -> list[Tensor]:
    """Return the gradient (W,) of one update by group of weights: the chain's and the scores'."""
    agent.optimizer.zero_grad(set_to_none=True)
    agent.update(users)
    return [
        torch.cat([p.grad.flatten().clone() for p in group["params"] if p.grad is not None])
        for group in agent.optimizer.param_groups
    ]


def signal_over_noise(samples: Tensor) -> float:
    """Return the signal-to-noise ratio of gradients (R, W)."""
    noise = float(samples.var(0).sum())
    signal = float(samples.mean(0).square().sum()) - noise / len(samples)
    return signal / noise


def main(args: Args) -> None:
    """Measure each contestant, print the table, write the JSON file."""
    rows, found = [], {}
    for name, changes in CONTESTANTS.items():
        agent = make_agent(args, changes)
        draws = torch.Generator().manual_seed(0)
        known = torch.as_tensor(agent.env.problem.users)
        users = known[torch.randperm(len(known), generator=draws)[: args.users]]
        gradients(agent, users)  # warm-up
        began = time.perf_counter()
        samples = [gradients(agent, users) for _ in range(args.repetitions)]
        seconds = (time.perf_counter() - began) / args.repetitions
        ratios = [signal_over_noise(torch.stack(each)) for each in zip(*samples, strict=True)]
        found[name] = {"signal_over_noise": ratios, "seconds": seconds}
        rows.append([name, *[f"{ratio:.3f}" for ratio in (*ratios, *[float("nan")] * (2 - len(ratios)))]])
        rows[-1].append(f"{seconds:.2f}")
    report(
        "gradient_noise",
        title="Signal over noise of a gradient where u_0 is an embedding",
        command=f"python -m benchmarks.gradient_noise --env {args.env} --checkpoint FOLDER",
        columns=["estimator", "chain", "embeddings", "seconds an iteration"],
        rows=rows,
        note=f"Reward {args.reward}, std {args.std}, {args.users} users, {args.repetitions} repetitions; "
        "nan: that estimator does not train the embeddings. An estimate below zero is only noise.",
        results=found,
    )


if __name__ == "__main__":
    main(tyro.cli(Args))
