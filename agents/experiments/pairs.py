"""Pairs of variants, compared user by user and seed by seed.

Letters: S seeds that both variants have, n users, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from agents.experiments.columns import counted
from agents.experiments.per_user import values_of
from agents.experiments.row_groups import rows_note
from agents.experiments.summary import Runs, drawn_together
from agents.experiments.tables import TextTable
from refit_env.errors import DataError
from refit_env.evaluation.intervals import ends_in_words, side_of_zero
from refit_env.evaluation.statistics import FloatArray, Interval, seeds_and_users_bootstrap

METRIC = "ndcg@20"
"""What is compared."""
Pair = tuple[str, str]
"""Keys of two variants: the second is subtracted from the first."""
HOW = (
    "Each cell is the mean of the first row's NDCG@20 less the second's, over users and over the seeds that "
    "both have. In brackets is a 95 % interval, by a bootstrap over these seeds and, within each, over users "
    "(with one seed: over users alone); * marks the intervals that exclude zero."
)


def pairs_table(title: str, first: str, pairs: Sequence[Pair], groups: Sequence[Runs]) -> TextTable | None:
    """Environments in rows, pairs in columns; None where no pair is measured.

    Args:
        title: above it.
        first: heading of the first column.
        pairs: the pairs.
        groups: records by variant.
    """
    titles = {group.variant: group.title.removeprefix("+ ") for group in groups}
    shown = [pair for pair in pairs if set(pair) <= titles.keys()]
    places: dict[tuple[str, str], dict[str, Runs]] = {}
    for group in groups:
        places.setdefault((group.env_id, group.model), {})[group.variant] = group
    found = {place: [_difference(rows, pair) for pair in shown] for place, rows in places.items()}
    known = {place: cells for place, cells in found.items() if any(cells)}
    if not known:
        return None
    lines = tuple(
        (", ".join(filter(None, (env.removeprefix("ReFiT-").removesuffix("-v0"), model))), *map(_cell, cells))
        for (env, model), cells in known.items()
    )
    drawn: dict[str, list[bool]] = {}
    for (env, _), rows in places.items():
        for pair, cell in zip(shown, found[env, _], strict=True):
            if cell is not None:
                drawn.setdefault(env, []).append(drawn_together([rows[key] for key in pair]) is not None)
    heads = (first, *(f"{titles[one]} less {titles[other]}" for one, other in shown))
    counts = [_count(head, [cells[p] for cells in known.values()]) for p, head in enumerate(heads[1:])]
    how = " ".join(filter(None, (HOW, rows_note(drawn))))
    return TextTable(title, heads, lines, note="\n".join([how, "", *counts]))


def _difference(rows: Mapping[str, Runs], pair: Pair) -> Interval | None:
    """The difference of a pair; None where one is missing, or they have no seed and users in common."""
    one, other = (rows.get(key) for key in pair)
    if one is None or other is None:
        return None
    start = {record["seed"]: record for record in other.records}
    try:
        both = [
            values_of(record, METRIC) - values_of(start[record["seed"]], METRIC)
            for record in one.records
            if record["seed"] in start
        ]
    except (DataError, ValueError):  # a record without single users, or of others
        return None
    table: FloatArray = np.array(both)  # (S, n)
    return seeds_and_users_bootstrap(table, groups=drawn_together([one, other])) if both else None


def _cell(found: Interval | None) -> str:
    """A difference with its interval and its number of seeds."""
    if found is None:
        return ""
    star = " *" if side_of_zero(found.low, found.high) else ""
    ends = ends_in_words(found.low, found.high, ", ")
    return f"{found.mean:+.4f} [{ends}]{star} ({counted(found.count, 'seed')})"


def _count(head: str, cells: Sequence[Interval | None]) -> str:
    """In how many environments a pair's interval is above and below zero."""
    known = [cell for cell in cells if cell is not None]
    sides = [side_of_zero(cell.low, cell.high) for cell in known]
    above, below = sides.count(1), sides.count(-1)
    return f"- {head}: above zero on {above} of {counted(len(known), 'start')}, below on {below}."
