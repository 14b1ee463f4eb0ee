"""A run's model, made again on a data set whose validation items are learned, too.

What validation chose in the run is taken from its folder: the settings of a closed form, the epoch of a
network, the iteration of a fine-tuning. The model that a run began from is made again in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from agents.algorithms.registry import algorithm
from agents.commands import finetune, pretrain
from agents.commands.pretrain_run import new_policy, trainer_of
from agents.commands.resuming import check_code
from agents.commands.start import check_weights_unchanged
from agents.commands.target import Target
from agents.runs.contents import RunConfig
from agents.runs.files import CONFIG, METRICS, POLICY, SETTINGS, RunError
from agents.runs.folder import RunFolder
from agents.training.closed_form import is_closed_form
from agents.training.closed_form_search import fitted_policy
from agents.training.config import TrainerConfig
from agents.training.weight_interpolation import between
from agents.tuning.trials import CLOSED_FORM, FINE_TUNING, NETWORK, Trial, TrialLog
from refit_env.data import Dataset
from refit_env.policy import DiffusionPolicy


@dataclass(frozen=True)
class Chosen:
    """What validation chose in a training."""

    step: int
    """The epoch or the iteration; 0 is the start."""
    share: float = 1.0
    """Position of the weights between those of the start (0) and those of the iteration (1)."""


class Again:
    """Makes the models of runs again on one data set."""

    def __init__(self, target: Target, dataset: Dataset, device: torch.device) -> None:
        """Prepare.

        Args:
            target: the environment of the runs.
            dataset: ``learning_validation`` of its data set.
            device: of the models.
        """
        self.target, self.dataset, self.device = target, dataset, device

    def check(self, path: Path) -> None:
        """Refuse a run that cannot be repeated, or that began from such a one.

        Raises:
            RunError: naming it and the reason; also if its start is gone, or another one by now.
        """
        config = RunFolder.open(path, needs=(CONFIG, POLICY, METRICS)).config
        _check_repeatable(path, config)
        init = config.get("init")
        if init is None:
            return
        try:
            self.check(Path(init))
            check_weights_unchanged(path, config, [init])
        except RunError as error:
            raise RunError(f"{path} cannot be fitted again: it began from {init}, and {error}") from error

    def policy_of(self, path: Path) -> DiffusionPolicy:
        """Make the model of a run again that ``check`` passed."""
        config = RunFolder(path).config
        makers = {"pretrain": self._pretrained, "finetune": self._fine_tuned, "tune": self._tuned}
        return makers[config["command"]](path, config).to(self.device).eval()

    def _pretrained(self, path: Path, config: RunConfig) -> DiffusionPolicy:
        """The model of a pretraining."""
        command = replace(pretrain.begun_command(path), device=str(self.device))
        training = RunFolder(path).metrics["training"]
        name = command.backbone or self.target.spec.backbone
        if command.init is None and is_closed_form(name):
            return self._closed(name, training["settings"], command.num_steps or 1, command.eta)
        if command.init is None:
            policy = new_policy(command, self.target, self.dataset, config.get("base"))
        else:
            policy = self.policy_of(command.init).respaced(command.num_steps, command.eta)
        return self._trained(command, policy, Chosen(training["best_epoch"]))

    def _closed(
        self, name: str, settings: Mapping[str, Any], num_steps: int, eta: float | None
    ) -> DiffusionPolicy:
        """A closed form with the chosen settings."""
        policy = fitted_policy(self.dataset, name, settings, num_steps, self.device)
        return policy.respaced(None, eta)

    def _trained(
        self, command: pretrain.Pretrain, policy: DiffusionPolicy, chosen: Chosen
    ) -> DiffusionPolicy:
        """A network after the chosen number of epochs."""
        command = replace(command, training=replace(command.training, epochs=chosen.step))
        trainer_of(command, self.dataset, policy).learn()
        return policy

    def _fine_tuned(self, path: Path, config: RunConfig) -> DiffusionPolicy:
        """The model of a fine-tuning."""
        command = finetune.begun_command(path)
        assert command.init is not None, path
        start = self.policy_of(command.init).respaced(command.num_steps, command.eta)
        training = RunFolder(path).metrics["training"]
        chosen = Chosen(training["best_iteration"], training.get("share", 1.0))
        kwargs = config.get("env_kwargs", {})
        return self._tuned_by(command.algorithm, command.agent, start, kwargs, command.seed, chosen)

    def _tuned_by(
        self,
        name: str,
        settings: TrainerConfig,
        start: DiffusionPolicy,
        env_kwargs: Mapping[str, Any],
        seed: int,
        chosen: Chosen,
    ) -> DiffusionPolicy:
        """A policy after the chosen number of iterations, at the chosen place between these and the start."""
        if not chosen.step:
            return start
        kwargs = {"backbone": start.backbone.name, **env_kwargs, "data": self.dataset}
        with TemporaryDirectory(prefix="refit-") as folder:
            if start.backbone.embedding:  # the environment scores by the start, which is another one here
                start.save(folder, self.dataset, overwrite=True)
                kwargs["checkpoint"] = folder
            agent = algorithm(name)(
                start, self.target.env_id, settings, env_kwargs=kwargs, seed=seed, device=self.device
            )
            policy = agent.learn(until=chosen.step).policy
        if chosen.share < 1:
            end = {key: value.clone() for key, value in policy.state_dict().items()}
            policy.load_state_dict(between(agent.reference, end, chosen.share))
        return policy

    def _tuned(self, path: Path, config: RunConfig) -> DiffusionPolicy:
        """The policy that a study of ``refit tune`` chose."""
        code = config.get("reward_files") or {}
        check_code(path, config, ())
        log, rows = TrialLog(path, error=RunError), RunFolder(path).metrics
        best = _trial(log, rows["chosen"], path)
        if best.stage != FINE_TUNING:
            return self._start_of(path, config, best)
        policy = self._start_of(path, config, _trial(log, rows["compared"]["start"], path))
        command = finetune.with_settings(path / SETTINGS, named=code)
        chosen = Chosen(best.notes["best_iteration"], best.notes["share"])
        kwargs = command.goal.env_kwargs()
        seed = config.get("seed", 0)
        return self._tuned_by(command.algorithm, command.agent, policy, kwargs, seed, chosen)

    def _start_of(self, path: Path, config: RunConfig, trial: Trial) -> DiffusionPolicy:
        """The closed form or the network of a trial."""
        if trial.stage == CLOSED_FORM:
            return self._closed(trial.name, trial.settings, 1, None)
        command = pretrain.Pretrain(out=path, seed=config.get("seed", 0), device=str(self.device))
        command = pretrain.with_settings(command, path / SETTINGS)
        policy = new_policy(command, self.target, self.dataset, trial.settings)
        return self._trained(command, policy, Chosen(trial.notes["best_epoch"]))


def _check_repeatable(path: Path, config: RunConfig) -> None:
    """Refuse a run whose model cannot be made again from its settings.

    Raises:
        RunError: with the reason.
    """
    command, kwargs = config["command"], config.get("env_kwargs") or {}
    rewarded = {kwargs.get("relevance"), (kwargs.get("reward_kwargs") or {}).get("neighbor_relevance")}
    reasons = {
        "its model was trained elsewhere, and how is not known": command == "import",
        "it was fitted to the validation items already": command == "refit",
        "it carried a model over to later data": config.get("new_data", False),
        "it began from a model of other data": config.get("other_data", False) or kwargs.get("other_data"),
        "its reward counts validation items, which are train items then": "validation" in rewarded,
        f"its command is {command!r}": command not in ("pretrain", "finetune", "tune", "import", "refit"),
    }
    for reason, holds in reasons.items():
        if holds:
            raise RunError(f"{path} cannot be fitted again: {reason}")


def _trial(log: TrialLog, row: Mapping[str, Any], path: Path) -> Trial:
    """The trial of a study that a row of its ``metrics.json`` is of.

    Raises:
        RunError: if there is none.
    """
    stages = {CLOSED_FORM, NETWORK, FINE_TUNING} & {row["stage"]}
    for trial in log.trials:
        if trial.stage in stages and trial.name == row["name"] and trial.settings == row["settings"]:
            return trial
    raise RunError(f"{log.path} does not hold the trial that {path / METRICS} names: {row['name']}")
