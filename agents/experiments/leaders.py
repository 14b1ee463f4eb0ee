"""The summary of leaderboards: a row an environment, the best baseline beside the best of this project."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agents.experiments.columns import COLUMNS, ON_GPU, signed
from agents.experiments.leaderboard import METRIC, Paired, Row, difference, over
from agents.experiments.row_groups import rows_note
from agents.experiments.tables import TextTable

COLUMN_NAMES = (
    "environment",
    "best baseline",
    "ours without RL",
    "with RL, RACS",
    "with RL, best",
    "ours less baseline, paired 95 %",
    "RL less its start, over seeds",
    "RL less ours without RL, paired 95 %",
)
NONE = "-"
"""The cell of a table where there is no such row."""


def leaders_table(title: str, boards: Sequence[Sequence[Row]]) -> TextTable:
    """The best row of each kind on each environment: its name, NDCG@20 and seconds.

    Args:
        title: above it.
        boards: of each environment, the rows of ``ranked``.
    """
    pairs = [_pairs(rows) for rows in boards]
    lines = tuple(map(_line, boards, pairs))
    drawn = {
        rows[0].runs.env_id: [one for pair in found for one in pair.drawn()]
        for rows, found in zip(boards, pairs, strict=True)
    }
    how = rows_note(drawn)
    return TextTable(title, COLUMN_NAMES, lines, note=" ".join(filter(None, (_summary(boards, lines), how))))


def _pairs(rows: Sequence[Row]) -> tuple[Paired, Paired]:
    """The best row of this project less the best baseline; its best with RL less its best without."""
    baseline, start, _, best = _best_of_each_kind(rows)
    return _less(_first(rows, lambda row: not row.is_baseline), baseline), _less(best, start)


def _less(one: Row | None, other: Row | None) -> Paired:
    """The first row less the second, where there are both."""
    return Paired([None], together=False) if one is None or other is None else over([one], other)


def _best_of_each_kind(rows: Sequence[Row]) -> tuple[Row | None, Row | None, Row | None, Row | None]:
    """The best baseline; of this project the best row without RL, with RACS, and with RL."""
    return (
        _first(rows, lambda row: row.is_baseline),
        _first(rows, lambda row: not row.is_baseline and not row.is_rl),
        _first(rows, lambda row: row.is_racs),
        _first(rows, lambda row: row.is_rl),
    )


def _line(rows: Sequence[Row], pairs: tuple[Paired, Paired]) -> tuple[str, ...]:
    """One environment."""
    env = rows[0].runs.env_id
    kinds = _best_of_each_kind(rows)
    best = kinds[-1]
    paired, own = (difference(pair.found[0]) or NONE for pair in pairs)
    gain = NONE if best is None else signed(best.entry.get("difference", {}).get(METRIC)) or NONE
    return (env, *map(_cell, kinds), paired, gain, own)


def _first(rows: Sequence[Row], wanted: Callable[[Row], bool]) -> Row | None:
    return next((row for row in rows if wanted(row)), None)


def _cell(row: Row | None) -> str:
    """Name, metric and seconds of a row."""
    if row is None:
        return NONE
    seconds = COLUMNS["fit seconds"].cell(row.entry, row.split)
    gpu = ON_GPU if seconds.endswith(ON_GPU) else ""
    return f"{row.name} {row.mean:.4f} ({seconds.removesuffix(ON_GPU)} s{gpu})"


def _summary(boards: Sequence[Sequence[Row]], lines: Sequence[tuple[str, ...]]) -> str:
    """Return on which environments a row of this project and one with RL is first, and what is certain of it.

    Args:
        boards: the rows of each environment; those without a baseline or a row of this project do not count.
        lines: of ``_line``, in the same order.
    """
    whole = [
        (rows[0], line)
        for rows, line in zip(boards, lines, strict=True)
        if len({row.is_baseline for row in rows}) == 2
    ]
    ours = [(row, line) for row, line in whole if not row.is_baseline]
    rl = [line for row, line in ours if row.is_rl]
    over_users = [line[5] for _, line in ours]
    text = (
        f"Environments: {len(whole)}. First by its mean is a row of this project on {len(ours)}, "
        f"a baseline on {len(whole) - len(ours)}. "
        f"Ours less the best baseline: the interval over users excludes zero on "
        f"{sum('*' in cell for cell in over_users)} of {len(ours)}"
    )
    unknown = over_users.count(NONE)
    text += f", no interval is known on {unknown}. " if unknown else ". "
    certain = [line for line in rl if line[6].startswith("+") and "*" in line[6]]
    others = [line for line in rl if line not in certain]
    text += f"A row with RL is first on {len(rl)}. "
    for found, what in ((certain, "a certain gain"), (others, "no certain gain")):
        if found:
            names = ", ".join(line[0] for line in found)
            text += f"There RL has {what} over its start on {len(found)}: {names}. "
    above = [line[0] for line in rl if line[7].startswith("+") and "*" in line[7]]
    if rl:
        text += (
            "There RL is above the best row of this project without RL, by an interval over users, on "
            f"{len(above)}{': ' if above else ''}{', '.join(above)}. "
        )
    return f"{text}A gain is certain if its interval over seeds is above zero."
