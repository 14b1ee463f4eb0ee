"""The report of a study: its tables, what a reader must know, and where the figures come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents.experiments.aggregate import by_start, by_variant, over_environments
from agents.experiments.budgets import budget_note
from agents.experiments.choice import choices, in_words
from agents.experiments.claims import claims_table
from agents.experiments.columns import ON_GPU, counted
from agents.experiments.figures import draw_learning_curves
from agents.experiments.leaderboard import gain_of_rl, leaderboard_table, missing, ranked, slices_table
from agents.experiments.leaders import leaders_table
from agents.experiments.pairs import pairs_table
from agents.experiments.provenance import provenance_of, sources
from agents.experiments.published import published_table
from agents.experiments.row_groups import RowGroups, rows_note
from agents.experiments.spec import Table
from agents.experiments.study import Study
from agents.experiments.summary import Record, Runs, check_starts, grouped, summarise
from agents.experiments.tables import TextTable, aggregate_table, row_table, slice_table
from agents.runs.hardware import machine_of
from refit_env.utils.atomic_io import atomic_path

MEANS = (
    "Means over seeds +- half a 95 % interval (Student's t over seeds).\n"
    "A gain is over the row's own start, taken seed by seed; * marks those whose interval excludes zero.\n"
    "'users sure' counts the seeds of which a paired bootstrap over users puts NDCG@20 above the start's.\n"
    "Weights chosen on validation (settings: agents/hyperparams); full ranking, seen items masked, means "
    "over users with relevant items."
)
OVER_USERS = {"users sure", "over users"}
"""Columns of intervals over users."""
COST = (
    "1000 rows: through the denoiser, forward and backward, at one step of a chain.\n"
    "Seconds are of training, and of validation where it was timed apart; one thread, one process a cell.\n"
    "Peak MiB is the process's, libraries included."
)


@dataclass(frozen=True)
class Found:
    """What a report is made of."""

    study: Study
    """Whose report it is."""
    groups: Sequence[Runs]
    """Its records, by variant."""
    entries: Sequence[dict[str, Any]]
    """Their figures."""

    @property
    def records(self) -> list[Record]:
        """All records."""
        return [record for group in self.groups for record in group.records]


def find(
    study: Study,
    records: Sequence[Record],
    others: Mapping[str, Sequence[Record]],
    where: object = "records",
    known: RowGroups | None = None,
) -> Found:
    """Sort records and work out their figures.

    Args:
        study: whose.
        records: of the study.
        others: study -> records of the rows that this one shows (``Study.also``).
        where: their file, for messages.
        known: whose the rows are that they measured.

    Raises:
        DataError: if a record began from other weights than those of its parent's record.
    """
    groups = grouped(study, records, others)
    if known is not None:
        groups = [replace(runs, row_groups=known.of(runs.records)) for runs in groups]
    check_starts(groups, where)
    return Found(study, groups, summarise(groups, study.split))


def report(found: Found, command: str) -> dict[str, Any]:
    """The report: JSON-plain, its tables as they are read and the figures behind them.

    Args:
        found: of ``find``.
        command: the words that make it again.
    """
    study = found.study
    tables = [text.to_json() for table in study.tables for text in _tables(table, found)]
    out: dict[str, Any] = {"title": study.title, "command": command, "note": note(found), "tables": tables}
    out |= {"provenance": sources(found.records), "rows": list(found.entries)}
    if study.split == "valid":
        out["choices"] = choices(found.entries)
        out["note"] = "\n".join(filter(None, (out["note"], in_words(out["choices"]))))
    if any(table.kind == "aggregate" for table in study.tables):
        out["over_environments"] = over_environments(by_variant(found.groups))
    return out


def draw(found: Found, path: Path) -> str | None:
    """Draw the learning curves of a study that has them; the file's name, or None where there are none."""
    titles = {group.variant: group.title for group in found.groups}
    try:
        return draw_learning_curves(by_start(found.groups), titles, path).name if found.study.figure else None
    except ValueError:  # nothing but pretrained models is finished yet
        return None


def write_report(path: Path, content: Mapping[str, Any]) -> None:
    """Write a report without the figures behind its tables, which the records hold; one line a row."""
    kept = {name: value for name, value in content.items() if name not in ("rows", "over_environments")}
    with atomic_path(path) as temporary:
        temporary.write_text(_lines(kept) + "\n", encoding="utf-8")


def _lines(value: Any, indent: str = "") -> str:
    """JSON in which lists of plain values are on one line."""
    more = indent + "  "
    if isinstance(value, Mapping) and value:
        parts = [f"{more}{json.dumps(key)}: {_lines(part, more)}" for key, part in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(part, list | Mapping) for part in value):
        return "[\n" + ",\n".join(more + _lines(part, more) for part in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _tables(table: Table, found: Found) -> list[TextTable]:
    """The tables of one entry of a study's file."""
    if table.kind == "claims":
        return [claims_table(found.entries)]
    if table.kind == "slices":
        return [slice_table(found.entries)]
    if table.kind == "aggregate":
        overall = aggregate_table(by_variant(found.groups), found.entries)
        return [] if overall is None else [overall]
    if table.kind == "pairs":
        compared = pairs_table(table.title, table.first, table.pairs, found.groups)
        return [] if compared is None else [compared]
    if table.kind == "published":
        return [published_table(table.title, table.first, found.study.published, found.groups)]
    if table.kind in ("leaderboard", "leaderboard_slices", "leaders"):
        return _boards(table, found)
    envs = list(dict.fromkeys(entry["env"] for entry in found.entries)) if table.each else [None]
    out = []
    for env in envs:
        entries = [entry for entry in found.entries if env in (None, entry["env"])]
        title = table.title if env is None else _title(table.title, env, found.study)
        columns, split = table.columns, found.study.split
        made = row_table(title, table.first, columns, entries, split, each=table.each)
        out.append(replace(made, note=_how_drawn(entries) if OVER_USERS & set(columns) else ""))
    return out


def _how_drawn(entries: Sequence[Mapping[str, Any]]) -> str:
    """How the intervals of rows over users draw."""
    drawn: dict[str, list[bool]] = {}
    for entry in entries:
        drawn.setdefault(entry["env"], []).extend("groups" in one for one in entry.get("over_users", ()))
    return rows_note(drawn)


def _boards(table: Table, found: Found) -> list[TextTable]:
    """The leaderboard of each environment, its slices, or the summary of all."""
    study, boards = found.study, {}
    for env in dict.fromkeys(group.env_id for group in found.groups):
        pairs = [pair for pair in zip(found.groups, found.entries, strict=True) if pair[0].env_id == env]
        boards[env] = ranked([group for group, _ in pairs], [entry for _, entry in pairs], study.split)
    if table.kind == "leaders":
        return [leaders_table(table.title, list(boards.values()))]
    out = []
    for env, rows in boards.items():
        title = _title(table.title, env, study)
        if table.kind == "leaderboard_slices":
            out.append(slices_table(title, table.first, rows))
            continue
        made = leaderboard_table(title, table.first, table.columns, rows)
        sentences = (made.note, gain_of_rl(rows), missing(study, env, rows))
        out.append(replace(made, note=" ".join(filter(None, sentences))))
    return out


def _title(text: str, env_id: str, study: Study) -> str:
    """A table's title with its environment and budget."""
    budget = study.place(env_id).budget
    return text.replace("{env}", env_id).replace("{budget}", "" if budget is None else f"{budget.steps:,}")


def note(found: Found) -> str:
    """What a reader of the tables must know, a remark a line."""
    records = found.records
    units = {unit for entry in found.entries for unit in entry["budget"]}
    gpus = sorted({str(machine_of(r)["gpu"]) for r in records if r.get("device", "cpu") != "cpu"})
    parts = [MEANS, budget_note(units).strip(), COST, found.study.note.strip(), _other_rows(found)]
    if gpus:
        mark = f"{ON_GPU.strip()}: on a GPU ({', '.join(gpus)})"
        parts.append(f"{mark}, several cells at once, and memory is the GPU's.")
    return "\n".join(filter(None, [*parts, _older(records)]))


def _other_rows(found: Found) -> str:
    """A sentence on the rows that other studies measured; empty without any."""
    shown = {(group.env_id, group.model) for group in found.groups}
    studies: dict[str, dict[str, list[str]]] = {}
    for also in found.study.also:
        if (also.environment, also.model) in shown:
            studies.setdefault(also.study, {}).setdefault(also.model, []).append(also.environment)
    whose = "; ".join(
        f"{study}: "
        + ", ".join(f"{model or 'baselines'} on {', '.join(envs)}" for model, envs in models.items())
        for study, models in studies.items()
    )
    return f"These rows are those of other studies (one measurement, one figure). {whose}." if whose else ""


def _older(records: Sequence[Record]) -> str:
    """A sentence on the records that were made before provenance was recorded; empty without any."""
    older: dict[str, int] = {}
    for record in records:
        if provenance_of(record) is None:
            older[record["env"]] = older.get(record["env"], 0) + 1
    total = sum(older.values())
    if not total:
        return ""
    by_env = ", ".join(f"{env}: {n}" for env, n in older.items())
    where = "" if total == len(records) else f" ({by_env})"
    return (
        f"{total} of {counted(len(records), 'cell')} are older records{where}, which hold neither the code's "
        "commit nor the data's fingerprint nor work."
    )
