"""Leaderboards: every variant of an environment, best first, paired over users with the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.experiments.columns import COLUMNS
from agents.experiments.per_user import values_of
from agents.experiments.summary import Runs
from agents.experiments.tables import TextTable, row_name
from refit_env.errors import DataError
from refit_env.evaluation.statistics import PairedBootstrap, paired_bootstrap

METRIC = "ndcg@20"
"""By which rows are ordered."""


def leaderboard_table(
    title: str,
    first: str,
    columns: Sequence[str],
    groups: Sequence[Runs],
    entries: Sequence[Mapping[str, Any]],
    split: str,
) -> TextTable:
    """The rows of one environment, the best mean first, each with its difference from the best over users.

    Args:
        title: above it.
        first: heading of the first column.
        columns: names of ``COLUMNS``.
        groups: the records of the entries, in the same order.
        entries: of ``summarise``.
        split: what was measured.
    """
    chosen = [COLUMNS[name] for name in columns]
    pairs = sorted(
        zip(groups, entries, strict=True), key=lambda pair: pair[1][split][METRIC]["mean"], reverse=True
    )
    lines = []
    for group, entry in pairs:
        found = over_best(group, pairs[0][0])
        cells = [row_name({**entry, "gain": None}, each=True), *(c.cell(entry, split) for c in chosen)]
        lines.append((*cells, "" if found is None else _difference(found)))
    return TextTable(title, (first, *(c.heading for c in chosen), "from the best, paired 95 %"), tuple(lines))


def over_best(group: Runs, best: Runs) -> PairedBootstrap | None:
    """Bootstrap over users of a row's mean over seeds less the best's; None for the best itself."""
    if group is best:
        return None
    try:
        old, new = _mean(best), _mean(group)
    except DataError:
        return None
    return paired_bootstrap(old, new) if old.shape == new.shape else None


def _mean(group: Runs) -> Any:
    """(n,) the metric of each user, averaged over seeds."""
    return np.mean([values_of(record, METRIC) for record in group.records], axis=0)


def _difference(found: PairedBootstrap) -> str:
    star = " *" if found.excludes_zero else ""
    return f"{found.mean_difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]{star}"
