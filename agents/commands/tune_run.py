"""The work of ``refit tune``."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from rich.table import Table

from agents.baselines.tuning import load_optuna
from agents.commands.measures import cost
from agents.commands.options import RewardText
from agents.commands.resuming import change_of, changed_since, check_begun_on, check_sources, earlier_stays
from agents.commands.target import TRIED, choose_target, note_other_data, reward_named
from agents.commands.tune import Tune
from agents.console import console, print_json, say
from agents.runs.files import SETTINGS, RunError
from agents.runs.folder import RunFolder
from agents.runs.profiling import Usage, measure
from agents.training.tensors import resolve_device
from agents.tuning.defaults import default_backbone, default_finetuning
from agents.tuning.inspection import inspect_data
from agents.tuning.outcome import outcome_of
from agents.tuning.settings_file import read_settings, write_settings
from agents.tuning.study import Study
from agents.tuning.trials import Trial, TrialLog
from refit_env.data import Dataset, load_dataset
from refit_env.data.identity import DataIdentity
from refit_env.evaluation.intervals import ends_in_words
from refit_env.evaluation.ranking import evaluated_users
from refit_env.evaluation.selection import Rule
from refit_env.rewards import make_relevance, make_reward
from refit_env.settings import plain
from refit_env.utils.user_code import places_in, sources_in


def run(command: Tune) -> int:
    """Try, write the run folder and report; returns the exit code."""
    load_optuna()
    target = choose_target(command.env, command.data)
    dataset = load_dataset(target.dataset)
    for split in ("valid", "test"):
        evaluated_users(dataset, split)
    rewards = {} if command.reward is None else {command.reward: reward_named(command.reward)}
    settings = {
        "env": target.env_id,
        "data": target.data,
        "seed": command.study.seed,
        "tune": plain(command.study) | {"reward": command.reward},
    }
    for spec in rewards.values():
        settings["reward_files"] = sources_in("reward", spec)
    study = Study(
        dataset,
        inspect_data(dataset),
        target.env_id,
        target.env_kwargs(),
        command.study,
        num_steps=target.spec.num_steps,
        device=resolve_device(command.device),
        report=None if command.quiet else TrialLines(),
        rewards=rewards,
    )
    for spec in rewards.values():
        _try_reward(study, spec)
    # After all that can be refused: a mistake leaves no run in the way.
    with _folder(command, settings, dataset) as folder:
        study.open(folder.path)
        for line in plan(study):
            say(line, stderr=command.json)
        _try(study, "the same command" + ", without --overwrite" * command.overwrite)
        report = _finish(study, folder)
    if command.json:
        print_json(report)
        return 0
    note_other_data(dataset)
    metric = study.metric
    console().print(tried_table(report, metric, dataset.name))
    console().print(test_table(report, study.rule))
    for line in report["verdict"]:
        say(line)
    tuned = read_settings(command.out / SETTINGS)["finetune"] is not None
    uses = "pretrain and finetune" if tuned else "pretrain"
    say(f"{command.out}: the policy; trials.jsonl; {SETTINGS}, for {uses} --settings")
    return 0


def _try_reward(study: Study, spec: RewardText) -> None:
    """Reward random scores by a user's own code: its errors end the command before the first trial."""
    if not places_in(spec):
        return
    relevance = make_relevance(
        default_finetuning(study.facts, study.backbones[0]).env["relevance"], study.dataset
    )
    reward = make_reward(spec, study.dataset, relevance, device=study.device)
    draws, size = torch.Generator().manual_seed(0), reward.context.num_items
    reward.refresh(lambda users: torch.randn(users.numel(), size, generator=draws).to(study.device))
    users = reward.context.peers[:TRIED]
    reward(torch.randn(users.numel(), size, generator=draws).to(study.device), users)


def plan(study: Study) -> list[str]:
    """What was found in the data and what will be tried, a line each."""
    facts = study.facts
    chosen, usual = default_backbone(facts), default_finetuning(facts, study.backbones[0])
    lines = [
        *facts.lines(),
        f"backbones: {', '.join(study.backbones)} (default {chosen.value}: {chosen.why})",
        f"baselines: {', '.join(study.floor) or 'none'}",
        f"fine-tuning: reward {usual.env['reward']}, relevance {usual.env['relevance']} first ({usual.why})",
    ]
    if study.log.trials:
        lines.append(f"continues after {len(study.log.trials)} trials, {study.log.seconds:.0f} s")
    return lines


def tried_table(report: Mapping[str, Any], metric: str, name: str) -> Table:
    """All that was tried, with the best value of each, best first."""
    caption = "The best of all trials: a choice needs a gain above the noise, so its value may be lower."
    table = Table(title=f"{name}: what was tried (best valid {metric} of each)", caption=caption)
    for column in ("stage", "name", "trials", "seconds", f"valid {metric}"):
        table.add_column(column, justify="left" if column in ("stage", "name") else "right")
    for row in sorted(report["tried"], key=lambda row: (row["best"] is None, -(row["best"] or 0.0))):
        best = "refused" if row["best"] is None else f"{row['best']:.4f}"
        table.add_row(row["stage"], row["name"], str(row["trials"]), f"{row['seconds']:.0f}", best)
    return table


def test_table(report: Mapping[str, Any], rule: Rule) -> Table:
    """The chosen policy on test beside its start and the best baseline, by all metrics of the rule."""
    table = Table(title=f"Test ({report['users']} {report['unit']})")
    for column in (
        "",
        "name",
        *rule.names,
        f"{rule.metric}: ours less theirs, 95 % interval over {report['unit']}",
    ):
        table.add_column(column, justify="left" if column in ("", "name") else "right")

    def values(row: Mapping[str, Any]) -> list[str]:
        """The metrics of a row."""
        return [f"{row['test'][name]:.4f}" for name in rule.names]

    table.add_row("policy", report["chosen"]["name"], *values(report), "")
    for role, row in report["compared"].items():
        found = row["paired_bootstrap"][rule.metric]
        interval = f"{found['mean_difference']:+.4f} [{ends_in_words(found['low'], found['high'], ', ')}]"
        table.add_row(role, row["name"], *values(row), interval)
    return table


def _folder(command: Tune, settings: Mapping[str, Any], dataset: Dataset) -> RunFolder:
    """Begin a run, or continue the one that the same command began.

    Raises:
        RunError: if the folder holds another run, a finished one, or one of another command.
    """
    folder = RunFolder(command.out)
    if not folder.exists() or folder.finished() or command.overwrite or folder.config["command"] != "tune":
        begun = {**settings, "dataset": asdict(DataIdentity.of(dataset))}
        return RunFolder.create(command.out, "tune", begun, overwrite=command.overwrite)
    check_begun_on(command.out, folder.config, dataset)
    check_sources(
        command.out, "reward", folder.config.get("reward_files") or {}, settings.get("reward_files")
    )
    for name, was, now in changed_since(folder.config, settings):
        raise RunError(
            f"{command.out} was begun {change_of(name, was, now)}: continue it with the same command, "
            "choose another --out, or pass --overwrite to begin again"
        )
    return RunFolder.resume(command.out)


def _try(study: Study, again: str) -> None:
    """Run the study; Ctrl-C says how to go on: by ``again``."""
    try:
        study.run()
    except KeyboardInterrupt as stop:
        where = shlex.quote(str(study.folder))
        count = len(TrialLog(study.folder).trials)  # a trial may have been written just before
        if not count and (stays := earlier_stays(study.folder)):
            raise KeyboardInterrupt(f"no trial has ended yet: {stays}") from stop
        kept = f"{count} trials are saved" if count else "no trial has ended yet"
        raise KeyboardInterrupt(f"{kept} in {where}; go on with {again}") from stop


def _finish(study: Study, folder: RunFolder) -> dict[str, Any]:
    """Measure on test, and write what the folder holds."""
    with measure() as evaluation:
        outcome = outcome_of(study)
    outcome.policy.save(folder.path, study.dataset, overwrite=True)
    write_settings(folder.path / SETTINGS, outcome.settings)
    tuning = Usage(study.log.seconds, evaluation.peak_memory_mib)
    report = outcome.report | {"cost": cost(tuning=tuning, evaluation=evaluation)}
    folder.finish(report)
    return report


class TrialLines:
    """Prints a line for each trial that ended.

    Of its settings the line has those that differ from the best trial before of the same stage and model; the
    first such trial has all. ``trials.jsonl`` has all settings of each.
    """

    def __init__(self) -> None:
        """No trial has ended yet."""
        self._best: dict[tuple[str, str], tuple[float, dict[str, Any]]] = {}

    def __call__(self, trial: Trial) -> None:
        """Print the line of a trial."""
        if trial.refused:
            say(f"{trial.stage} {trial.name}: refused: {trial.notes['refused']}", stderr=True)
            return
        if not self._best:
            say("of each trial below: the settings that differ from the best one before it", stderr=True)
        notes, at = trial.notes, ""
        if "best_iteration" in notes:
            at = f", iteration {notes['best_iteration']} of {notes['iterations']}, share {notes['share']:g}"
        settings = {**trial.settings, **notes.get("training", {}), **notes.get("params", {})}
        shown = {key: value for key, value in settings.items() if key not in ("agent", "start")}
        value, best = self._best.get((trial.stage, trial.name), (-math.inf, {}))
        words = [
            f"{key}={one:.3g}" if isinstance(one, float) else f"{key}={one}"
            for key, one in shown.items()
            if key not in best or best[key] != one
        ]
        line = f"{trial.stage} {trial.name}: valid {trial.value:.4f}{at} ({trial.seconds:.0f} s)"
        say(" ".join([line, *words]), stderr=True)
        if trial.value > value:
            self._best[trial.stage, trial.name] = trial.value, shown
