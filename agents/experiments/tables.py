"""Tables of a comparison: text for a terminal, and for the documentation's pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from agents.console import console
from agents.experiments.aggregate import Results, over_environments, over_seeds, without_gains
from agents.experiments.budgets import budget_note, same, units_of
from agents.experiments.rows import BASE, RIVAL, ROWS


@dataclass(frozen=True)
class TextTable:
    """A table as it shall be read; the first column is text, the others numbers."""

    title: str
    """Above it."""
    columns: tuple[str, ...]
    """Their names."""
    rows: tuple[tuple[str, ...], ...]
    """Cells."""

    def to_json(self) -> dict[str, Any]:
        """What a result file holds of it."""
        return {
            "title": self.title,
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
        }


def print_table(table: TextTable) -> None:
    """Print a table; logs and pipes, which pass for 80 columns, get room for a wide one."""
    screen = console()
    screen.width = max(screen.width, 200)
    shown = Table(title=table.title)
    for place, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*row)
    screen.print(shown)


def summarise(results: Results) -> dict[str, dict[str, Any]]:
    """Environment -> row -> its figures over seeds, in the order of the rows."""
    return {
        env: {row: over_seeds(rows[row], rows.get(BASE, [])) for row in ROWS if row in rows}
        for env, rows in results.items()
    }


def environment_table(env_id: str, rows: Mapping[str, Mapping[str, Any]]) -> TextTable:
    """One environment's table.

    Args:
        env_id: for the title.
        rows: of ``summarise``.
    """
    columns = (
        "algorithm", "NDCG@20", "Recall@20", "NDCG@20 gain", "Recall@20 gain", "steps", "seconds",
        "peak MiB",
    )  # fmt: skip
    lines = []
    for key, found in rows.items():
        difference = found.get("difference", {})
        lines.append(
            (
                row_title(key, found),
                plus_minus(found["test"]["ndcg@20"]),
                plus_minus(found["test"]["recall@20"]),
                signed(difference.get("ndcg@20")),
                signed(difference.get("recall@20")),
                f"{found['env_steps']:,.0f}" if found["env_steps"] else "",
                f"{found['seconds']:.0f}",
                f"{found['peak_memory_mib']:.0f}",
            )
        )
    return TextTable(f"Algorithms on {env_id} (test)", columns, tuple(lines))


def row_title(key: str, found: Mapping[str, Any]) -> str:
    """What a table calls a row; a control's name says what it has in common with its rival.

    Example:
        >>> row_title("elbo", {"budget": ["work"]}), row_title("ppo", {"budget": []})
        ('more ELBO, same work', 'PPO')
    """
    return ", ".join(filter(None, (ROWS[key].title, same(found["budget"]))))


def aggregate_table(results: Results) -> TextTable | None:
    """The rows' aggregates over environments; None where no row is complete."""
    found, left_out = over_environments(results), without_gains(results)
    summary = {
        row: {"budget": sorted(units_of([run for rows in results.values() for run in rows.get(row, [])]))}
        for row in found
    }
    if not found:
        return None
    lines = tuple(
        (
            row_title(key, summary[key]),
            percent_interval(found[key]["iqm"]),
            chance_interval(found[key].get("improvement")),
        )
        for key in ROWS
        if key in found
    )
    columns = ("algorithm", "gain in NDCG@20 over no training, %", f"P(better than {ROWS[RIVAL].title})")
    return TextTable(
        f"Over {counted(len(results) - len(left_out), 'environment')}: interquartile mean and its interval"
        + (f" ({', '.join(left_out)} left out: a pretrained model's NDCG@20 is 0)" if left_out else ""),
        columns,
        lines,
    )


def note(seeds: Sequence[int], results: Results) -> str:
    """What a reader of the tables must know.

    Args:
        seeds: of the table.
        results: behind it.
    """
    controls = units_of([run for rows in results.values() for run in rows.get("elbo", [])])
    return (
        f"Means over {counted(len(seeds), 'seed')} +- half a 95 % interval (Student's t over seeds). "
        "Gains are over no training, taken seed by seed; * marks those whose interval excludes zero. All "
        "rows of a seed begin from one checkpoint and may take the same number of environment steps; weights "
        f"chosen on validation NDCG@20. {budget_note(controls)}"
        "Seconds are of training and validation (of pretraining in the first row), one thread, one process a "
        "cell; peak MiB is the process's, libraries included. Aggregates "
        "over environments as in arXiv 2108.13264: the interquartile mean of relative gains and the "
        "probability of improvement, with stratified bootstrap intervals."
    )


def counted(number: int, name: str) -> str:
    """A number and what it counts.

    Example:
        >>> counted(1, "seed"), counted(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{number} {name}" + ("" if number == 1 else "s")


def plus_minus(interval: Mapping[str, Any]) -> str:
    """A mean and half its interval; one seed has none.

    Example:
        >>> plus_minus({"mean": 0.25, "low": 0.24, "high": 0.26}), plus_minus({"mean": 0.25, "low": None})
        ('0.2500 ± 0.0100', '0.2500 ± -')
    """
    if interval["low"] is None:
        return f"{interval['mean']:.4f} ± -"
    return f"{interval['mean']:.4f} ± {(interval['high'] - interval['low']) / 2:.4f}"


def signed(interval: Mapping[str, Any] | None) -> str:
    """A difference with its sign and half its interval, starred where that excludes zero."""
    if interval is None:
        return ""
    if interval["low"] is None:
        return f"{interval['mean']:+.4f} ± -"
    half = (interval["high"] - interval["low"]) / 2
    return f"{interval['mean']:+.4f} ± {half:.4f}" + (" *" if interval["excludes_zero"] else "")


def percent_interval(interval: Mapping[str, Any]) -> str:
    """A relative gain in per cent and its interval."""
    if interval["low"] is None:
        return f"{100 * interval['mean']:+.2f} [-]"
    low, high = 100 * interval["low"], 100 * interval["high"]
    return f"{100 * interval['mean']:+.2f} [{low:+.2f}, {high:+.2f}]"


def chance_interval(interval: Mapping[str, Any] | None) -> str:
    """A probability and its interval."""
    if interval is None:
        return ""
    if interval["low"] is None:
        return f"{interval['mean']:.2f} [-]"
    return f"{interval['mean']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"
