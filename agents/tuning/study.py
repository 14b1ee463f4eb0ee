"""Runs a study: closed forms, baselines, networks, and fine-tuning of the best starts.

Every trial is stored when it ends. One validation metric selects, by the rule of ``agents.tuning.choice``:
a closed form is kept unless a network or a fine-tuning is better by more than one standard error, and so is a
fine-tuning against later ones. Test items are not read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.runs.folder import RunError
from agents.training.closed_form import fit_closed_form, is_closed_form
from agents.tuning.choice import Gain, better_of
from agents.tuning.config import StudySettings
from agents.tuning.defaults import TRAINED, FineTuning, backbones_for
from agents.tuning.floor import floor_names, search_baseline
from agents.tuning.inspection import DataFacts
from agents.tuning.policies import TrialPolicies
from agents.tuning.proposals import propose
from agents.tuning.space import settings_of
from agents.tuning.trials import BASELINE, CLOSED_FORM, FINE_TUNING, NETWORK, Trial, TrialLog
from agents.tuning.trying import MOST, Pace, Training, pretrain_network
from refit_env.backbones import backbone_class, backbone_for
from refit_env.data.dataset import Dataset
from refit_env.errors import SettingError
from refit_env.evaluation.beyond_accuracy import means_of
from refit_env.evaluation.ranking import Evaluation, selecting_rule
from refit_env.evaluation.selection import ACCURACY, UNMET
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.registry import RewardSpec

REFUSALS = 3
"""Refused fine-tunings after which a start is left."""
SHORTEST = 30.0
"""Least time limit of a fine-tuning in seconds."""


class Study:
    """Runs and stores trials; ``open`` and then ``run`` continue an earlier session.

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
                backbone_for(dataset, name, seed=settings.seed)
            except ValueError as error:
                raise SettingError("backbones", f"{name}: {error}") from error
        self.floor = floor_names(dataset, settings.baselines)
        self.folder: Path
        self.log: TrialLog
        self._begun = time.perf_counter()
        self.policies: TrialPolicies
        self._chosen: dict[str, Trial] = {}
        self._pace: dict[str, Pace] = {}
        self._training = Training(env_id, dict(env_kwargs), settings.seed, device)

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

    def _add(self, trial: Trial) -> None:
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

    # ------------------------------------------------------------------ stages

    def run(self) -> None:
        """Run the stages; after a KeyboardInterrupt all finished trials are on disk."""
        self._begun = time.perf_counter()
        self._closed_forms()
        self._baselines()
        self._networks()
        self._fine_tunings()

    def _closed_forms(self) -> None:
        """Fit the closed forms; tried settings are skipped."""
        names = [name for name in self.backbones if is_closed_form(name)]
        share = self.settings.closed_share * self.settings.minutes * 60
        for at, name in enumerate(names):
            tried = self.log.of(CLOSED_FORM, name)
            spent = sum(trial.seconds for trial in self.log.of(CLOSED_FORM))
            stop = self._until((share - spent) / (len(names) - at))

            def note(row: Mapping[str, Any], name: str = name) -> None:
                valid = {key.removeprefix("valid/"): row[key] for key in row if key != "settings"}
                self._add(Trial(CLOSED_FORM, name, dict(row["settings"]), self._score(valid), valid))

            rows = [
                {"settings": t.settings, **{f"valid/{key}": value for key, value in t.valid.items()}}
                for t in tried
            ]
            result = fit_closed_form(
                self.dataset,
                name,
                select=str(self.rule),
                device=self.device,
                callback=note,
                tried=rows,
                out_of_time=stop,
            )
            settings = result.tried[result.best_trial - 1]["settings"]
            chosen = next(t for t in self.log.of(CLOSED_FORM, name) if t.settings == settings)
            self._chosen[name] = chosen
            self.policies.set_start(chosen, DiffusionPolicy(result.backbone, 1).to(self.device).eval())

    def _baselines(self) -> None:
        """Fit the baselines; tried settings are skipped."""
        share = self.settings.floor_share * self.settings.minutes * 60
        for at, name in enumerate(self.floor):
            spent = sum(trial.seconds for trial in self.log.of(BASELINE))
            earlier = self.log.of(BASELINE, name)
            if (spent > share and not earlier) or any(trial.refused for trial in earlier):
                continue
            stop = self._until((share - spent) / (len(self.floor) - at))

            def note(settings: dict[str, Any], means: dict[str, float], name: str = name) -> float:
                value = self._score(means)
                self._add(Trial(BASELINE, name, settings, value, dict(means)))
                return value

            try:
                search_baseline(
                    self.dataset,
                    name,
                    seed=self.settings.seed,
                    device=self.device,
                    note=note,
                    names=self.rule.names,
                    known=[(trial.settings, trial.value) for trial in earlier],
                    out_of_time=partial(stop, 1.0),
                )
            except ValueError as error:  # too large for it, say
                self._add(Trial(BASELINE, name, {}, 0.0, notes={"refused": str(error)}))

    def _networks(self) -> None:
        """Pretrain the networks that were named."""
        names = [name for name in self.backbones if not is_closed_form(name)]
        for name in names:
            if self.log.of(NETWORK, name) or self.left() <= 0:
                continue
            policy, notes = pretrain_network(
                self.dataset,
                name,
                num_steps=self.num_steps,
                seed=self.settings.seed,
                device=self.device,
                seconds=self.left() / (2 * len(names)),
            )
            valid = self._valid(self.policies.validated(policy))
            notes["candidate"] = self.policies.save(policy)
            self._add(Trial(NETWORK, name, {}, self._score(valid), valid, notes=notes))

    def _fine_tunings(self) -> None:
        """Fine-tune while time is left."""
        starts = self._starts()
        share = self.settings.trial_share * self.left()
        while starts and self.left() > 0:
            params = propose(
                self.facts, starts, self.log.of(FINE_TUNING), self.settings.seed, list(self.rewards)
            )
            try:
                useful = self._fine_tuning(params, min(max(share, SHORTEST), self.left()))
            except ValueError as error:  # the reward or the backbone does not take the data, say
                notes = {"params": params, "refused": str(error)}
                self._add(Trial(FINE_TUNING, params["start"], {}, 0.0, notes=notes))
                refusals = [trial for trial in self.log.of(FINE_TUNING, params["start"]) if trial.refused]
                useful = len(refusals) < REFUSALS
            if not useful:
                starts = [name for name in starts if name != params["start"]]

    def _fine_tuning(self, params: dict[str, Any], seconds: float) -> bool:
        """Fine-tune once, and return whether there was time for it."""
        name, begin = params["start"], time.perf_counter()
        if name not in self._pace:
            probe = self._settings_of(params, MOST)
            self._pace[name] = self._training.pace(self._copy(name), self._scored(probe, name))
        seconds -= time.perf_counter() - begin
        iterations = self._pace[name].iterations(seconds)
        if not iterations:
            return False
        chosen = self._settings_of(params, iterations)
        chosen = replace(chosen, agent=replace(chosen.agent, select=str(self.rule)))
        policy = self._copy(name)
        notes = self._training.fine_tune(policy, self._scored(chosen, name), seconds) | {"params": params}
        self._keep(policy, name, {**chosen.env, "agent": asdict(chosen.agent)}, notes)
        return True

    def _settings_of(self, params: Mapping[str, Any], iterations: int) -> FineTuning:
        """Return the settings of a fine-tuning, the reward as the environment needs it."""
        chosen = settings_of(params, self.facts, iterations)
        name = chosen.env["reward"]
        found = replace(chosen, env={**chosen.env, "reward": self.rewards.get(name, name)})
        config = Reinforce.adapted(found.agent, found.env["reward"])
        assert isinstance(config, ReinforceConfig)
        return replace(found, agent=config)

    def _scored(self, chosen: FineTuning, name: str) -> FineTuning:
        """Return settings whose environment knows the trained model that scores u_0, if embeddings do."""
        trial = self.best_start(name)
        assert trial is not None, name
        if not backbone_class(name).embedding:
            return chosen
        folder = self.policies.path(trial.notes["candidate"]).resolve()
        return replace(chosen, env={**chosen.env, "backbone": name, "checkpoint": str(folder)})

    def _keep(
        self, policy: DiffusionPolicy, name: str, settings: dict[str, Any], notes: dict[str, Any]
    ) -> None:
        """Store a fine-tuning, and its policy if it is clearly better than the best one up to now.

        The policy of an earlier fine-tuning is then deleted.
        """
        found, kept = self.policies.validated(policy), self.best()
        valid = self._valid(found)
        value = self._score(valid)
        gain = Gain.of(self.policies.values(kept), found.per_user[self.metric])
        notes |= {"gain": gain.mean, "standard_error": gain.error}
        better = gain.clear and value > UNMET
        if better:
            notes["candidate"] = self.policies.save(policy)
        self._add(Trial(FINE_TUNING, name, settings, value, valid, notes=notes))
        if better and kept.stage == FINE_TUNING:
            self.policies.delete(kept)

    def _valid(self, found: Evaluation) -> dict[str, float]:
        """Return validation metrics, those of the rule among them."""
        return means_of(found, self.dataset.episodes, "valid", self.rule.names)

    def _score(self, valid: Mapping[str, float]) -> float:
        """Return the score of validation metrics by the rule."""
        start = next((trial.valid for trial in self.log.trials if trial.valid), valid)
        return self.rule.score(valid, start)

    def _copy(self, name: str) -> DiffusionPolicy:
        """Return a copy of the best policy of a backbone without fine-tuning."""
        trial = self.best_start(name)
        assert trial is not None, name
        return self.policies.copy_of_start(trial)

    def _starts(self) -> list[str]:
        """Return the backbones whose best policy is fine-tuned, the best first."""
        found = [
            (trial.value, name) for name in self.backbones if (trial := self.best_start(name)) is not None
        ]
        return [name for _, name in sorted(found, reverse=True) if self._trainable(name)]

    def _trainable(self, name: str) -> bool:
        """Return whether the fine-tuning of a backbone fits into memory."""
        return name != "linear" or self.facts.items <= TRAINED

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
        return better_of([(trial, self.policies.values(trial)) for trial in found]) if found else None

    def best(self) -> Trial:
        """Return the best trial whose result is a policy; the start if no fine-tuning is clearly better."""
        kept = [trial for trial in self.log.of(FINE_TUNING) if "candidate" in trial.notes]
        found = kept[-1] if kept else self.best_start()
        assert found is not None  # closed forms come first
        return found

    def best_baseline(self) -> Trial | None:
        """Return the best trial of a baseline."""
        return self.log.best(BASELINE)
