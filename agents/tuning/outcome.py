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
from refit_env.data.identity import DataIdentity
from refit_env.evaluation.ranking import Evaluation, evaluate
from refit_env.evaluation.statistics import paired_bootstrap
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
    policy = study.policy_of(best)
    compared = {"start": start, "baseline": floor}
    test = _on_test(study, policy)
    report: dict[str, Any] = {
        "valid": best.valid,
        "test": {name: float(value) for name, value in test.means().items()},
        "users": len(test.users),
        "chosen": _row(best),
        "compared": {},
        "tried": summary(study),
        "training": {
            "trials": len(study.log.trials),
            "selected_on": f"valid {study.metric}",
            "best_value": best.value,
        },
    }
    for role, trial in compared.items():
        if trial is not None:
            report["compared"][role] = _row(trial) | _beside(study, test, _measured(study, trial))
    report["verdict"] = verdict(best, start, floor, study.metric)
    return Outcome(policy, report, _settings(study, best, start, floor))


def verdict(best: Trial, start: Trial | None, floor: Trial | None, metric: str) -> list[str]:
    """Return the choice of validation, in sentences.

    Example:
        >>> policy = Trial("closed form", "linear", {}, 0.25)
        >>> for line in verdict(policy, None, Trial("baseline", "slim", {}, 0.26), "ndcg@20"):
        ...     print(line)
        The best policy is linear, a closed form: valid ndcg@20 0.2500.
        No fine-tuning was better than its start.
        A baseline wins: slim has 0.2600, more than every policy that was tried. Use the baseline.
    """
    what = (
        "fine-tuned"
        if best.stage == FINE_TUNING
        else "a closed form"
        if best.stage != NETWORK
        else "a network"
    )
    lines = [f"The best policy is {best.name}, {what}: valid {metric} {best.value:.4f}."]
    if start is None:
        lines.append("No fine-tuning was better than its start.")
    else:
        lines.append(f"Its start has {start.value:.4f}.")
    if floor is None:
        lines.append("No baseline was tried.")
    elif floor.value > best.value:
        lines.append(
            f"A baseline wins: {floor.name} has {floor.value:.4f}, more than every policy that was tried. "
            "Use the baseline."
        )
    else:
        how = "as good" if floor.value == best.value else "behind the policy"
        lines.append(f"The best baseline is {floor.name} with {floor.value:.4f}: {how}.")
    return lines


def summary(study: Study) -> list[dict[str, Any]]:
    """Return a row for each stage and name: number of trials, their seconds, and the best one."""
    rows: dict[tuple[str, str], list[Trial]] = {}
    for trial in study.log.trials:
        rows.setdefault((trial.stage, trial.name), []).append(trial)
    return [
        {
            "stage": stage,
            "name": name,
            "trials": len(trials),
            "seconds": round(sum(trial.seconds for trial in trials), 1),
            "best": max(trial.value for trial in trials),
            "settings": max(trials, key=lambda trial: trial.value).settings,
        }
        for (stage, name), trials in rows.items()
    ]


def _row(trial: Trial) -> dict[str, Any]:
    """Return a trial for the report."""
    return {"stage": trial.stage, "name": trial.name, "settings": trial.settings, "valid": trial.valid}


def _measured(study: Study, trial: Trial) -> Evaluation:
    """Rebuild a trial's model and measure it on test."""
    if trial.stage != BASELINE:
        return _on_test(study, study.start(trial.name))
    scorer, data = fit_baseline(
        study.dataset, trial.name, trial.settings, study.settings.seed, device=study.device
    )
    return evaluate(scorer, data, "test", device=study.device)


def _on_test(study: Study, policy: DiffusionPolicy) -> Evaluation:
    """Measure a policy on test."""
    data = study.dataset.episodes
    return evaluate(policy.scorer(data), data, "test", device=study.device)


def _beside(study: Study, ours: Evaluation, theirs: Evaluation) -> dict[str, Any]:
    """Return a model's test metrics, and the interval of the policy's difference to it over users."""
    difference = paired_bootstrap(theirs.per_user[study.metric], ours.per_user[study.metric])
    means = {name: float(value) for name, value in theirs.means().items()}
    return {"test": means, "paired_bootstrap": {study.metric: difference.to_json()}}


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
    pretrain: Mapping[str, Any] = {
        "backbone": made.name,
        "backbone_options": made.settings,
        "num_steps": 1 if closed else study.num_steps,
        "training": training,
    }
    return {
        "dataset": asdict(DataIdentity.of(study.dataset)),
        "pretrain": pretrain,
        "finetune": fine_tuning_part(best) if best.stage == FINE_TUNING else None,
        "baseline": None if floor is None else {"name": floor.name, "settings": floor.settings},
    }
