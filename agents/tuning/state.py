"""The state of a study: its data and settings, its trials and their policies, its time, and what is best.

Test items are not read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from agents.runs.files import RunError
from agents.tuning.choice import better_of
from agents.tuning.config import StudySettings
from agents.tuning.defaults import backbones_for
from agents.tuning.floor import floor_names
from agents.tuning.inspection import DataFacts
from agents.tuning.policies import TrialPolicies
from agents.tuning.trials import BASELINE, FINE_TUNING, NETWORK, Trial, TrialLog
from agents.tuning.trying import Training
from refit_env.backbones import backbone_class, backbone_for, check_task
from refit_env.backbones.row_denoiser import RowDenoiser
from refit_env.backbones.stacked import StackedDenoiser
from refit_env.data.dataset import Dataset
from refit_env.errors import SettingError
from refit_env.evaluation.beyond_accuracy import means_of
from refit_env.evaluation.ranking import Evaluation, selecting_rule
from refit_env.evaluation.selection import ACCURACY
from refit_env.rewards.registry import RewardSpec


class StudyState:
    """A study's data, settings, trials and policies; ``open`` reads those of an earlier session.

    Attributes:
        folder: folder of the trials.
        log: the trials.
        policies: their policies.
        rule: the rule by which validation selects; its ``start`` is the first trial.
        metric: the metric of the rule.
    """

    def __init__(
        self,
        dataset: Dataset,
        facts: DataFacts,
        env_id: str,
        env_kwargs: Mapping[str, Any],
        settings: StudySettings,
        *,
        num_steps: int = 4,
        device: torch.device,
        rewards: Mapping[str, RewardSpec] | None = None,
        report: Callable[[Trial], None] | None = None,
    ) -> None:
        """Prepare a study, and check its settings.

        Args:
            dataset: the data set.
            facts: facts of the data set.
            env_id: id of its environment.
            env_kwargs: arguments of the environment that select the data: ``data``.
            settings: settings of the study.
            num_steps: T of a network's chain; closed forms use one step.
            device: device of fits and training.
            rewards: further rewards to try, each by the name that the trials have for it.
            report: called with each finished trial.

        Raises:
            ValueError: for a wrong name, or a data set that a backbone or baseline does not take.
        """
        self.dataset, self.facts, self.settings, self.device = dataset, facts, settings, device
        self.num_steps, self.report, self.rewards = num_steps, report, dict(rewards or {})
        self.rule = selecting_rule(settings.select, dataset)
        self.metric = self.rule.metric
        if not self.metric.startswith(ACCURACY):
            raise SettingError(
                "select",
                "must be a rule for recall or ndcg, metrics of each user that have standard errors; "
                f"found {self.metric!r}, which may be in a condition: ndcg@20 where {self.metric} >= 0.1",
            )
        self.backbones = list(dict.fromkeys(settings.backbones or backbones_for(facts)))
        for name in self.backbones:
            try:
                if issubclass(backbone_class(name), StackedDenoiser):  # its fits take their time in a trial
                    check_task(StackedDenoiser, dataset)
                else:
                    backbone_for(dataset, name, seed=settings.seed)
            except ValueError as error:
                raise SettingError("backbones", f"{name}: {error}") from error
        self.floor = floor_names(dataset, settings.baselines)
        self.folder: Path
        self.log: TrialLog
        self._begun = time.perf_counter()
        self.policies: TrialPolicies
        self._chosen: dict[str, Trial] = {}
        self.training = Training(env_id, dict(env_kwargs), settings.seed, device)

    def open(self, folder: Path) -> None:
        """Set the folder to write to, and read its trials of an earlier session.

        Raises:
            RunError: if its trials are damaged.
        """
        self.folder, self.log = folder, TrialLog(folder, error=RunError)
        self.policies = TrialPolicies(self.dataset, folder, self.log, self.metric, self.device)

    # ------------------------------------------------------------------ time

    def left(self) -> float:
        """Remaining seconds for trials; the running trial counts."""
        return self.settings.minutes * 60 - self.log.seconds - (time.perf_counter() - self._begun)

    def add(self, trial: Trial) -> None:
        """Store a trial with the time since the last one."""
        now = time.perf_counter()
        trial = Trial(**{**asdict(trial), "seconds": now - self._begun})
        self.log.add(trial)
        self._begun = now
        if self.report is not None:
            self.report(trial)

    def _until(self, seconds: float) -> Callable[[float], bool]:
        """Return a function that reports whether a share of the seconds, or of the study's, has passed."""
        begin, given = time.perf_counter(), max(min(seconds, self.left()), 0.0)
        return lambda share: time.perf_counter() - begin > share * given

    def valid_of(self, found: Evaluation) -> dict[str, float]:
        """Return validation metrics, those of the rule among them."""
        return means_of(found, self.dataset.episodes, "valid", self.rule.names)

    def score_of(self, valid: Mapping[str, float]) -> float:
        """Return the score of validation metrics by the rule."""
        start = next((trial.valid for trial in self.log.trials if trial.valid), valid)
        return self.rule.score(valid, start)

    # ------------------------------------------------------------------ results

    def best_start(self, name: str | None = None) -> Trial | None:
        """Return the best trial without fine-tuning: of a backbone, or of all.

        Of a closed form it is the trial that its search of settings chose, which is not always the one with
        the highest value. The best closed form is kept unless a network is clearly better.
        """
        if name is not None:
            return self._chosen.get(name) or self.log.best(NETWORK, name=name)
        found = [trial for name in self.backbones if (trial := self.best_start(name)) is not None]
        closed = sorted((trial for trial in found if trial.stage != NETWORK), key=lambda trial: -trial.value)
        found = closed[:1] + [trial for trial in found if trial.stage == NETWORK]
        values = [(trial, self.policies.values(trial)) for trial in found]
        return better_of(values, groups=self.policies.groups) if found else None

    def best(self) -> Trial:
        """Return the best trial whose result is a policy; the start if no fine-tuning is clearly better."""
        kept = [trial for trial in self.log.of(FINE_TUNING) if "candidate" in trial.notes]
        found = kept[-1] if kept else self.best_start()
        assert found is not None  # closed forms come first
        return found

    def steps_of(self, name: str) -> int:
        """Return T of the chain of a backbone: one step if it is, or is built on, a closed form."""
        return 1 if issubclass(backbone_class(name), RowDenoiser) else self.num_steps

    def best_baseline(self) -> Trial | None:
        """Return the best trial of a baseline."""
        return self.log.best(BASELINE)
