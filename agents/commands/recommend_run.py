"""The work of ``refit recommend``: one user's list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table
from torch import Tensor

from agents.commands.common import choose_target
from agents.commands.recommend import Recommend
from agents.console import console, print_json, say
from agents.runs.folder import RunFolder
from agents.training.tensors import resolve_device
from refit_env.checkpoint import weights_digest
from refit_env.data import Dataset, RowDataset, load_dataset
from refit_env.data.ids import IdMap
from refit_env.data.interactions import SPLITS
from refit_env.policy import DiffusionPolicy
from refit_env.utils.text import shown


def run(command: Recommend) -> int:
    """Rank and print; returns the exit code."""
    folder = RunFolder.open(command.run_dir)
    dataset = load_dataset(choose_target(command.env, command.data, fallback=folder.config).dataset)
    users, items = _ids(command, "user", dataset), _ids(command, "item", dataset)
    user = _number(command, users)
    device = resolve_device(command.device)
    policy = DiffusionPolicy.load(folder.path, device, other_data=command.other_data)
    if not command.other_weights:
        folder.check_weights(weights_digest(policy.backbone.state_dict()))
    found = recommend(policy, dataset, user, command.top, protocol=command.protocol)
    ranked = [{"item": items.of(row["item_number"]), **row} for row in found]
    if command.json:
        report = {"user": users.of(user), "user_number": user, "items": ranked}
        print_json(report)
        return 0
    console().print(_table(command, ranked, f"{users.named(user)} of {dataset.name}"))
    if not (users.known or command.internal_ids):
        say(f"{dataset.name} keeps no ids of its source: users and items are its own numbers")
    return 0


def _ids(command: Recommend, kind: str, dataset: Dataset) -> IdMap:
    """The ids that a person uses: the source's, or the numbers."""
    known = dataset.users_by_id if kind == "user" else dataset.items_by_id
    return IdMap(kind, known.count, None, known.where) if command.internal_ids else known


def _number(command: Recommend, users: IdMap) -> int:
    """The number of ``--user``."""
    try:
        return users.number(command.user)
    except ValueError as error:
        if command.internal_ids:
            raise ValueError(
                f"--user {shown(command.user)} must lie in 0..{users.count - 1}, the numbers of the users "
                f"of {users.where!r}; leave out --internal-ids for the source's ids"
            ) from None
        hint = f"; --internal-ids accepts numbers, 0..{users.count - 1}" if users.known else ""
        raise ValueError(f"--user: {error}{hint}") from None


def _table(command: Recommend, ranked: Sequence[dict[str, Any]], title: str) -> Table:
    """The list for the terminal."""
    table = Table("rank", "item", title=title, min_width=48)
    named = any("name" in row for row in ranked)
    if named:
        table.add_column("name")
    table.add_column("score", justify="right")
    if command.protocol:
        table.add_column("held out")
    for rank, row in enumerate(ranked, start=1):
        cells = [str(rank), str(row["item"])]
        cells += [row["name"]] if named else []
        cells += [f"{row['score']:.4f}"] + ([row["held_out"] or ""] if command.protocol else [])
        table.add_row(*cells)
    return table


def recommend(
    policy: DiffusionPolicy, dataset: Dataset, user: int, top: int | None = None, *, protocol: bool = False
) -> list[dict[str, Any]]:
    """Rank the catalogue for one user by the noise-free chain.

    Args:
        policy: the recommender.
        dataset: the data set, not its rows.
        user: number of the user.
        top: length of the list; None is 10, or all items that may be in it where they are fewer.
        protocol: the evaluated list (input: train items; left out: train and validation items; of data in
            order of time that of the user's last row, nothing left out) instead of the deployed one (input
            and left out: every interaction of the user).

    Returns:
        Best first: ``item_number``, ``score``, ``name`` where ``items.parquet`` has a title or name, and
        under ``protocol`` ``held_out``, the split (``valid``, ``test``) in which the user chose it, or None.

    Raises:
        ValueError: if no item is left, ``top`` is outside 1..items left, or the user has no row under
            ``protocol``.
    """
    view = dataset.episodes if protocol else dataset.served
    row = _last_row(view, dataset, user) if protocol and isinstance(view, RowDataset) else user
    hidden = _hidden(dataset, view, user, row, protocol)  # (n,)
    left = dataset.num_items - hidden.size
    if not left:
        raise ValueError(f"{dataset.users_by_id.named(user)} has every item; none is left to recommend")
    top = min(10, left) if top is None else top
    if not 1 <= top <= left:
        raise ValueError(
            f"--top {top} must lie in 1..{left}, the items that may be in the list of "
            f"{dataset.users_by_id.named(user)}"
        )
    scores: Tensor = policy.scorer(view)(torch.tensor([row], device=policy.device))[0]  # (I,)
    free = np.setdiff1d(np.arange(dataset.num_items), hidden)  # (I - n,)
    items = torch.from_numpy(free).to(scores.device)
    order = torch.sort(scores[items], descending=True, stable=True).indices[:top]  # ties: the lower number
    names = dataset.item_names
    chosen = {int(item): split for split in SPLITS[1:] for item in view.split(split).of(row)}
    return [
        {"item_number": item, "score": float(scores[item])}
        | ({} if names is None else {"name": str(names[item])})
        | ({"held_out": chosen.get(item)} if protocol else {})
        for item in items[order].tolist()
    ]


def _hidden(dataset: Dataset, view: Dataset, user: int, row: int, protocol: bool) -> npt.NDArray[np.int64]:
    """(n,) the items that the list leaves out."""
    if protocol:
        return view.masked("test")[row].indices.astype(np.int64)
    return np.unique(np.concatenate([dataset.split(split).of(user) for split in SPLITS])).astype(np.int64)


def _last_row(rows: RowDataset, dataset: Dataset, user: int) -> int:
    """The row that evaluation has of a user's latest event."""
    own = np.flatnonzero(rows.sessions == user)
    if not own.size:
        raise ValueError(
            f"{dataset.users_by_id.named(user)} has one event or none, so that evaluation has no row of it; "
            "leave out --protocol"
        )
    return int(own[-1])
