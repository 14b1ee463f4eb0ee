"""The fine-tunings of a study: from the best starts, as Optuna proposes, while time is left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.tuning.defaults import TRAINED, FineTuning
from agents.tuning.proposals import propose
from agents.tuning.space import settings_of
from agents.tuning.state import StudyState
from agents.tuning.trials import FINE_TUNING, Trial
from agents.tuning.trying import MOST, Pace
from refit_env.backbones import backbone_class
from refit_env.evaluation.selection import UNMET
from refit_env.evaluation.statistics import Gain
from refit_env.policy import DiffusionPolicy

REFUSALS = 3
"""Refused fine-tunings after which a start is left."""
SHORTEST = 30.0
"""Least time limit of a fine-tuning in seconds."""


class FineTunings:
    """Runs the fine-tunings of a study, whose log and policies it adds to."""

    def __init__(self, study: StudyState) -> None:
        """Prepare.

        Args:
            study: its other stages are over.
        """
        self.study, self._training = study, study.training
        self._pace: dict[str, Pace] = {}

    def run(self) -> None:
        """Fine-tune while time is left; after a KeyboardInterrupt the finished trials are on disk."""
        starts = self._starts()
        share = self.study.settings.trial_share * self.study.left()
        while starts and self.study.left() > 0:
            params = propose(
                self.study.facts,
                starts,
                self.study.log.of(FINE_TUNING),
                self.study.settings.seed,
                list(self.study.rewards),
            )
            try:
                useful = self._once(params, min(max(share, SHORTEST), self.study.left()))
            except ValueError as error:  # the reward or the backbone does not take the data, say
                notes = {"params": params, "refused": str(error)}
                self.study.add(Trial(FINE_TUNING, params["start"], {}, 0.0, notes=notes))
                refusals = [
                    trial for trial in self.study.log.of(FINE_TUNING, params["start"]) if trial.refused
                ]
                useful = len(refusals) < REFUSALS
            if not useful:
                starts = [name for name in starts if name != params["start"]]

    def _once(self, params: dict[str, Any], seconds: float) -> bool:
        """Fine-tune once, and return whether there was time for it."""
        name, begin = params["start"], time.perf_counter()
        if name not in self._pace:
            probe = self._settings_of(params, MOST)
            self._pace[name] = self._training.pace(self._copy(name), self._scored(probe, name))
        seconds -= time.perf_counter() - begin
        iterations = self._pace[name].iterations(seconds)
        if not iterations:  # too slow for a part of the time: all that is left
            seconds = self.study.left()
            iterations = self._pace[name].iterations(seconds)
        if not iterations:
            return False
        chosen = self._settings_of(params, iterations)
        chosen = replace(chosen, agent=replace(chosen.agent, select=str(self.study.rule)))
        policy = self._copy(name)
        notes = self._training.fine_tune(policy, self._scored(chosen, name), seconds) | {"params": params}
        self._keep(policy, name, {**chosen.env, "agent": asdict(chosen.agent)}, notes)
        return True

    def _settings_of(self, params: Mapping[str, Any], iterations: int) -> FineTuning:
        """Return the settings of a fine-tuning, the reward as the environment needs it."""
        chosen = settings_of(params, self.study.facts, iterations)
        name = chosen.env["reward"]
        found = replace(chosen, env={**chosen.env, "reward": self.study.rewards.get(name, name)})
        config = Reinforce.adapted(found.agent, found.env["reward"])
        assert isinstance(config, ReinforceConfig)
        return replace(found, agent=config)

    def _scored(self, chosen: FineTuning, name: str) -> FineTuning:
        """Return settings whose environment knows the trained model that scores u_0, if embeddings do."""
        trial = self.study.best_start(name)
        assert trial is not None, name
        if not backbone_class(name).embedding:
            return chosen
        folder = self.study.policies.path(trial.notes["candidate"]).resolve()
        return replace(chosen, env={**chosen.env, "backbone": name, "checkpoint": str(folder)})

    def _keep(
        self, policy: DiffusionPolicy, name: str, settings: dict[str, Any], notes: dict[str, Any]
    ) -> None:
        """Store a fine-tuning, and its policy if it is clearly better than the best one up to now.

        The policy of an earlier fine-tuning is then deleted.
        """
        found, kept = self.study.policies.validated(policy), self.study.best()
        valid = self.study.valid_of(found)
        value = self.study.score_of(valid)
        before, after = self.study.policies.values(kept), found.per_user[self.study.metric]
        gain = Gain.of(before, after, groups=self.study.policies.groups)
        notes |= {"gain": gain.mean, "standard_error": gain.error}
        better = gain.clear and value > UNMET
        if better:
            notes["candidate"] = self.study.policies.save(policy)
        self.study.add(Trial(FINE_TUNING, name, settings, value, valid, notes=notes))
        if better and kept.stage == FINE_TUNING:
            self.study.policies.delete(kept)

    def _copy(self, name: str) -> DiffusionPolicy:
        """Return a copy of the best policy of a backbone without fine-tuning."""
        trial = self.study.best_start(name)
        assert trial is not None, name
        return self.study.policies.copy_of_start(trial)

    def _starts(self) -> list[str]:
        """Return the backbones whose best policy is fine-tuned, the best first."""
        found = [
            (trial.value, name)
            for name in self.study.backbones
            if (trial := self.study.best_start(name)) is not None
        ]
        return [name for _, name in sorted(found, reverse=True) if self._trainable(name)]

    def _trainable(self, name: str) -> bool:
        """Return whether the fine-tuning of a backbone fits into memory."""
        return name != "linear" or self.study.facts.items <= TRAINED
