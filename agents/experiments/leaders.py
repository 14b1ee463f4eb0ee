"""The summary of leaderboards: a row an environment, the best baseline beside the best of this project."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agents.experiments.columns import COLUMNS, ON_GPU, signed
from agents.experiments.leaderboard import METRIC, Row, difference, over
from agents.experiments.tables import TextTable

COLUMN_NAMES = (
    "environment",
    "best baseline",
    "ours without RL",
    "with RL, RACS",
    "with RL, best",
    "ours less baseline, paired 95 %",
    "RL less its start, over seeds",
)
NONE = "-"
"""Where there is no such row."""


def leaders_table(title: str, boards: Sequence[Sequence[Row]]) -> TextTable:
    """The best row of each kind on each environment: its name, NDCG@20 and seconds.

    Args:
        title: above it.
        boards: of each environment, the rows of ``ranked``.
    """
    lines = tuple(_line(rows) for rows in boards)
    return TextTable(title, COLUMN_NAMES, lines, note=f"{_counts(boards)} {_certain(boards, lines)}")


def _line(rows: Sequence[Row]) -> tuple[str, ...]:
    """One environment."""
    env = rows[0].runs.env_id
    baseline, start, racs, best = (
        _first(rows, wanted)
        for wanted in (
            lambda row: row.is_baseline,
            lambda row: not row.is_baseline and not row.is_rl,
            lambda row: row.is_racs,
            lambda row: row.is_rl,
        )
    )
    ours = _first(rows, lambda row: not row.is_baseline)
    paired = NONE if baseline is None or ours is None else difference(over([ours], baseline)[0]) or NONE
    gain = NONE if best is None else signed(best.entry.get("difference", {}).get(METRIC)) or NONE
    return (env, *(_cell(row) for row in (baseline, start, racs, best)), paired, gain)


def _first(rows: Sequence[Row], wanted: Callable[[Row], bool]) -> Row | None:
    return next((row for row in rows if wanted(row)), None)


def _cell(row: Row | None) -> str:
    """Name, metric and seconds of a row."""
    if row is None:
        return NONE
    seconds = COLUMNS["fit seconds"].cell(row.entry, row.split)
    gpu = ON_GPU if seconds.endswith(ON_GPU) else ""
    return f"{row.name} {row.mean:.4f} ({seconds.removesuffix(ON_GPU)} s{gpu})"


def _counts(boards: Sequence[Sequence[Row]]) -> str:
    """On how many environments a row of this project is first, of those that have baselines and such rows."""
    whole = [rows for rows in boards if len({row.is_baseline for row in rows}) == 2]
    ours = [rows[0] for rows in whole if not rows[0].is_baseline]
    rl = [row for row in ours if row.is_rl]
    return (
        f"By its mean a row of this project is first on {len(ours)} of the {len(whole)} environments "
        f"that have both, on {len(rl)} of them with RL; on the other {len(whole) - len(ours)} a baseline is."
    )


def _certain(boards: Sequence[Sequence[Row]], lines: Sequence[tuple[str, ...]]) -> str:
    """On how many of those environments the two intervals of a line exclude zero."""
    first = [line for rows, line in zip(boards, lines, strict=True) if not rows[0].is_baseline]
    over_users = sum("*" in line[5] for line in first)
    unknown = sum(line[5] == NONE for line in first)
    rl = [line for rows, line in zip(boards, lines, strict=True) if rows[0].is_rl]
    over_start = sum("*" in line[6] for line in rl)
    return (
        f"Of the {len(first)} the interval over users of ours less the best baseline excludes zero on "
        f"{over_users} and is not known on {unknown}; of the {len(rl)} with RL its gain over its start is "
        f"certain on {over_start}."
    )
