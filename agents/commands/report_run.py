"""The work of ``refit report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.commands.loading import learned_data
from agents.commands.report import Report
from agents.commands.target import choose_target
from agents.console import print_json, say
from agents.reports.explorer import choose_users, episodes_of, explorer
from agents.reports.facts import Facts, check_same_data
from agents.reports.measured import measure_lists
from agents.reports.page import LARGEST, PAGE, run_page, write_page
from agents.reports.run_sections import RunParts
from agents.reports.study_page import read_study_files, study_page, study_records
from agents.runs.contents import data_identity
from agents.runs.files import POLICY
from agents.runs.folder import RunFolder
from agents.training.tensors import resolve_device
from refit_env.checkpoint import weights_digest
from refit_env.data import Dataset, load_dataset
from refit_env.data.identity import check_same_data as check_data
from refit_env.errors import CheckpointError, DataError
from refit_env.policy import DiffusionPolicy


def run(command: Report) -> int:
    """Write the page; returns the exit code."""
    if not command.sources:
        raise ValueError("what to report? Name run folders, or the folder of a study of refit compare")
    _check_sources(command)
    _check_out(command)
    studies = [records for path in command.sources if (records := study_records(path)) is not None]
    if studies:
        return _of_study(command, studies[0])
    runs = [Facts.read(path) for path in command.sources]
    check_same_data(runs)
    parts = [_parts(command, facts) for facts in runs]
    path = write_page(command.out, run_page(parts))
    size = path.stat().st_size
    found: list[dict[str, Any]] = [
        {
            "run": str(facts.path),
            "finished": facts.finished,
            "result": facts.sentence(),
            "alarms": [alarm.to_json() for alarm in facts.alarms],
            "explored_users": []
            if part.explorer is None
            else [user["id"] for user in part.explorer["users"]],
            "notes": list(part.notes),
        }
        for facts, part in zip(runs, parts, strict=True)
    ]
    if command.json:
        print_json({"report": str(path), "bytes": size, "runs": found})
        return 0
    for one in found:
        for note in one["notes"]:
            say(f"{one['run']}: {note}", stderr=True)
    if size > LARGEST:
        say(f"{path} has {size / 1e6:.1f} MB; a smaller --explore makes it smaller", stderr=True)
    for one in found:
        say(one["result"] if len(found) == 1 else f"{one['run']}: {one['result']}")
    say(f"{path} ({size / 1e6:.2f} MB)")
    return 0


def _of_study(command: Report, records: Path) -> int:
    """Write the page of a study; returns the exit code."""
    if len(command.sources) > 1:
        raise ValueError(f"{records} is a study, which is reported alone: leave out the other folders")
    if command.users:
        raise ValueError("--users is for runs: a study has no explorer")
    text, sentence = study_page(read_study_files(records))
    path = write_page(command.out, text)
    size = path.stat().st_size
    if command.json:
        print_json({"report": str(path), "bytes": size, "study": str(records), "result": sentence})
        return 0
    if sentence:
        say(sentence)
    say(f"{path} ({size / 1e6:.2f} MB)")
    return 0


def _check_sources(command: Report) -> None:
    """Refuse a run that is named twice.

    Raises:
        ValueError: naming it.
    """
    paths = [source.resolve() for source in command.sources]
    if again := [str(source) for n, source in enumerate(command.sources) if paths[n] in paths[:n]]:
        raise ValueError(f"{again[0]} is named twice: leave one of them out")


def _check_out(command: Report) -> None:
    """Refuse an ``--out`` that is a file, or that holds a report already."""
    if command.out.exists() and not command.out.is_dir():
        raise ValueError(f"--out {command.out} is a file; a report needs a folder")
    if (command.out / PAGE).exists() and not command.overwrite:
        raise ValueError(
            f"--out {command.out} holds a report already ({PAGE}): choose another folder, or pass --overwrite"
        )


def _parts(command: Report, facts: Facts) -> RunParts:
    """A run with what can be measured of it."""
    if command.without_data:
        if command.users:
            raise ValueError("--users needs the data and the models: leave out --without-data")
        return RunParts(
            facts, None, None, ("Left out by --without-data: gains by user, popularity, explorer.",)
        )
    if not (facts.path / POLICY).exists():
        note = f"The folder holds no {POLICY} yet: gains by user, popularity and the explorer are left out."
        return RunParts(facts, None, None, (note,))
    dataset = _dataset(facts)
    device = resolve_device(command.device)
    folder = RunFolder(facts.path)
    after = DiffusionPolicy.load(facts.path, device)
    folder.check_weights(weights_digest(after.backbone.state_dict()))
    before, notes = _start(facts, dataset, device)
    measured = measure_lists(before, after, dataset, device)
    named = [_episode(dataset, given) for given in command.users]
    sample = choose_users(measured, command.explore, named)
    shown: dict[str, Any] | None = None
    if sample.users:
        shown = explorer(measured, before, after, sample)
    return RunParts(facts, measured, shown, notes)


def _dataset(facts: Facts) -> Dataset:
    """The data set of a run, which must be the one that it was made on.

    Raises:
        DataError: if it is gone, or another one by now.
    """
    hint = "pass --without-data for a report from the run folder alone"
    try:
        dataset = load_dataset(choose_target(None, None, facts.config).dataset)
        dataset = learned_data(RunFolder(facts.path), dataset)
        identity = data_identity(facts.config)
        check_data(identity, dataset, f"the run {facts.path}", f"Put the former data back, or {hint}")
    except DataError as error:
        text = str(error)
        raise DataError(text if hint in text else f"{facts.path}: {text}. Or {hint}") from error
    return dataset


def _start(facts: Facts, dataset: Dataset, device: Any) -> tuple[DiffusionPolicy | None, Sequence[str]]:
    """The model that fine-tuning began with, and why it is not there."""
    config = facts.config
    init = config.get("init")
    if config["command"] != "finetune" or init is None:
        return None, ()
    missing = "so that nothing is compared user by user and the explorer shows the run's model alone."
    try:
        policy = DiffusionPolicy.load(init)
    except CheckpointError:
        return None, (f"The start of this run is gone from {init}, {missing}",)
    known = (config.get("weights") or {}).get(init)
    if known is not None and known != weights_digest(policy.backbone.state_dict()):
        return None, (f"{init} holds other weights than those that this run began with, {missing}",)
    policy = policy.respaced(config.get("num_steps"), config.get("eta"))
    if config.get("new_data"):
        policy, _ = policy.carried_over(init, dataset, config.get("seed", 0))
    return policy.to(device).eval(), ()


def _episode(dataset: Dataset, given: str) -> int:
    """The episode of a user that ``--users`` names."""
    try:
        return episodes_of(dataset, given)
    except ValueError as error:
        raise ValueError(f"--users: {error}") from None
