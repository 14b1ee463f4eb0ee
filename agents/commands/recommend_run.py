"""The work of ``refit recommend``: one user's list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table
from torch import Tensor

from agents.commands.item_choice import EVERYTHING, Choice, ids_of, items_in
from agents.commands.loading import data_of, policy_of
from agents.commands.recommend import Recommend
from agents.commands.recommend_all_run import write_all
from agents.console import console, print_json, say
from agents.serving.ranker import NoHistory, Query, Ranker, best, check_repeats
from refit_env.data import Dataset, RowDataset
from refit_env.data.ids import IdMap
from refit_env.data.interactions import SPLITS
from refit_env.policy import DiffusionPolicy
from refit_env.utils.text import shown

HISTORY_OWNER = "the owner of --history"
"""What messages and titles call a person who is in no data set."""


def run(command: Recommend) -> int:
    """Rank and print; returns the exit code."""
    if command.all_users:
        return write_all(command)
    if command.out is not None or command.overwrite:
        raise ValueError("--out and --overwrite belong to --all-users: one user's list is printed")
    if command.user is not None and command.history:
        raise ValueError(
            "--user and --history each name the person whose list is printed: leave one of them out"
        )
    if command.user is None and not command.history:
        raise ValueError("whose list? Pass --user ID, or --history ITEM ... for a person in no data set")
    if command.history and command.protocol:
        raise ValueError(
            "--protocol prints the measured list of a user of the data: pass --user, not --history"
        )
    if command.repeats and command.protocol:
        raise ValueError(
            "--protocol prints the measured list, which --repeats does not change: leave one out"
        )
    folder, dataset = data_of(command)
    users, items = ids_of(command, "user", dataset), ids_of(command, "item", dataset)
    user = _number(command, users)
    choice = Choice(
        history=_history(command, items),
        allow=None if command.allow is None else items_in(command.allow, "--allow", items),
        deny=None if command.deny is None else items_in(command.deny, "--deny", items, may_be_empty=True),
    )
    policy = policy_of(command, folder, command.device)
    how = {"protocol": command.protocol, "repeats": command.repeats}
    found = recommend(policy, dataset, user, command.top, **how, choice=choice)
    ranked = [{"item": items.of(row["item_number"]), **row} for row in found]
    if command.json:
        print_json({**_owner(user, users, choice, items), "items": ranked})
        return 0
    whose = HISTORY_OWNER if user is None else users.named(user)
    console().print(_table(command, ranked, f"{whose} of {dataset.name}"))
    if dataset.has_rows and not (command.protocol or command.repeats):
        say("Items of the history are left out. refit evaluate measures lists that may hold them: --repeats")
    if not (users.known or command.internal_ids):
        say(f"{dataset.name} keeps no ids of its source: users and items are its own numbers")
    return 0


def _history(command: Recommend, items: IdMap) -> tuple[int, ...]:
    """The numbers of ``--history``."""
    try:
        return tuple(items.number(item) for item in command.history)
    except ValueError as error:
        raise ValueError(f"--history: {error}") from None


def _owner(user: int | None, users: IdMap, choice: Choice, items: IdMap) -> dict[str, Any]:
    """Whose list it is, for JSON."""
    if user is None:
        ids = [items.of(number) for number in choice.history]
        return {"history": ids, "history_numbers": list(choice.history)}
    return {"user": users.of(user), "user_number": user}


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
    repeats: bool = False,
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
        repeats: whether the deployed list may hold the interactions; only of data in order of time.
        choice: the history of a person in no data set, and the items that may be in the list.

    Returns:
        Best first: ``item_number``, ``score``, ``name`` where ``items.parquet`` has a title or name, and
        under ``protocol`` ``held_out``, the split (``valid``, ``test``) in which the user chose it, or None.

    Raises:
        ValueError: if no item is left, ``top`` is outside 1..items left, the user has no row under
            ``protocol``, the data does not allow ``repeats``, or the model ranks for the users that it was
            trained on alone.
    """
    whose = HISTORY_OWNER if user is None else dataset.users_by_id.named(user)
    score, known, marked = (
        _measured(policy, dataset, user)
        if protocol and user is not None
        else _deployed(policy, dataset, user, choice.history, repeats)
    )
    hidden = np.union1d(known, choice.hidden(dataset.num_items))  # (n,)
    left = dataset.num_items - hidden.size
    if not left:
        why = (
            "has every item"
            if known.size == dataset.num_items
            else "has every item that --allow and --deny leave"
        )
        more = "; --repeats allows items of the history" if dataset.has_rows and known.size else ""
        raise ValueError(f"{whose} {why}; none is left to recommend{more}")
    top = min(10, left) if top is None else top
    if not 1 <= top <= left:
        raise ValueError(f"--top {top} must lie in 1..{left}, the items that may be in the list of {whose}")
    mask = torch.zeros(1, dataset.num_items, dtype=torch.bool, device=policy.device)
    mask[0, torch.from_numpy(hidden)] = True
    (ranked,) = best(score(), mask, top)
    names = dataset.item_names
    return [
        {"item_number": int(item), "score": float(value)}
        | ({} if names is None else {"name": str(names[item])})
        | ({"held_out": marked.get(int(item))} if protocol else {})
        for item, value in zip(ranked.items, ranked.scores, strict=True)
    ]


Scored = tuple[Callable[[], Tensor], npt.NDArray[np.int64], dict[int, str]]
"""A function that returns scores (1, I), items (n,) that the list leaves out, and held-out items' splits."""


def _measured(policy: DiffusionPolicy, dataset: Dataset, user: int) -> Scored:
    """What ``refit evaluate`` ranks for a user."""
    view = dataset.episodes
    row = _last_row(view, dataset, user) if isinstance(view, RowDataset) else user
    score = policy.scorer(view)
    marked = {int(item): split for split in SPLITS[1:] for item in view.split(split).of(row)}
    known = view.masked("test")[row].indices.astype(np.int64)
    return lambda: score(torch.tensor([row], device=policy.device)), known, marked


def _deployed(
    policy: DiffusionPolicy, dataset: Dataset, user: int | None, history: tuple[int, ...], repeats: bool
) -> Scored:
    """What is ranked for a user, or for the owner of a history, by everything that is known."""
    ranker = Ranker(policy, dataset)
    if repeats:
        check_repeats(dataset)
    nothing = np.zeros(0, np.int64)
    if user is not None:
        return lambda: ranker.scores([Query(user)])[0], nothing if repeats else ranker.known(user), {}

    def score() -> Tensor:
        try:
            return ranker.scores([Query(history=history)])[0]
        except NoHistory as error:
            raise ValueError(f"--history: {error}; pass --user") from error

    return score, nothing if repeats else np.unique(np.array(history, dtype=np.int64)), {}


def _last_row(rows: RowDataset, dataset: Dataset, user: int) -> int:
    """The row that evaluation has of a user's latest event."""
    own = np.flatnonzero(rows.sessions == user)
    if not own.size:
        raise ValueError(
            f"{dataset.users_by_id.named(user)} has one event or none, so that evaluation has no row of it; "
            "leave out --protocol"
        )
    return int(own[-1])
