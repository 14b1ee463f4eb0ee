"""How the model of a run was made, read from its folder: what ``refit refit`` repeats.

What validation chose is part of it: the settings of a closed form, the epoch of a network, the iteration of a
fine-tuning and the place between its start and there. All is read and checked before anything is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from agents.commands import finetune, pretrain
from agents.commands.resuming import check_code, checkpoints_in
from agents.commands.start import check_weights_unchanged
from agents.commands.target import Target
from agents.runs.contents import RunConfig, data_identity
from agents.runs.files import CONFIG, METRICS, POLICY, SETTINGS, RunError
from agents.runs.folder import RunFolder
from agents.training.closed_form import is_closed_form
from agents.training.config import TrainerConfig
from agents.tuning.trials import CLOSED_FORM, FINE_TUNING, Trial, TrialLog
from refit_env.backbones import backbone_config
from refit_env.data import Dataset
from refit_env.errors import SettingError
from refit_env.utils.atomic_io import check_record

Step = Annotated[int, Meta(ge=0)]
"""An epoch or an iteration; 0 is the start."""
Share = Annotated[float, Meta(gt=0, le=1)]


class _Fitted(TypedDict):
    """``training`` of a closed form in ``metrics.json``."""

    settings: dict[str, Any]


class _Trained(TypedDict):
    """``training`` of a network."""

    best_epoch: Step
    epochs: Step


class _FineTuned(TypedDict):
    """``training`` of a fine-tuning, or the notes of a trial of one."""

    best_iteration: Step
    iterations: Step
    share: NotRequired[Share]


class _Row(TypedDict):
    """A trial in ``metrics.json`` of a study."""

    stage: str
    name: str
    settings: dict[str, Any]
    valid: dict[str, float | None]


@dataclass(frozen=True)
class ClosedForm:
    """How a closed form is made."""

    name: str
    """The backbone."""
    settings: Mapping[str, Any]
    """The chosen ones."""
    num_steps: int = 1
    """T."""
    eta: float | None = None
    """Of the steps back."""


@dataclass(frozen=True)
class Network:
    """How a network is trained."""

    command: pretrain.Pretrain
    """With its settings."""
    epochs: int
    """The chosen one."""
    base: Mapping[str, Any] | None = None
    """Settings of the closed form in it."""
    start: Recipe | None = None
    """The trained model that it begins from; None begins with new weights."""


@dataclass(frozen=True)
class FineTuned:
    """How a model is fine-tuned."""

    start: Recipe
    """What it begins from."""
    algorithm: str
    """Name, or place of a user's class."""
    settings: TrainerConfig
    """Of the algorithm."""
    env: Mapping[str, Any]
    """Keywords of the environment."""
    seed: int
    """Of users and noise."""
    iterations: int
    """The chosen one."""
    share: float = 1.0
    """Position of the weights between those of the start (0) and those of the iteration (1)."""
    num_steps: int | None = None
    """T; None keeps the start's."""
    eta: float | None = None
    """Of the steps back; None keeps the start's."""


Recipe = ClosedForm | Network | FineTuned
"""How the model of a run is made."""


class Reading:
    """Reads how the model of a run was made; refuses a run whose model cannot be made again.

    Attributes:
        needs: the folders that were read.
    """

    def __init__(self, target: Target, dataset: Dataset) -> None:
        """Prepare.

        Args:
            target: the environment of the run.
            dataset: its data.
        """
        self.target, self.dataset = target, dataset
        self.needs: list[Path] = []

    def recipe(self, path: Path) -> Recipe:
        """Return how the model of a finished run was made.

        Raises:
            RunError: if it cannot be made again, or a file of its folder is damaged, naming it.
        """
        folder = RunFolder.open(path, needs=(CONFIG, POLICY, METRICS))
        config = folder.config
        if path.resolve() in self.needs:
            raise RunError(f"{path / CONFIG}: init: the run began from itself")
        self.needs.append(path.resolve())
        _check_repeatable(path, config)
        training = folder.metrics.get("training")
        if config["command"] == "pretrain":
            return self._pretraining(path, config, training)
        if config["command"] == "finetune":
            return self._fine_tuning(path, config, training)
        return self._study(path, config)

    def _start(self, path: Path, config: RunConfig, init: Path) -> Recipe:
        """How the model that a run began from was made.

        Raises:
            RunError: also if it, or a model that the reward reads, is gone or another one by now.
        """
        try:
            found = self.recipe(init)
            read = checkpoints_in(config.get("env_kwargs") or {}).values()
            check_weights_unchanged(path, config, [init, *read])
            self.needs += [Path(folder).resolve() for folder in read]
        except ValueError as error:
            raise RunError(f"{path} cannot be fitted again: it began from {init}, and {error}") from error
        if data_identity(RunFolder(init).config).differs(self.dataset):
            raise RunError(f"{path} cannot be fitted again: it began from {init}, a model of other data")
        return found

    def _pretraining(self, path: Path, config: RunConfig, training: Any) -> Recipe:
        """How a pretrained model was made."""
        command, where = pretrain.begun_command(path), f"{path / METRICS}: training"
        name = command.backbone or self.target.spec.backbone
        if command.init is None and is_closed_form(name):
            found = check_record(training, _Fitted, where, error=RunError)["settings"]
            return ClosedForm(name, self._checked(name, found, where), command.num_steps or 1, command.eta)
        chosen = check_record(training, _Trained, where, error=RunError)
        _check_within(where, "best_epoch", chosen["best_epoch"], "epochs", chosen["epochs"])
        start = None if command.init is None else self._start(path, config, command.init)
        return Network(command, chosen["best_epoch"], config.get("base"), start)

    def _fine_tuning(self, path: Path, config: RunConfig, training: Any) -> Recipe:
        """How a fine-tuned model was made."""
        command = finetune.begun_command(path)
        if command.init is None:
            raise RunError(f"{path / CONFIG}: init is missing")
        chosen = _chosen(training, f"{path / METRICS}: training")
        return FineTuned(
            self._start(path, config, command.init),
            command.algorithm,
            _unconstrained(path, command.agent),
            config.get("env_kwargs") or {},
            command.seed,
            chosen["best_iteration"],
            chosen.get("share", 1.0),
            command.num_steps,
            command.eta,
        )

    def _study(self, path: Path, config: RunConfig) -> Recipe:
        """How the policy that a study of ``refit tune`` chose was made."""
        check_code(path, config, ())
        metrics, log = RunFolder(path).metrics, TrialLog(path, error=RunError)
        best = _trial(log, metrics.get("chosen"), f"{path / METRICS}: chosen")
        if best.stage != FINE_TUNING:
            return self._trial_recipe(path, config, best)
        compared = metrics.get("compared") or {}
        start = _trial(log, compared.get("start"), f"{path / METRICS}: compared, start")
        command = finetune.with_settings(path / SETTINGS, named=config.get("reward_files") or {})
        chosen = _chosen(best.notes, f"{log.path}: notes")
        return FineTuned(
            self._trial_recipe(path, config, start),
            command.algorithm,
            _unconstrained(path, command.agent),
            command.goal.env_kwargs(),
            config.get("seed", 0),
            chosen["best_iteration"],
            chosen.get("share", 1.0),
        )

    def _trial_recipe(self, path: Path, config: RunConfig, trial: Trial) -> Recipe:
        """How the closed form or the network of a trial was made."""
        if trial.stage == CLOSED_FORM:
            return ClosedForm(trial.name, self._checked(trial.name, trial.settings, f"{path}: {trial.name}"))
        command = pretrain.Pretrain(out=path, seed=config.get("seed", 0))
        command = pretrain.with_settings(command, path / SETTINGS)
        chosen = check_record(trial.notes, _Trained, f"{path}: notes of {trial.name}", error=RunError)
        return Network(command, chosen["best_epoch"], trial.settings)

    def _checked(self, name: str, settings: dict[str, Any], where: str) -> dict[str, Any]:
        """Return the settings of a closed form, which a damaged file may not hold.

        Raises:
            RunError: naming the file and the setting.
        """
        try:
            backbone_config(name, self.dataset.name, settings)
        except SettingError as error:
            raise RunError(f"{where}: {error.setting} {error.fault}") from error
        return settings


def _check_repeatable(path: Path, config: RunConfig) -> None:
    """Refuse a run whose model cannot be made again from its settings.

    Raises:
        RunError: with the reason.
    """
    command, kwargs = config["command"], config.get("env_kwargs") or {}
    options = kwargs.get("reward_kwargs")
    neighbors = options.get("neighbor_relevance") if isinstance(options, Mapping) else None
    reasons = {
        "its model was trained elsewhere, and how is not known": command == "import",
        "it was fitted to the validation items already": command == "refit",
        "it carried a model over to later data": config.get("new_data", False),
        "its reward counts validation items, which are train items then": "validation"
        in (kwargs.get("relevance"), neighbors),
        f"its command is {command!r}": command not in ("pretrain", "finetune", "tune", "import", "refit"),
    }
    for reason, holds in reasons.items():
        if holds:
            raise RunError(f"{path} cannot be fitted again: {reason}")


def _unconstrained(path: Path, settings: TrainerConfig) -> TrainerConfig:
    """Return the settings of a fine-tuning without constraints.

    Raises:
        RunError: if it has some: their multipliers follow validation.
    """
    if settings.constraint:
        raise RunError(
            f"{path} cannot be fitted again: its --constraint is measured on validation items, which are "
            "train items then"
        )
    return settings


def _chosen(training: Any, where: str) -> _FineTuned:
    """Return the choice of a fine-tuning.

    Raises:
        RunError: if the file is damaged.
    """
    found = check_record(training, _FineTuned, where, error=RunError)
    _check_within(where, "best_iteration", found["best_iteration"], "iterations", found["iterations"])
    return found


def _check_within(where: str, name: str, value: int, limit: str, most: int) -> None:
    """Refuse a choice after the last step.

    Raises:
        RunError: naming both.
    """
    if value > most:
        raise RunError(f"{where}: {name} must be at most {limit}, {most}, found {value}")


def _trial(log: TrialLog, row: Any, where: str) -> Trial:
    """Return the trial of a study that a row of its ``metrics.json`` is of.

    Raises:
        RunError: if there is none, or the row is damaged.
    """
    found = check_record(row, _Row, where, error=RunError)
    wanted = found["stage"], found["name"], found["settings"], found["valid"]
    for trial in log.trials:
        if (trial.stage, trial.name, trial.settings, trial.valid) == wanted:
            return trial
    raise RunError(f"{log.path} does not hold the trial that {where} names: {found['name']}")
