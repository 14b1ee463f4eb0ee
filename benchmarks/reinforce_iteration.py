"""Seconds of one REINFORCE iteration, compared with a two-pass implementation and with its matrix products.

    python -m benchmarks.reinforce_iteration

All on ReFiT-ML1M-v0 with DiffRec's published network (or, without the data, a synthetic set of that size),
64 users x 16 episodes, T = 4, score-function estimator:

- *agent*: ``agents.algorithms.reinforce``: one rollout with its graph, log-probabilities from the sampling
  pass, the first step computed once per user.
- *two passes*: the common implementation: sample without a graph, recompute every log-probability with one.
- *bare products*: only the matrix products that the agent needs (forward, weight gradients, input gradients
  of all layers except the first), on allocated buffers: a lower bound on this machine.

Letters: B users, G episodes of each, N = B * G, D items, T steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.gradients.advantages import advantage
from benchmarks.harness import in_turns, report
from refit_env.backbones import make_backbone, published_config
from refit_env.data import load_dataset, synthesize
from refit_env.errors import DataError
from refit_env.policy import DiffusionPolicy

TARGET_OVER_BARE, TARGET_SPEEDUP = 1.3, 1.5


def make_agent() -> tuple[Reinforce, str]:
    """Return the agent on ML-1M, or on a synthetic set of its size, and the name of the data."""
    try:
        data, name = load_dataset("ml-1m"), "ML-1M"
    except DataError:
        data, name = synthesize(num_users=5949, num_items=2810), "synthetic, size of ML-1M"
    policy = DiffusionPolicy(
        make_backbone("diffrec", data.num_items, published_config("diffrec", "ml-1m")), 4
    )
    goal = {"data": data, "relevance": "recent", "reward": "racs"}
    return Reinforce(policy, "ReFiT-Custom-v0", ReinforceConfig.preset("score"), env_kwargs=goal), name


def two_passes(agent: Reinforce, users: Tensor) -> Callable[[], None]:
    """Return an iteration that samples without a graph, then recomputes the log-probabilities with one."""
    policy, env, group = agent.policy, agent.env, agent.config.samples_per_user
    optimizer = torch.optim.Adam(policy.parameters(), agent.config.learning_rate)
    generator = torch.Generator(agent.device).manual_seed(0)

    def iteration() -> None:
        observation, _ = env.reset(options={"user": users.repeat_interleave(group)})
        states, actions = [observation["u"]], []
        for t in range(policy.num_steps):
            with torch.no_grad():
                actions.append(policy.sample(states[-1], t, generator=generator))  # (N, D)
            observation, reward, *_ = env.step(actions[-1])
            states.append(observation["u"])
        weight = advantage("leave_one_out", reward.view(-1, group)).flatten()  # (N,)
        log_prob = torch.stack(
            [policy.log_prob(actions[t], states[t], t, reduction="mean") for t in range(policy.num_steps)]
        )  # (T, N)
        loss = -(weight * log_prob.sum(0)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), float("inf"))
        optimizer.step()

    return iteration


def bare_products(agent: Reinforce) -> tuple[Callable[[], None], float]:
    """Return the agent's matrix products on allocated buffers, and their floating-point operations."""
    config = agent.config
    layers = [(w.shape[1], w.shape[0]) for w in (m.weight for m in agent.policy.backbone.layers)]  # type: ignore[union-attr]
    episodes = config.users_per_batch * config.samples_per_user
    rows = [config.users_per_batch] + [episodes] * (agent.policy.num_steps - 1)
    jobs: list[tuple[Tensor, Tensor, Tensor]] = []
    operations = 0.0
    for count in rows:
        for index, (width_in, width_out) in enumerate(layers):
            x, g = torch.randn(count, width_in), torch.randn(count, width_out)
            weight = torch.randn(width_out, width_in)
            jobs += [
                (x, weight.t(), torch.empty(count, width_out)),
                (g.t(), x, torch.empty(width_out, width_in)),
            ]
            if index:  # the first layer's input is an action, a constant without a gradient
                jobs.append((g, weight, torch.empty(count, width_in)))
            operations += 2.0 * count * width_in * width_out * (3 if index else 2)

    def products() -> None:
        for a, b, out in jobs:
            torch.mm(a, b, out=out)

    return products, operations


def main() -> None:
    """Measure the contestants alternately, print the table, write the JSON file."""
    agent, data = make_agent()
    users = torch.as_tensor(agent.env.problem.users[: agent.config.users_per_batch])
    products, operations = bare_products(agent)
    contestants: dict[str, Callable[[], Any]] = {
        "agent": lambda: agent.update(users),
        "two passes": two_passes(agent, users),
        "bare products": products,
    }
    timings = in_turns(contestants, rounds=7)
    bare, ours = timings["bare products"].median, timings["agent"].median
    rows = []
    for name, timing in timings.items():
        low, high = timing.quartiles
        rows.append([name, f"{timing.median:.3f}", f"{low:.3f} to {high:.3f}", f"{timing.median / bare:.2f}"])
    speedup = timings["two passes"].median / ours
    note = (
        f"{data}, 64 users x 16 episodes, T = 4. The products are {operations / 1e9:.1f} GFLOP, "
        f"{operations / bare / 1e9:.0f} GFLOP/s here. "
        f"Agent over bare products: {ours / bare:.2f} (target at most {TARGET_OVER_BARE}); two passes over "
        f"agent: {speedup:.2f} (target at least {TARGET_SPEEDUP})."
    )
    report(
        "reinforce_iteration",
        title="One REINFORCE iteration",
        command="python -m benchmarks.reinforce_iteration",
        columns=["implementation", "seconds, median", "quartiles", "over bare products"],
        rows=rows,
        note=note,
        agent_over_bare=ours / bare,
        speedup_over_two_passes=speedup,
        operations=operations,
        seconds={name: list(timing.seconds) for name, timing in timings.items()},
    )


if __name__ == "__main__":
    main()
