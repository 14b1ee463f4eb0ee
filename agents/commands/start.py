"""The model that a run begins from: loaded, carried over to new data, and checked when the run is resumed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from agents.commands.learned_before import learned_before
from agents.commands.target import Target
from agents.console import say
from agents.runs.contents import RunConfig
from agents.runs.files import RunError
from agents.runs.folder import RunFolder
from refit_env.backbones.base import Backbone
from refit_env.checkpoint import load_checkpoint, weights_digest
from refit_env.data import load_dataset
from refit_env.data.identity import check_same_data
from refit_env.policy import DiffusionPolicy
from refit_env.utils.user_code import SHORT

NEW_DATA = (
    "Pass --new-data if it is later data, whose users and items have the same ids in the source: the model "
    "is carried over to it"
)
OTHER_DATA = (
    "Pass --other-data if the numbers of users and items mean the same in both. The model may have been "
    "trained on items that are held out in the other data"
)
"""What to do where the data is not that of the model's training."""


class Start(Protocol):
    """What ``pretrain`` and ``finetune`` say of the model that they start from."""

    @property
    def other_data(self) -> bool:
        """Allow other data."""

    @property
    def new_data(self) -> bool:
        """Carry it over to other users and items."""

    @property
    def seed(self) -> int:
        """The seed of new items' weights."""

    @property
    def quiet(self) -> bool:
        """Print no more than errors."""


def initial_policy(command: Start, run: Path, target: Target) -> DiffusionPolicy:
    """The policy of ``--init``; with ``--new-data`` for the users and items of the target's data.

    Raises:
        ValueError: if the options contradict each other, or the model cannot be carried over.
        CheckpointError: if the folder holds no whole model.
        DataError: if the data is not that of the model's training, and no option allows it.
    """
    if command.new_data and command.other_data:
        raise ValueError(
            "--new-data finds users and items by their ids, --other-data by number: leave one out"
        )
    policy = DiffusionPolicy.load(run)
    dataset = load_dataset(target.dataset)
    known = policy.backbone.trained_on
    if command.other_data and known is not None and known.differs(dataset):
        policy.backbone.allow_other_data()
    what = f"the model in {run}"
    if not command.new_data:
        check_same_data(policy.backbone.trained_on, dataset, what, _advice(policy.backbone))
        policy.backbone.check_can_learn(dataset)
        return policy
    if known is not None and not known.differs(dataset):
        check_same_data(known, dataset, what)  # it may have learned the validation items
    policy, changes = policy.carried_over(run, dataset, command.seed)
    if not command.quiet:
        say(f"{dataset.name}, compared with the data of {run}: {changes}", stderr=True)
        note = learned_before(run, known, dataset)
        if note is not None:
            say(note, stderr=True)
    return policy


def _advice(backbone: Backbone) -> str:
    """The options that the model of a backbone can be trained with on other data, or what to do instead."""
    ways = [NEW_DATA] if backbone.item_axes is not None else []
    ways += [OTHER_DATA] if backbone.learns_on_other_data else []
    if not ways:
        return f"A model of backbone {backbone.name!r} is trained on its own data alone: leave out --init"
    return ". ".join(ways)


def check_weights_unchanged(path: Path, begun: RunConfig, folders: Iterable[str | Path]) -> None:
    """Refuse to go on where a model that the run was begun with is another one by now.

    Args:
        path: the run's folder.
        begun: its ``config.json``.
        folders: of the models that it still needs.

    Raises:
        RunError: naming the first that changed.
        CheckpointError: if one cannot be read.
    """
    known = begun.get("weights") or {}
    for folder, digest in weights_of(folders).items():
        if folder in known and known[folder] != digest:
            raise RunError(
                f"{path} was begun with the model {known[folder][:SHORT]} in {folder}, which holds "
                f"{digest[:SHORT]} now: put the former back, or begin another run with another --out"
            )


def check_recorded(weights: Mapping[str, str]) -> None:
    """Refuse weights that are not those that the runs in their folders ended with.

    Args:
        weights: digest by folder; folders that hold no finished run pass.

    Raises:
        RunError: naming the first.
    """
    for folder, digest in weights.items():
        RunFolder(folder).check_weights(digest)


def weights_of(folders: Iterable[str | Path]) -> dict[str, str]:
    """sha256 of the weights in each folder, by its resolved path."""
    return {str(Path(folder).resolve()): weights_digest(load_checkpoint(folder)[0]) for folder in folders}
