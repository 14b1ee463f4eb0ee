"""``refit compare`` of a study of fronts: runs what is missing, prints its tables, draws the fronts."""

from __future__ import annotations

from agents.commands.compare import Compare
from agents.commands.comparing import Progress, names_in, records_of, show, typed
from agents.commands.target import note_other_sets
from agents.experiments.frontier import plan_fronts, read_front_study
from agents.experiments.frontier_report import draw_fronts, front_report
from agents.experiments.records import read_cell
from agents.experiments.report import write_report
from agents.experiments.shipped import study_path
from agents.training.tensors import resolve_device
from refit_env.errors import SettingError


def run_fronts(command: Compare) -> int:
    """Run what is missing, then print the tables, draw the picture and write the report.

    Returns:
        The exit code: 1 if a cell failed.
    """
    study = read_front_study(study_path(command.study))
    for option, given in (
        ("models", command.models),
        ("steps", command.steps),
        ("reward_file", command.reward_file),
        ("settings", command.settings),
    ):
        if given:
            raise SettingError(option, f"is not for {study.name}: its runs are named by --variants")
    records = records_of(command, study.name)
    cells = plan_fronts(
        study,
        records,
        envs=command.env,
        variants=names_in(command.variants),
        seeds=command.seeds,
        device="cpu" if command.finished else str(resolve_device(command.device)),
    )
    note_other_sets(list(dict.fromkeys(cell.settings["env"] for cell in cells)))
    progress = Progress(cells, records, redo=command.redo, finished=command.finished)
    failed = progress.run(command)
    found = [read_cell(records, cell, stale=command.finished) for cell in cells]
    results = [record for record in found if record is not None]
    if command.finished and not results:
        raise ValueError(f"--finished: nothing is finished in {records}; leave it out to run the cells")
    if results:
        content = front_report(study, results, typed(command))
        content["note"] += progress.stale_note()
        if (figure := draw_fronts(study, results, records.with_suffix(".png"))) is not None:
            content["figure"] = figure
        write_report(records.with_suffix(".json"), content)
        show(content, records.with_suffix(".json"), json=command.json)
    return progress.end(failed)
