"""The model of a run and its data set, checked, for the commands that use a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from agents.commands.target import choose_target
from agents.runs.contents import data_identity
from agents.runs.files import CONFIG, DATASET, IDS, METRICS, POLICY, POLICY_META
from agents.runs.folder import RunFolder
from agents.training.tensors import resolve_device
from refit_env.backbones.latest import freeze
from refit_env.checkpoint import weights_digest
from refit_env.data import Dataset, load_dataset
from refit_env.policy import DiffusionPolicy


class OfRun(Protocol):
    """The options that name a run's model and its data."""

    @property
    def run_dir(self) -> Path:
        """The run folder."""

    @property
    def env(self) -> str | None:
        """Environment id; None for the run's."""

    @property
    def data(self) -> Path | None:
        """Folder of the data; None for the run's."""

    @property
    def other_data(self) -> bool:
        """Allow other data."""

    @property
    def other_weights(self) -> bool:
        """Allow other weights."""


def data_of(command: OfRun) -> tuple[RunFolder, Dataset]:
    """Return the run's folder and the data set that its model is used on.

    Raises:
        RunError: if the folder holds no run.
        ValueError: if the options contradict each other.
        DataError: if the data cannot be read.
    """
    folder = RunFolder.open(command.run_dir)
    target = choose_target(command.env, command.data, fallback=folder.config)
    return folder, learned_data(folder, load_dataset(target.dataset))


def learned_data(folder: RunFolder, dataset: Dataset) -> Dataset:
    """Return a data set with its validation items among the train items, if the run's model learned them."""
    identity = data_identity(folder.config)
    same = identity.fingerprint == dataset.fingerprint
    return dataset.learning_validation() if identity.validation and same else dataset


def check_replaceable(out: Path) -> None:
    """Refuse an output that would replace a file of a data set or of a run.

    Raises:
        ValueError: naming it.
    """
    kept = {CONFIG, POLICY, POLICY_META, IDS, METRICS}
    for beside, names, what in ((DATASET, {out.name}, "data set"), (CONFIG, kept, "run")):
        if out.name in names and out.exists() and (out.parent / beside).exists():
            raise ValueError(
                f"--out {out} is a file of a {what}, which is never replaced: choose another file"
            )


def policy_of(command: OfRun, folder: RunFolder, device: str) -> DiffusionPolicy:
    """Return the run's policy on a device.

    Raises:
        CheckpointError: if its files are missing or damaged.
        RunError: if its weights are not those that the run ended with, and no option allows it.
    """
    policy = DiffusionPolicy.load(folder.path, resolve_device(device), other_data=command.other_data)
    if not command.other_weights:
        folder.check_weights(weights_digest(policy.backbone.state_dict()))
    return freeze(policy)  # caches of weights that do not change are valid without reading them
