"""The work of ``refit recommend --all-users``: everyone's list as a Parquet file."""

from __future__ import annotations

from dataclasses import dataclass

from agents.commands.item_choice import Choice, ids_of, items_in
from agents.commands.loading import check_replaceable, data_of, policy_of
from agents.commands.recommend import Recommend
from agents.console import print_json, say, shows_progress
from agents.serving.everyone import Columns, Lists, write_lists
from agents.serving.ranker import Ranker, check_repeats
from agents.serving.ray_lists import ray_lists
from refit_env.checkpoint import weights_digest
from refit_env.data import Dataset

TOP = 10
"""Length of the lists without ``--top``."""


@dataclass(frozen=True)
class MakeRanker:
    """Makes the ranker of a command's run; a worker process of Ray calls its own copy."""

    command: Recommend
    """The command."""

    def __call__(self) -> Ranker:
        """Load the data and the policy."""
        folder, dataset = data_of(self.command)
        return Ranker(policy_of(self.command, folder, self.command.device), dataset)


def write_all(command: Recommend) -> int:
    """Write the file and print what it holds; returns the exit code."""
    if command.out is None:
        raise ValueError("--all-users needs --out FILE, for example --out lists.parquet")
    if command.out.suffix != ".parquet":
        name = command.out.with_suffix(".parquet").name
        raise ValueError(f"--out {command.out}: the file is Parquet; let its name end so, as {name}")
    for option, given in (
        ("--user", command.user),
        ("--history", command.history),
        ("--protocol", command.protocol),
    ):
        if given:
            raise ValueError(f"--all-users writes the lists of all users; leave {option} out")
    if command.out.exists() and not command.overwrite:
        raise ValueError(f"--out {command.out} exists already; choose another file, or pass --overwrite")
    check_replaceable(command.out)
    make = MakeRanker(command)
    ranker = make()
    dataset = ranker.dataset
    items = ids_of(command, "item", dataset)
    choice = Choice(
        allow=None if command.allow is None else items_in(command.allow, "--allow", items),
        deny=None if command.deny is None else items_in(command.deny, "--deny", items, may_be_empty=True),
    )
    hidden = choice.hidden(dataset.num_items)
    left = dataset.num_items - hidden.size
    top = min(TOP, left) if command.top is None else command.top
    if not 1 <= top <= left:
        raise ValueError(f"--top {top} must lie in 1..{left}, the items that may be in a list")
    if command.repeats:
        check_repeats(dataset)
    task = Lists(top, tuple(hidden.tolist()), command.users_per_batch, command.repeats)
    if command.engine == "ray":
        batches = ray_lists(task, make, dataset, command.workers)
    else:
        batches = task.batches(ranker)
    digest = weights_digest(ranker.policy.backbone.state_dict())
    about = {"weights": digest, "data_fingerprint": dataset.fingerprint, "dataset": dataset.name, "top": top}
    rows = write_lists(
        command.out,
        batches,
        Columns(ids_of(command, "user", dataset), items),
        about,
        total=dataset.num_users,
        progress=shows_progress(command.json),
    )
    _report(command, dataset, rows, about)
    return 0


def _report(command: Recommend, dataset: Dataset, rows: int, about: dict[str, object]) -> None:
    """Print what was written."""
    if command.json:
        print_json({"file": str(command.out), "users": dataset.num_users, "rows": rows, **about})
    else:
        say(f"wrote {command.out}: {rows:,} rows, the lists of {dataset.num_users:,} users of {dataset.name}")
