"""Tables of a study: text for a terminal, and for the documentation's pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.table import Table

from agents.console import console
from agents.experiments.aggregate import REINFORCE, Results, over_environments, without_gains
from agents.experiments.budgets import same
from agents.experiments.columns import (
    COLUMNS,
    Entry,
    chance_interval,
    counted,
    percent,
    percent_interval,
    plus_minus,
)
from refit_env.evaluation.slices import COLD, POPULAR, TAIL
from refit_env.utils.text import visible


@dataclass(frozen=True)
class TextTable:
    """A table as it shall be read; the first column is text, the others numbers."""

    title: str
    """Above it."""
    columns: tuple[str, ...]
    """Their names."""
    rows: tuple[tuple[str, ...], ...]
    """Cells."""
    env: str = ""
    """The environment that all rows are of; empty where they are of several, or the first cells name it."""
    note: str = ""
    """A sentence on what the rows show."""

    def to_json(self) -> dict[str, Any]:
        """What a result file holds of it."""
        return {
            "title": self.title,
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
            **({"env": self.env} if self.env else {}),
            **({"note": self.note} if self.note else {}),
        }


def print_table(table: TextTable) -> None:
    """Print a table, whole: one that is too wide is continued below itself, with its first column again.

    Logs and pipes, which pass for 80 columns, get room for 200.
    """
    screen = console()
    room = screen.width if screen.is_terminal else max(screen.width, 200)
    widths = [
        max(cell_len(visible(line[place])) for line in (table.columns, *table.rows))
        for place in range(len(table.columns))
    ]
    for number, places in enumerate(blocks(widths, room)):
        shown = Table(title=table.title if number == 0 else "(continued)")
        for place in places:
            shown.add_column(table.columns[place], justify="left" if place == 0 else "right", no_wrap=True)
        for row in table.rows:
            shown.add_row(*(row[place] for place in places))
        screen.width = max(room, line_length(widths, places))
        screen.print(shown)
    if table.note:
        screen.print(table.note, markup=False, highlight=False, soft_wrap=True)


def blocks(widths: Sequence[int], room: int) -> list[list[int]]:
    """Return the columns of each part of a table that is printed in parts; the first is in all.

    Args:
        widths: of the columns' longest cells.
        room: of a line. A part with two columns may be wider.

    Example:
        >>> blocks([4, 10, 10, 10], room=40)
        [[0, 1, 2], [0, 3]]
    """
    parts: list[list[int]] = [[0]]
    for place in range(1, len(widths)):
        if len(parts[-1]) > 1 and line_length(widths, [*parts[-1], place]) > room:
            parts.append([0])
        parts[-1].append(place)
    return parts


def line_length(widths: Sequence[int], places: Sequence[int]) -> int:
    """Return the characters of a line with the columns ``places``: three more for each, and one."""
    return 1 + sum(widths[place] + 3 for place in places)


def row_table(
    title: str, first: str, columns: Sequence[str], entries: Sequence[Entry], split: str, *, each: bool
) -> TextTable:
    """Models and their variants, a line each.

    Args:
        title: above it.
        first: heading of the first column.
        columns: names of ``COLUMNS``.
        entries: of ``summarise``.
        split: what was measured.
        each: whether all are of one environment, which the title names.
    """
    chosen = [COLUMNS[name] for name in columns]
    several = len({found["model"] for found in entries}) > 1
    lines = tuple(
        (row_name(found, each, several), *(column.cell(found, split) for column in chosen))
        for found in entries
    )
    return TextTable(title, (first, *(column.heading for column in chosen)), lines)


def row_name(found: Entry, each: bool, several: bool = True) -> str:
    """What a table calls an entry: environment, model, variant, as far as its title does not name them.

    Example:
        >>> found = {"env": "ReFiT-Ciao-v0", "model": "recdiff", "gain": {}, "budget": []}
        >>> row_name(found | {"title": "+ REINFORCE"}, each=False)
        'Ciao, recdiff + REINFORCE'
        >>> row_name(found | {"title": "the reward model alone"}, each=False)
        'Ciao, recdiff: the reward model alone'
        >>> row_name(found | {"title": "+ REINFORCE"}, each=True, several=False)
        '+ REINFORCE'
    """
    title = ", ".join(filter(None, (found["title"], same(found["budget"]))))
    if each and not several:
        return title
    place = "" if each else found["env"].removeprefix("ReFiT-").removesuffix("-v0")
    name = ", ".join(filter(None, (place, found["model"])))
    if not found["model"] or "gain" in found:
        return name + ((" " if title.startswith("+") else ": ") if name else "") + title
    return name


def slice_table(entries: Sequence[Entry]) -> TextTable:
    """Whom fine-tuning serves: gains of cold users, popular items and the tail."""
    columns = (
        "environment, model", "cold users", "their Recall@20", "gain, %", "popular: Recall@20", "gain, %",
        "tail: Recall@20", "gain, %",
    )  # fmt: skip
    start = {(f["env"], f["model"]): f["slices"] for f in entries if "gain" not in f}
    lines = []
    for found in entries:
        before = start.get((found["env"], found["model"]), {})
        if found["variant"] != REINFORCE or "slice_gain" not in found or COLD not in before:
            continue
        cells = [row_name({**found, "gain": None, "title": ""}, each=False).removesuffix(": ")]
        cells.append(f"{before[COLD]['users']:.0f}")
        for name in (COLD, POPULAR, TAIL):
            level = before[name]["recall@20"]
            cells.append("" if level is None else plus_minus(level))
            cells.append(percent(found["slice_gain"][name]["recall@20"]))
        lines.append(tuple(cells))
    return TextTable("The slices: pretrained, and what REINFORCE changes (test)", columns, tuple(lines))


def aggregate_table(results: Results, entries: Sequence[Entry]) -> TextTable | None:
    """The variants' aggregates over environments; None where no variant is complete.

    Args:
        results: of ``by_variant``.
        entries: of ``summarise``, for the titles.
    """
    found, left_out = over_environments(results), without_gains(results)
    if not found:
        return None
    units = {key: sorted({u for e in entries if e["variant"] == key for u in e["budget"]}) for key in found}
    titles = {e["variant"]: e["title"] for e in entries}
    lines = tuple(
        (
            ", ".join(filter(None, (titles[key], same(units[key])))),
            percent_interval(found[key]["iqm"]),
            chance_interval(found[key].get("improvement")),
        )
        for key in titles
        if key in found
    )
    better = f"P(better than {titles.get(REINFORCE, REINFORCE)})"
    columns = ("algorithm", "gain in NDCG@20 over no training, %", better)
    return TextTable(
        f"Over {counted(len(results) - len(left_out), 'environment')}: interquartile mean and its interval"
        + (f" ({', '.join(left_out)} left out: a pretrained model's NDCG@20 is 0)" if left_out else ""),
        columns,
        lines,
    )
