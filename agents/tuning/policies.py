"""The policies of a study's trials: rebuilt, loaded or in memory, and what validation measured of each user.

Letters: n validation users.
"""

from __future__ import annotations

import shutil
from copy import deepcopy
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from agents.runs.files import CANDIDATES
from agents.training.closed_form_search import fitted_policy
from agents.tuning.trials import CLOSED_FORM, Trial, TrialLog
from refit_env.data.dataset import Dataset
from refit_env.evaluation.ranking import Evaluation, evaluate, evaluated_groups
from refit_env.policy import DiffusionPolicy


class TrialPolicies:
    """Policies of trials. Closed forms are fitted again; those that took training are files of the folder."""

    def __init__(
        self, dataset: Dataset, folder: Path, log: TrialLog, metric: str, device: torch.device
    ) -> None:
        """Set what the policies are of.

        Args:
            dataset: the data set.
            folder: run folder of the study.
            log: its trials.
            metric: the validation metric that selects.
            device: of the policies and their validation.
        """
        self.dataset, self.folder, self.log = dataset, folder, log
        self.metric, self.device = metric, device
        self._starts: dict[str, tuple[Trial, DiffusionPolicy]] = {}
        self._values: dict[int, npt.NDArray[np.float64]] = {}

    def set_start(self, trial: Trial, policy: DiffusionPolicy) -> None:
        """Keep the policy of a trial in memory, as the start of its backbone."""
        self._starts[trial.name] = trial, policy

    def of(self, trial: Trial) -> DiffusionPolicy:
        """Return the policy of a trial, which the caller must not change."""
        kept = self._starts.get(trial.name)
        if kept is not None and kept[0] == trial:
            return kept[1]
        if trial.stage == CLOSED_FORM:
            return fitted_policy(self.dataset, trial.name, trial.settings, 1, self.device)
        return DiffusionPolicy.load(self.path(trial.notes["candidate"]), self.device)

    def copy_of_start(self, trial: Trial) -> DiffusionPolicy:
        """Return a copy of the policy of a start, for fine-tuning; the policy stays in memory."""
        policy = self.of(trial)
        self.set_start(trial, policy)
        return deepcopy(policy)

    def save(self, policy: DiffusionPolicy) -> int:
        """Store the policy of the trial that is under way; returns its number, for the trial's notes."""
        number = len(self.log.trials)
        policy.save(self.path(number), self.dataset, overwrite=True)
        return number

    def delete(self, trial: Trial) -> None:
        """Delete the file of a trial."""
        shutil.rmtree(self.path(trial.notes["candidate"]), ignore_errors=True)

    def path(self, number: int) -> Path:
        """Return the folder of a stored policy."""
        return self.folder / CANDIDATES / str(number)

    def validated(self, policy: DiffusionPolicy) -> Evaluation:
        """Return the validation of a policy, user by user."""
        data = self.dataset.episodes
        return evaluate(policy.scorer(data), data, "valid", device=self.device)

    @cached_property
    def groups(self) -> npt.NDArray[np.int64]:
        """The groups (n,) of the users of validation: rows with one number are not independent."""
        return evaluated_groups(self.dataset, "valid")

    def values(self, trial: Trial) -> npt.NDArray[np.float64]:
        """Return the validation metric of each user (n,) by the policy of a trial."""
        number = self.log.trials.index(trial)
        if number not in self._values:
            self._values[number] = self.validated(self.of(trial)).per_user[self.metric]
        return self._values[number]
