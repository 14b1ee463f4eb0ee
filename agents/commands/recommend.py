"""``refit recommend``: one user's list."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agents.commands.common import EnvOption, Flag, FolderOption, choose_target, parse
from agents.runs import RunFolder
from agents.state import resolve_device
from refit_env.data import Dataset, load_dataset
from refit_env.policy import DiffusionPolicy


@dataclass(frozen=True, kw_only=True)
class Recommend:
    """Print the items that a run's policy ranks first for a user, the user's own items left out."""

    run_dir: Annotated[Path, tyro.conf.arg(name="run")]
    """The run folder."""
    user: int
    """The user's id, 0 to the number of users less 1; of sequential data, a row's."""
    top: int = 10
    """Length of the list."""
    env: EnvOption = None
    """Environment id; the run's own unless told otherwise."""
    data: FolderOption = None
    """Folder of one's own data set in canonical form, instead of ``--env``."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` ..."""
    json: Flag = False
    """Print JSON and nothing else."""

    def run(self) -> int:
        """Rank and print."""
        folder = RunFolder.open(self.run_dir)
        dataset = load_dataset(choose_target(self.env, self.data, fallback=folder.config).dataset).episodes
        policy = DiffusionPolicy.load(folder.path, resolve_device(self.device))
        items = recommend(policy, dataset, self.user, self.top)
        if self.json:
            print(jsonlib.dumps({"user": self.user, "items": items}, indent=2))
            return 0
        table = Table("rank", "item", title=f"user {self.user} of {dataset.name}", min_width=48)
        table.add_column("score", justify="right")
        table.add_column("held out")
        for rank, item in enumerate(items, start=1):
            table.add_row(str(rank), str(item["item"]), f"{item['score']:.4f}", item["held_out"] or "")
        Console().print(table)
        return 0


def recommend(policy: DiffusionPolicy, dataset: Dataset, user: int, top: int) -> list[dict[str, Any]]:
    """Rank the catalogue for one user by the noise-free chain; train items are left out.

    Returns:
        Best first: item, score, and ``held_out``: the split (``valid``, ``test``) in which the user
        did choose it, or None.

    Raises:
        ValueError: if the user does not exist, or ``top`` is outside 1..items left.
    """
    if not 0 <= user < dataset.num_users:
        raise ValueError(f"user {user} must lie in 0..{dataset.num_users - 1} ({dataset.name})")
    seen = set(dataset.train.of(user).tolist())
    if not 1 <= top <= dataset.num_items - len(seen):
        raise ValueError(
            f"top={top} must lie in 1..{dataset.num_items - len(seen)}, the items new to user {user}"
        )
    scores: Tensor = policy.scorer(dataset)(torch.tensor([user], device=policy.device))[0]  # (I,)
    scores[torch.tensor(sorted(seen), dtype=torch.int64, device=scores.device)] = float("-inf")
    order = torch.sort(scores, descending=True, stable=True).indices[:top].tolist()  # ties: the lower id
    held_out = {int(item): name for name in ("valid", "test") for item in dataset.split(name).of(user)}
    return [{"item": item, "score": float(scores[item]), "held_out": held_out.get(item)} for item in order]


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    return parse(Recommend, words).run()
