"""The work of ``refit recommend``: one user's list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
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
from refit_env.data.interactions import SPLITS, Interactions
from refit_env.policy import DiffusionPolicy
from refit_env.utils.text import shown

HISTORY_OWNER = "the owner of --history"
"""What messages and titles call a person who is in no data set."""


def run(command: Recommend) -> int:
    """Rank and print; returns the exit code."""
    if (command.user is None) == (not command.history):
        raise ValueError("whose list? Pass --user ID, or --history ITEM ... for a person in no data set")
    if command.history and command.protocol:
        raise ValueError(
            "--protocol prints the measured list of a user of the data: pass --user, not --history"
        )
    folder = RunFolder.open(command.run_dir)
    dataset = load_dataset(choose_target(command.env, command.data, fallback=folder.config).dataset)
    users, items = _ids(command, "user", dataset), _ids(command, "item", dataset)
    user = _number(command, users)
    choice = Choice(
        history=_history(command, dataset, items),
        allow=None if command.allow is None else items_in(command.allow, "--allow", items),
        deny=None if command.deny is None else items_in(command.deny, "--deny", items),
    )
    device = resolve_device(command.device)
    policy = DiffusionPolicy.load(folder.path, device, other_data=command.other_data)
    if not command.other_weights:
        folder.check_weights(weights_digest(policy.backbone.state_dict()))
    found = recommend(policy, dataset, user, command.top, protocol=command.protocol, choice=choice)
    ranked = [{"item": items.of(row["item_number"]), **row} for row in found]
    if command.json:
        print_json({**_owner(user, users, choice, items), "items": ranked})
        return 0
    whose = HISTORY_OWNER if user is None else users.named(user)
    console().print(_table(command, ranked, f"{whose} of {dataset.name}"))
    if not (users.known or command.internal_ids):
        say(f"{dataset.name} keeps no ids of its source: users and items are its own numbers")
    return 0


@dataclass(frozen=True)
class Choice:
    """What a list is made from besides the data's users, and which items may be in it; all are numbers."""

    history: tuple[int, ...] = ()
    """Items of a person who is in no data set, oldest first."""
    allow: frozenset[int] | None = None
    """The only items that may be in the list; None for all."""
    deny: frozenset[int] | None = None
    """Items that may not be in it."""

    def hidden(self, num_items: int) -> npt.NDArray[np.int64]:
        """Return the items (n,) that neither ``allow`` nor ``deny`` leaves."""
        every = range(num_items)
        out = set(self.deny or ()) | (set() if self.allow is None else set(every) - self.allow)
        return np.array(sorted(out), dtype=np.int64)


EVERYTHING = Choice()
"""No history; every item may be in the list."""


def items_in(path: Path, option: str, items: IdMap) -> frozenset[int]:
    """Read the numbers of the items that a file lists, one id a line; blank lines are skipped.

    Raises:
        ValueError: naming the option, the file and the line, for an unknown id (with a did-you-mean), a file
            without items, or one that is no text or cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{option} {path}: is no text in UTF-8; expected one item id a line") from None
    except OSError as error:
        raise ValueError(f"{option} {path}: {error.strerror or error}") from None
    out = set()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                out.add(items.number(line.strip()))
            except ValueError as error:
                raise ValueError(f"{option} {path} line {number}: {error}") from None
    if not out:
        raise ValueError(f"{option} {path}: holds no item; expected one item id a line")
    return frozenset(out)


def _history(command: Recommend, dataset: Dataset, items: IdMap) -> tuple[int, ...]:
    """The numbers of ``--history``."""
    try:
        numbers = tuple(items.number(item) for item in command.history)
    except ValueError as error:
        raise ValueError(f"--history: {error}") from None
    twice = next((n for at, n in enumerate(numbers) if n in numbers[:at]), None)
    if twice is not None and not dataset.has_rows:
        raise ValueError(
            f"--history: {items.named(twice)} is listed twice; {dataset.name!r} has sets of items"
        )
    return numbers


def _owner(user: int | None, users: IdMap, choice: Choice, items: IdMap) -> dict[str, Any]:
    """Whose list it is, for JSON."""
    if user is None:
        ids = [items.of(number) for number in choice.history]
        return {"history": ids, "history_numbers": list(choice.history)}
    return {"user": users.of(user), "user_number": user}


def _ids(command: Recommend, kind: str, dataset: Dataset) -> IdMap:
    """The ids that a person uses: the source's, or the numbers."""
    known = dataset.users_by_id if kind == "user" else dataset.items_by_id
    return IdMap(kind, known.count, None, known.where) if command.internal_ids else known


def _number(command: Recommend, users: IdMap) -> int | None:
    """The number of ``--user``; None without one."""
    if command.user is None:
        return None
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
    policy: DiffusionPolicy,
    dataset: Dataset,
    user: int | None,
    top: int | None = None,
    *,
    protocol: bool = False,
    choice: Choice = EVERYTHING,
) -> list[dict[str, Any]]:
    """Rank the catalogue for one user, or for the owner of a history, by the noise-free chain.

    Args:
        policy: the recommender.
        dataset: the data set, not its rows.
        user: number of the user; None for the owner of ``choice.history``.
        top: length of the list; None is 10, or all items that may be in it where they are fewer.
        protocol: the evaluated list (input: train items; left out: train and validation items; of data in
            order of time that of the user's last row, nothing left out) instead of the deployed one (input
            and left out: every interaction of the user).
        choice: the history of a person in no data set, and the items that may be in the list.

    Returns:
        Best first: ``item_number``, ``score``, ``name`` where ``items.parquet`` has a title or name, and
        under ``protocol`` ``held_out``, the split (``valid``, ``test``) in which the user chose it, or None.

    Raises:
        ValueError: if no item is left, ``top`` is outside 1..items left, the user has no row under
            ``protocol``, or the model ranks for the users that it was trained on alone.
    """
    whose = HISTORY_OWNER if user is None else dataset.users_by_id.named(user)
    if user is None:
        view, row = visitor(dataset, choice.history), 0
        known = np.unique(np.array(choice.history, dtype=np.int64))  # (n,)
    else:
        view = dataset.episodes if protocol else dataset.served
        row = _last_row(view, dataset, user) if protocol and isinstance(view, RowDataset) else user
        known = _hidden(dataset, view, user, row, protocol)  # (n,)
    hidden = np.union1d(known, choice.hidden(dataset.num_items))  # (n,)
    left = dataset.num_items - hidden.size
    if not left:
        why = (
            "has every item"
            if known.size == dataset.num_items
            else "has every item that --allow and --deny leave"
        )
        raise ValueError(f"{whose} {why}; none is left to recommend")
    top = min(10, left) if top is None else top
    if not 1 <= top <= left:
        raise ValueError(f"--top {top} must lie in 1..{left}, the items that may be in the list of {whose}")
    scores = _scores(policy, view, row, user)  # (I,)
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


def visitor(dataset: Dataset, history: Sequence[int]) -> Dataset:
    """Return the data set of one person who has a history, as a deployed model sees it.

    Args:
        dataset: the data set that the items are of.
        history: their numbers, oldest first.
    """
    count = dataset.num_items
    none = Interactions.from_pairs([], [], 1, count)
    train = Interactions.from_pairs([0] * len(history), list(history), 1, count)
    alone = replace(
        dataset, train=train, valid=none, test=none, social=None, user_ids=None, origin=dataset.fingerprint
    )
    return alone.served


def _scores(policy: DiffusionPolicy, view: Dataset, row: int, user: int | None) -> Tensor:
    """The scores (I,) of a row; for the owner of a history, of a model that needs no known user."""
    try:
        score = policy.scorer(view)
    except ValueError as error:
        if user is not None:
            raise
        name = policy.backbone.name
        raise ValueError(
            f"--history: backbone {name!r} ranks for the users that it was trained on alone; pass --user"
        ) from error
    scores: Tensor = score(torch.tensor([row], device=policy.device))[0]
    return scores


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
