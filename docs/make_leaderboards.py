"""Write docs/leaderboards: a page for each environment and one that sums them up.

The tables are those of benchmarks/results/leaderboards.json and published.json, which ``refit compare
leaderboards --finished --out benchmarks/results`` (and ``published``) make of the records. Run it with ``make
docs``; ``--check`` changes nothing and fails where a page is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from make_results import DATA, data_table, markdown_table, marked, source
from written_pages import write_pages

from agents.baselines import baseline
from agents.experiments.shipped import study_path
from agents.experiments.study import read_study
from agents.hyperparams.models import baseline_settings
from refit_env.data.coverage import mark

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "leaderboards"
RESULTS = ROOT / "benchmarks" / "results"
MADE = "<!-- Made by docs/make_leaderboards.py from benchmarks/results; measure again, then `make docs`. -->"
INTRODUCTION = """A leaderboard ranks all recommenders that were measured on one environment by their test
NDCG@20: the diffusion models of this project as they are pretrained, the same after fine-tuning, and the
[baselines](../baselines/index.md), recommenders that a team would take instead. All are fitted to the train
items and measured by one evaluation: full ranking, seen items removed. Each page lists the baselines'
settings and how long validation searched for them; some have their defaults, and most have one seed.
`refit compare leaderboards --env ID` measures a board again."""

READ = "[How to read the tables](index.md#how-to-read-the-tables): what the columns mean."
NO_SEARCH = "none"
"""In place of a number of trials."""
SETTINGS = """Settings of the baselines. A search fits so many settings, the defaults first, in so many
processor minutes, and validation chooses. `none`: not searched; these settings, or the defaults, were
measured as they are, so a search might lift the row."""


def pages() -> dict[str, str]:
    """Every page by its name."""
    boards = _read("leaderboards")
    out = {"index.md": index_page(boards, _read("published"))}
    for env_id in environments(boards):
        out[f"{env_id}.md"] = environment_page(env_id, boards)
    return out


def environments(boards: Mapping[str, Any]) -> list[str]:
    """The environments that have a table, in the order of the ids."""
    there = {table.get("env") for table in boards["tables"]}
    return [env_id for env_id in DATA if env_id in there]


def index_page(boards: Mapping[str, Any], published: Mapping[str, Any]) -> str:
    """The summary, and the baselines beside published figures."""
    parts = [MADE, "# Leaderboards", INTRODUCTION]
    for table in boards["tables"]:
        if "env" in table:
            continue
        rows = [[f"[{row[0]}]({row[0]}.md){mark(DATA[row[0]])}", *row[1:]] for row in table["rows"]]
        parts += [table["note"], markdown_table(table["columns"], rows)]
    parts += ["## How to read the tables", *source(boards), "## Beside published figures"]
    for table in published["tables"]:
        parts.append(markdown_table(table["columns"], table["rows"]))
    parts += source(published)
    names = "\n".join(environments(boards))
    parts.append(f"```{{toctree}}\n:hidden:\n\n{names}\n```")
    return "\n\n".join(parts) + "\n"


def environment_page(env_id: str, boards: Mapping[str, Any]) -> str:
    """One environment: which row is first, all rows, the slices, the data, the baselines' settings."""
    tables = [table for table in boards["tables"] if table.get("env") == env_id]
    parts = [MADE, f"# Leaderboard of {env_id}{mark(DATA[env_id])}"]
    measured = {row[0] for table in tables for row in table["rows"]}
    settings = settings_rows(env_id, measured)
    plain = {row[0] for row in settings if row[2] == NO_SEARCH}
    for table in tables:
        rows = [
            [f"{row[0]} (not searched)" if row[0] in plain else row[0], *row[1:]] for row in table["rows"]
        ]
        parts += [table["note"]] if "note" in table else []
        parts += [f"**{marked(table['title'])}**", markdown_table(table["columns"], rows)]
    parts += ["Measured on:", data_table([DATA[env_id]], boards)]
    if settings:
        columns = ("baseline", "settings", "trials", "minutes", "validation NDCG@20", "with the defaults")
        parts += [SETTINGS, markdown_table(columns, settings)]
    parts.append(READ)
    return "\n\n".join(parts) + "\n"


def settings_rows(env_id: str, measured: Collection[str]) -> list[list[str]]:
    """The baselines that have settings and were searched or are ``measured`` (titles of rows)."""
    lines = (RESULTS / "search-baselines.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    searches = {search["baseline"]: search for search in found if search["dataset"] == DATA[env_id]}
    out = []
    for variant in read_study(study_path("leaderboards")).place(env_id).variants:
        if variant.make != "baseline" or not fields(baseline(variant.algorithm).config_class):
            continue
        settings, search = baseline_settings(env_id, variant.algorithm), searches.get(variant.algorithm)
        if variant.title not in measured and not settings and search is None:
            continue
        text = ", ".join(f"`{name}={value}`" for name, value in settings.items()) or "the defaults"
        out.append([variant.title, text, *_search(search)])
    return out


def _search(search: Mapping[str, Any] | None) -> list[str]:
    """Trials, minutes, best and first value of a search."""
    if search is None:
        return [NO_SEARCH, "", "", ""]
    trials = search["trials"]
    values = [trial["value"] for trial in trials if trial["value"] is not None]
    first = trials[0]["value"]
    minutes = sum(trial["seconds"] for trial in trials) / 60
    return [
        str(len(trials)),
        f"{minutes:.1f}",
        f"{max(values):.4f}",
        "refused" if first is None else f"{first:.4f}",
    ]


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with ``--check`` compare them."""
    wanted = {PAGES / name: text for name, text in pages().items()}
    return write_pages(wanted, [PAGES], arguments, "no such environment")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
