"""The workloads that several benchmarks measure: data sets by size, the default agent, its bare products.

Letters: B users in a batch, I items, T denoising steps, U users.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from refit_env.backbones import backbone_for
from refit_env.data import Dataset, load_dataset
from refit_env.data.interactions import Interactions
from refit_env.data.splits import by_time
from refit_env.errors import DataError
from refit_env.policy import DiffusionPolicy

CATALOGUES = {"ml-1m": (5949, 2810, 80), "yelp2018": (13455, 37878, 58), "gowalla": (29858, 40981, 34)}
"""Data set -> users, items and interactions a user, for a synthetic one of its size."""
NUM_STEPS = 4
"""T of the environments of these data sets."""


def large_dataset(
    num_users: int, num_items: int, events: int = 40, seed: int = 0, name: str = "synthetic"
) -> Dataset:
    """Generate a data set of any size in a time linear in its interactions.

    ``refit_env.data.synthesize`` draws user by user, in a time linear in users times items.

    Args:
        num_users: U.
        num_items: I.
        events: draws of each user; an item that a user draws twice counts once.
        seed: of all draws.
        name: the data set's name.

    Returns:
        A time-ordered data set, split 7:1:2 by time: each user draws from one of 64 parts of the catalogue,
        by a Zipf law.
    """
    rng = np.random.default_rng(seed)
    parts = max(1, min(64, num_items // 50))
    width = num_items // parts
    rank = np.minimum(width ** rng.random(num_users * events) - 1.0, width - 1).astype(np.int64)  # Zipf
    users = np.repeat(np.arange(num_users, dtype=np.int64), events)
    part = np.repeat(rng.integers(parts, size=num_users), events)
    elsewhere = rng.random(users.size) < 0.15
    part[elsewhere] = rng.integers(parts, size=int(elsewhere.sum()))
    items = rank * parts + part
    _, first = np.unique(users * num_items + items, return_index=True)
    times = rng.random(users.size)
    everything = Interactions.from_pairs(users[first], items[first], num_users, num_items, times[first])
    train, valid, test = by_time(everything.by_time(), valid_share=0.1, test_share=0.2)
    meta = {"source": ["benchmarks.workloads.large_dataset"], "licence": "MIT", "split": "by time, 7:1:2"}
    return Dataset(name, "cf", train, valid, test, time_ordered=True, meta=meta)


def load_or_generate(name: str) -> tuple[Dataset, str]:
    """Return a data set of ``CATALOGUES``, or a synthetic one of its size, and the name for the table."""
    try:
        return load_dataset(name), name
    except DataError:
        num_users, num_items, events = CATALOGUES[name]
        return large_dataset(num_users, num_items, events, name=name), f"synthetic, size of {name}"


def default_policy(data: Dataset, backbone: str = "diffrec", size: str = "published") -> DiffusionPolicy:
    """Return an untrained policy of a backbone's configuration for the data set."""
    return DiffusionPolicy(backbone_for(data, backbone, size=size, seed=0), NUM_STEPS)


def make_agent(
    data: Dataset,
    policy: DiffusionPolicy,
    reward: str = "racs",
    config: ReinforceConfig | None = None,
    device: str = "cpu",
) -> Reinforce:
    """Return an agent with the settings that ``refit finetune`` has by default."""
    goal: dict[str, Any] = {"data": data, "reward": reward}
    return Reinforce(policy, "ReFiT-Custom-v0", config, env_kwargs=goal, device=device)


def bare_products(agent: Reinforce, *, shared_first: bool = False) -> tuple[Callable[[], None], float]:
    """Return a plain iteration's matrix products on allocated buffers, and their floating-point operations.

    One product forward and two backward for each step and layer of the network.

    Args:
        agent: with a network of linear layers.
        shared_first: whether the episodes of a user share the first step, and it needs no derivative in its
            input: what REINFORCE with several episodes a user needs.
    """
    layers: Any = agent.policy.backbone.layers
    shapes = [(int(m.weight.shape[1]), int(m.weight.shape[0])) for m in layers]
    config, steps = agent.config, agent.policy.num_steps
    episodes = config.users_per_batch * config.samples_per_user
    rows = [config.users_per_batch if shared_first else episodes] + [episodes] * (steps - 1)
    jobs: list[tuple[Tensor, Tensor, Tensor]] = []
    operations = 0.0
    for count in rows:
        for index, (width_in, width_out) in enumerate(shapes):
            x, g, weight = (
                torch.randn(shape, device=agent.device)
                for shape in ((count, width_in), (count, width_out), (width_out, width_in))
            )
            jobs += [(x, weight.t(), x.new_empty(count, width_out))]
            jobs += [(g.t(), x, x.new_empty(width_out, width_in))]
            if index or not shared_first:
                jobs += [(g, weight, x.new_empty(count, width_in))]
            operations += 2.0 * count * width_in * width_out * (3 if index or not shared_first else 2)

    def products() -> None:
        for a, b, out in jobs:
            torch.mm(a, b, out=out)

    return products, operations
