"""The result of a study: the chosen policy, its start and the best baseline, on validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agents.baselines import fit_baseline
from agents.training.closed_form import is_closed_form
from agents.tuning.settings_file import FinetunePart
from agents.tuning.study import Study
from agents.tuning.trials import BASELINE, FINE_TUNING, NETWORK, Trial
from agents.tuning.trying import pretraining_of
from refit_env.backbones import backbone_class
from refit_env.backbones.stacked import StackedDenoiser
from refit_env.data.identity import DataIdentity
from refit_env.evaluation.beyond_accuracy import means_of
from refit_env.evaluation.ranking import Evaluation, ScoreFunction, evaluate
from refit_env.evaluation.statistics import Gain, paired_bootstrap
from refit_env.policy import DiffusionPolicy


@dataclass
class Outcome:
    """The content of ``metrics.json``, the chosen policy, and the settings file."""

    policy: DiffusionPolicy
    """The policy that validation chose."""
    report: dict[str, Any]
    """JSON-plain."""
    settings: dict[str, Any]
    """See ``agents.tuning.settings_file``."""


def outcome_of(study: Study) -> Outcome:
    """Measure the chosen policy, its start and the best baseline on test, which selects nothing."""
    best, floor = study.best(), study.best_baseline()
    start = study.best_start(best.name) if best.stage == FINE_TUNING else None
    policy = study.policies.of(best)
    ours = _measured(study, best)
    test = ours["test"]
    report: dict[str, Any] = {
        "valid": best.valid,
        "test": _means(study, test),
        "users": len(test.users),
        "unit": study.dataset.unit,
        "chosen": _row(best),
        "compared": {},
        "tried": summary(study),
        "training": {
            "trials": len(study.log.trials),
            "selected_on": f"valid {study.rule}",
            "best_value": best.value,
        },
    }
    gains = {}
    for role, trial in (("start", start), ("baseline", floor)):
        if trial is not None:
            theirs = _measured(study, trial)
            values = (found["valid"].per_user[study.metric] for found in (theirs, ours))
            gain = Gain.of(*values, groups=study.policies.groups)
            gains[role] = gain
            row = _beside(study, test, theirs["test"])
            report["compared"][role] = _row(trial) | row | {"valid_gain": asdict(gain)}
    tried = any(trial.stage == FINE_TUNING for trial in study.log.trials)
    report["verdict"] = verdict(best, start, floor, study.metric, gains, tried)
    return Outcome(policy, report, _settings(study, best, start, floor))


def verdict(
    best: Trial,
    start: Trial | None,
    floor: Trial | None,
    metric: str,
    gains: Mapping[str, Gain],
    tried: bool = True,
) -> list[str]:
    """Return the choice of validation, in sentences.

    Args:
        best: the policy.
        start: what it was fine-tuned from, if it was.
        floor: the best baseline, if one was tried.
        metric: the validation metric that selects.
        gains: of the policy over ``start`` and ``baseline``.
        tried: whether a fine-tuning was tried.

    Example:
        >>> policy, ease = Trial("closed form", "linear", {}, 0.25), Trial("baseline", "ease", {}, 0.26)
        >>> for line in verdict(policy, None, ease, "ndcg@20", {"baseline": Gain(-0.01, 0.002)}):
        ...     print(line)
        The best policy is linear, a closed form: valid ndcg@20 0.2500.
        No fine-tuning was better than its start by more than two standard errors.
        A baseline wins, ease with 0.2600: the policy has -0.0100, standard error 0.0020. Use the baseline.
        >>> for line in verdict(policy, None, ease, "ndcg@20", {"baseline": Gain(-0.01, 0.02)})[2:]:
        ...     print(line)
        Validation does not decide: the best baseline, ease, has 0.2600.
        The policy has -0.0100, standard error 0.0200: use the baseline, whose mean is higher.
        >>> verdict(policy, None, ease, "ndcg@20", {"baseline": Gain(0.0, 0.0)})[3]
        'The policy has the same mean: use either.'
        >>> verdict(policy, None, None, "ndcg@20", {}, tried=False)[1]
        'No fine-tuning was tried: the time ended before. More --minutes give it some.'
    """
    kinds = {FINE_TUNING: "fine-tuned", NETWORK: "a network"}
    what = kinds.get(best.stage, "a closed form")
    if best.stage == NETWORK and issubclass(backbone_class(best.name), StackedDenoiser):
        what = "a closed form with a trained correction"
    lines = [f"The best policy is {best.name}, {what}: valid {metric} {best.value:.4f}."]
    if start is None and not tried:
        lines.append("No fine-tuning was tried: the time ended before. More --minutes give it some.")
    elif start is None:
        lines.append("No fine-tuning was better than its start by more than two standard errors.")
    else:
        lines.append(f"Its start has {start.value:.4f} (the policy has {gains['start']}).")
    if floor is None:
        return [*lines, "No baseline was tried."]
    gain = gains["baseline"]
    beside = f"{floor.name} with {floor.value:.4f}: the policy has {gain}."
    if Gain(-gain.mean, gain.error).clear:
        lines.append(f"A baseline wins, {beside} Use the baseline.")
    elif gain.clear:
        lines.append(f"The best baseline is behind the policy, {beside}")
    else:
        higher = "the policy" if gain.mean > 0 else "the baseline"
        lines.append(f"Validation does not decide: the best baseline, {floor.name}, has {floor.value:.4f}.")
        if gain.mean:
            lines.append(f"The policy has {gain}: use {higher}, whose mean is higher.")
        else:
            lines.append("The policy has the same mean: use either.")
    return lines


def summary(study: Study) -> list[dict[str, Any]]:
    """Return a row for each stage and name: number of trials, their seconds, and the best one.

    Where all trials were refused, ``best`` is None.
    """
    rows: dict[tuple[str, str], list[Trial]] = {}
    for trial in study.log.trials:
        rows.setdefault((trial.stage, trial.name), []).append(trial)
    out = []
    for (stage, name), trials in rows.items():
        best = study.log.best(stage, name=name)
        seconds = round(sum(trial.seconds for trial in trials), 1)
        found = (
            {"best": None, "settings": {}}
            if best is None
            else {"best": best.value, "settings": best.settings}
        )
        out.append({"stage": stage, "name": name, "trials": len(trials), "seconds": seconds, **found})
    return out


def _row(trial: Trial) -> dict[str, Any]:
    """Return a trial for the report."""
    return {"stage": trial.stage, "name": trial.name, "settings": trial.settings, "valid": trial.valid}


def _measured(study: Study, trial: Trial) -> dict[str, Evaluation]:
    """Return what a trial's model comes to on validation and test."""
    score: ScoreFunction
    if trial.stage != BASELINE:
        score = study.policies.of(trial).scorer(study.dataset.episodes)
    else:
        settings, seed = trial.settings, study.settings.seed
        score, _ = fit_baseline(study.dataset, trial.name, settings, seed, device=study.device)
    return {split: evaluate(score, study.dataset, split, device=study.device) for split in ("valid", "test")}


def _beside(study: Study, ours: Evaluation, theirs: Evaluation) -> dict[str, Any]:
    """Return a model's test metrics, and the interval of the policy's difference to it over users."""
    values = (one.per_user[study.metric] for one in (theirs, ours))
    difference = paired_bootstrap(*values, groups=study.dataset.groups_of(ours.users))
    return {
        "test": _means(study, theirs),
        "paired_bootstrap": {study.metric: difference.to_json()},
    }


def _means(study: Study, found: Evaluation) -> dict[str, float]:
    """Return test metrics, those of the rule that selects among them."""
    means = means_of(found, study.dataset, "test", study.rule.names)
    return {name: float(value) for name, value in means.items()}


def fine_tuning_part(trial: Trial) -> FinetunePart:
    """Return the entry of a fine-tuning in the settings file."""
    return {
        "reward": trial.settings["reward"],
        "relevance": trial.settings["relevance"],
        "reward_kwargs": trial.settings.get("reward_kwargs", {}),
        "algorithm": "reinforce",
        "agent": trial.settings["agent"],
    }


def _settings(study: Study, best: Trial, start: Trial | None, floor: Trial | None) -> dict[str, Any]:
    """Return the settings file."""
    made = best if start is None else start
    closed = is_closed_form(made.name)
    training = {} if closed else asdict(pretraining_of(made.name, study.dataset))
    training |= made.notes.get("training", {})
    pretrain: Mapping[str, Any] = {
        "backbone": made.name,
        "backbone_options": made.settings,
        "num_steps": study.steps_of(made.name),
        "training": training,
    }
    return {
        "dataset": asdict(DataIdentity.of(study.dataset)),
        "pretrain": pretrain,
        "finetune": fine_tuning_part(best) if best.stage == FINE_TUNING else None,
        "baseline": None if floor is None else {"name": floor.name, "settings": floor.settings},
    }
