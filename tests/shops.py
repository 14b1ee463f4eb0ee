"""A shop for tests: data whose source has ids and titles, a run, and a run that was fine-tuned from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from refit_env.backbones import backbone_for
from refit_env.data import Dataset, load_dataset, save_dataset, synthesize
from refit_env.policy import DiffusionPolicy


def write_shop(folder: Path, users: int, items: int, title: str, *, hidden: int, steps: int) -> Path:
    """Write a shop's ``data``, ``start`` and ``tuned``.

    Args:
        folder: where.
        users: number of users, ``user-00`` and so on.
        items: number of items, ``sku-000`` and so on.
        title: of an item, with ``{}`` for its number.
        hidden: units of the untrained networks.
        steps: length of their chains.
    """
    data = replace(
        synthesize(num_users=users, num_items=items),
        user_ids=np.array([f"user-{n:02d}" for n in range(users)], dtype=object),
        item_ids=np.array([f"sku-{n:03d}" for n in range(items)], dtype=object),
        item_features={"title": np.array([title.format(n) for n in range(items)], dtype=object)},
    )
    save_dataset(replace(data, name="shop"), folder / "data")
    data = load_dataset(folder / "data")
    options = {"hidden": (hidden,), "num_steps": max(5, steps)}
    policies = [DiffusionPolicy(backbone_for(data, "diffrec", options, seed=n), steps).eval() for n in (0, 1)]
    start = write_run(folder / "start", policies[0], data)
    write_run(folder / "tuned", policies[1], data, command="finetune", init=str(start))
    return folder


def write_run(folder: Path, policy: DiffusionPolicy, data: Dataset, **config: Any) -> Path:
    """Write a finished run of a policy on data that has a folder ``folder.parent / "data"``."""
    policy.save(folder, data)
    content = {"command": "pretrain", "env": "ReFiT-Custom-v0", "data": str(folder.parent / "data"), **config}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "metrics.json").write_text("{}")
    return folder
