"""Write docs/leaderboards: a page for each environment and one that sums them up.

The tables are those of benchmarks/results/leaderboards.json and published.json, which ``refit compare
leaderboards --finished --out benchmarks/results`` (and ``published``) make of the records. Run it with ``make
docs``; ``--check`` changes nothing and fails where a page is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
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
settings and how long validation searched for them, and states which have their defaults and which have one
seed. `refit compare leaderboards --env ID` measures a board again."""
CELLS = """A cell is a model, its NDCG@20 and, in brackets, the seconds of its fit (G: on a GPU). Intervals
are of 95 %; * marks those that exclude zero. A figure without ± has one seed."""
COVERAGE = """How the baselines were fitted. Searched: validation chose the settings among several fits.
Random: the fit draws random numbers, so that seeds differ."""
COVERED = (
    "environment",
    "baselines",
    "with settings",
    "searched",
    "random",
    "with three seeds",
    "not searched",
)
"""The columns of the table of how baselines were fitted."""
SEEDS = 3
"""Seeds of a row that counts as measured."""

READ = """- [How to read the tables](index.md#how-to-read-the-tables): what the columns mean.
- [What a closed form leaves to gain](../concepts/recommenders.md#what-a-closed-form-leaves-to-gain): why
  fine-tuning adds much on some data and nothing on others."""
CLOSED = "closed form"
"""How titles end of the rows of this project that draw no random numbers."""
NO_SEARCH = "none"
"""In place of a number of trials."""
SETTINGS = """Settings of the baselines. A search fits so many settings, the defaults first (but for
settings that all its fits share, such as few epochs), in so many processor minutes, and validation
chooses. `none`: not searched; these settings, or the defaults, were measured as they are, so a search
might lift the row; one trial is no search."""


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
        rows = [[linked(row[0]), *map(cell, row[1:])] for row in table["rows"]]
        parts += [table["note"], CELLS]
        split = next(n for n, column in enumerate(table["columns"]) if " less " in column)
        for places in (range(1, split), range(split, len(table["columns"]))):  # a page is not so wide
            chosen = [0, *places]
            lines = [[row[n] for n in chosen] for row in rows]
            parts.append(markdown_table([table["columns"][n] for n in chosen], lines))
    rows = [[linked(env_id), *Fits(env_id, boards).counts()] for env_id in environments(boards)]
    parts += [COVERAGE, markdown_table(COVERED, rows)]
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
    fits = Fits(env_id, boards)
    for table in tables:
        rows = [
            [f"{row[0]} (not searched)" if row[0] in fits.plain else row[0], *map(cell, row[1:])]
            for row in table["rows"]
        ]
        parts += [table["note"], fits.sentence()] if "note" in table else []
        parts += [f"**{marked(table['title'])}**", markdown_table(table["columns"], rows)]
    parts += ["Measured on:", data_table([DATA[env_id]], boards)]
    if fits.settings:
        columns = ("baseline", "settings", "trials", "minutes", "validation NDCG@20", "with the defaults")
        parts += [SETTINGS, markdown_table(columns, fits.settings)]
    parts.append(READ)
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class Fits:
    """How the rows of one board were fitted: what was searched, and which have too few seeds."""

    env_id: str
    """The environment."""
    boards: Mapping[str, Any]
    """The report of the leaderboards."""

    @cached_property
    def seeds(self) -> dict[str, int]:
        """Title of a row -> its seeds."""
        table = next(t for t in self.boards["tables"] if t.get("env") == self.env_id and "note" in t)
        place = table["columns"].index("seeds")
        return {row[0]: int(row[place]) for row in table["rows"]}

    @cached_property
    def settings(self) -> list[list[str]]:
        """The rows of the table of settings."""
        return settings_rows(self.env_id, self.seeds)

    @cached_property
    def plain(self) -> list[str]:
        """Titles of the measured baselines that were not searched."""
        return [row[0] for row in self.settings if row[2] in (NO_SEARCH, "1") and row[0] in self.seeds]

    @cached_property
    def random(self) -> dict[str, bool]:
        """Title of a measured baseline -> whether its fit draws random numbers."""
        variants = read_study(study_path("leaderboards")).place(self.env_id).variants
        return {
            variant.title: baseline(variant.algorithm).seeded
            for variant in variants
            if variant.make == "baseline" and variant.title in self.seeds
        }

    def counts(self) -> list[str]:
        """The cells of ``COVERED`` after the environment."""
        free = [row[0] for row in self.settings if row[0] in self.seeds]
        random = [title for title, drawn in self.random.items() if drawn]
        whole = sum(self.seeds[title] >= SEEDS for title in random)
        numbers = (len(self.random), len(free), len(free) - len(self.plain), len(random), whole)
        return [*map(str, numbers), ", ".join(self.plain) or "-"]

    def sentence(self) -> str:
        """Which measured baselines were not searched, and which random rows have fewer than three seeds."""
        few = [
            title
            for title, count in self.seeds.items()
            if count < SEEDS and self.random.get(title, not title.endswith(CLOSED))
        ]
        text = f"Baselines with settings that no search chose: {', '.join(self.plain) or 'none'}."
        rows = ", ".join(few) or "none"
        return f"{text} Rows whose fit draws random numbers, with fewer than three seeds: {rows}."


def linked(env_id: str) -> str:
    """An environment with a link to its page."""
    return f"[{env_id}]({env_id}.md){mark(DATA[env_id])}"


def cell(text: str) -> str:
    """A cell without the interval that one seed does not have."""
    return text.replace(" ± -", "")


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
