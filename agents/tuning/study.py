"""Runs a study: closed forms, baselines, networks, and fine-tuning of the best starts.

Every trial is stored when it ends. One validation metric selects, by the rule of ``agents.tuning.choice``:
a closed form is kept unless a network or a fine-tuning is better by more than two standard errors, and so
is a fine-tuning against later ones. Test items are not read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from agents.training.closed_form import fit_closed_form, is_closed_form
from agents.training.closed_form_search import TIMELESS
from agents.tuning.fine_tunings import FineTunings
from agents.tuning.floor import as_term, search_baseline
from agents.tuning.state import StudyState
from agents.tuning.trials import BASELINE, CLOSED_FORM, FINE_TUNING, NETWORK, Trial
from agents.tuning.trying import pretrain_network, pretrainings_of
from refit_env.backbones import Backbone, backbone_config, backbone_for
from refit_env.backbones.linear import LinearDenoiser
from refit_env.backbones.stacked import StackedDenoiser
from refit_env.evaluation.statistics import Gain
from refit_env.policy import DiffusionPolicy

FIRST = 0.6
"""Share of the closed forms' time before the baselines; the rest begins from the best of those, too."""


class Study(StudyState):
    """Runs and stores trials; ``open`` and then ``run`` continue an earlier session."""

    def run(self) -> None:
        """Run the stages; after a KeyboardInterrupt all finished trials are on disk."""
        self._begun = time.perf_counter()
        self._closed_forms(FIRST * self.settings.closed_share)
        self._baselines()
        self._closed_forms(self.settings.closed_share, self._terms())
        self._networks()
        FineTunings(self).run()

    def _terms(self) -> list[dict[str, Any]]:
        """Return the settings of the best baselines that closed forms contain, as those of their terms.

        Those of the baseline that validation ranks first come first: time may end before the others.
        """
        best = [trial for name in self.floor if (trial := self.log.best(BASELINE, name=name)) is not None]
        best.sort(key=lambda trial: trial.value, reverse=True)
        found = [as_term(trial.name, trial.settings) for trial in best]
        return [settings for settings in found if settings is not None]

    def _closed_forms(self, until: float, starts: Sequence[Mapping[str, Any]] = ()) -> None:
        """Fit the closed forms; tried settings are skipped.

        Args:
            until: share of the study's time that they may need, earlier calls included.
            starts: settings of terms from which their search begins, too.
        """
        names = [name for name in self.backbones if is_closed_form(name)]
        share = until * self.settings.minutes * 60
        # On a random split the held-out items are no later than the others.
        timeless = self.facts.split == "random" and self.facts.form == "sets"
        for at, name in enumerate(names):
            tried = self.log.of(CLOSED_FORM, name)
            spent = sum(trial.seconds for trial in self.log.of(CLOSED_FORM))
            stop = self._until((share - spent) / (len(names) - at))

            def note(row: Mapping[str, Any], name: str = name) -> None:
                valid = {key.removeprefix("valid/"): row[key] for key in row if key != "settings"}
                self.add(Trial(CLOSED_FORM, name, dict(row["settings"]), self.score_of(valid), valid))

            rows = [
                {"settings": t.settings, **{f"valid/{key}": value for key, value in t.valid.items()}}
                for t in tried
            ]
            result = fit_closed_form(
                self.dataset,
                name,
                TIMELESS if timeless else {},
                select=str(self.rule),
                device=self.device,
                callback=note,
                tried=rows,
                out_of_time=stop,
                starts=starts,
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
                value = self.score_of(means)
                self.add(Trial(BASELINE, name, settings, value, dict(means)))
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
                self.add(Trial(BASELINE, name, {}, 0.0, notes={"refused": str(error)}))

    def _networks(self) -> None:
        """Pretrain the networks that were named; of one name the best stays on disk.

        After the first fine-tuning none is pretrained: it could take the place of the fine-tuning's start.
        """
        if self.log.of(FINE_TUNING):
            return
        waiting = [
            (name, settings, training)
            for name in self.backbones
            if not is_closed_form(name)
            for settings, training in self._to_train(name)
        ]
        for name, settings, training in waiting:
            if self.left() <= 0:
                return
            if training and self._far_behind(name):
                continue
            begin, seconds = time.perf_counter(), self.left() / (2 * len(waiting))
            try:
                policy, notes = pretrain_network(
                    self.dataset,
                    self._built(name, settings),
                    num_steps=self.steps_of(name),
                    seed=self.settings.seed,
                    device=self.device,
                    seconds=seconds - (time.perf_counter() - begin),
                    training=training,
                )
            except ValueError as error:  # the closed form with these settings refuses fewer rows, say
                if not settings:
                    raise
                self.add(Trial(NETWORK, name, settings, 0.0, notes={"refused": str(error)}))
                continue
            valid = self.valid_of(self.policies.validated(policy))
            notes["candidate"] = self.policies.save(policy)
            self.add(Trial(NETWORK, name, settings, self.score_of(valid), valid, notes=notes))
            best = self.log.best(NETWORK, name=name)
            for trial in self.log.of(NETWORK, name):
                if trial is not best and not trial.refused:
                    self.policies.delete(trial)

    def _far_behind(self, name: str) -> bool:
        """Return whether the best policy of a network is worse than a closed form by two standard errors."""
        known = self.log.best(NETWORK, name=name)
        best = max(self._chosen.values(), key=lambda trial: trial.value, default=None)
        if known is None or best is None:
            return False
        values = (self.policies.values(trial) for trial in (known, best))
        return Gain.of(*values, groups=self.policies.groups).clear

    def _built(self, name: str, settings: Mapping[str, Any]) -> Backbone:
        """Return an untrained network; the closed forms of ``stacked`` are fitted once."""
        if name != StackedDenoiser.name:
            return backbone_for(self.dataset, name, settings, seed=self.settings.seed)
        known = self.log.best(NETWORK, name=name) or self.best_start(LinearDenoiser.name)
        fitted = None if known is None else self.policies.of(known).backbone
        assert fitted is None or isinstance(fitted, (LinearDenoiser, StackedDenoiser))
        config = backbone_config(name, self.dataset.name, settings)
        with torch.random.fork_rng():
            torch.manual_seed(self.settings.seed)
            return StackedDenoiser.for_dataset(self.dataset, config, fitted)

    def _to_train(self, name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return the settings not tried yet, and what their training differs in.

        ``stacked`` has the settings of the best ``linear``; the training of other networks varies.
        """
        trials = self.log.of(NETWORK, name)
        if name != StackedDenoiser.name:
            return [({}, training) for training in pretrainings_of(name, self.dataset)[len(trials) :]]
        tried = [trial.settings for trial in trials]
        base = self.best_start(LinearDenoiser.name)
        known = {key: value for row in tried for key, value in row.items() if key != "popularity"}
        settings = known or ({} if base is None else base.settings)
        done = {row["popularity"] for row in tried}
        return [({**settings, "popularity": flag}, {}) for flag in (False, True) if flag not in done]
