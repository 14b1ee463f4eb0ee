"""Rows beside the figures that others published for the same split, input and masks."""

from __future__ import annotations

from collections.abc import Sequence

from agents.experiments.spec import Published
from agents.experiments.summary import Runs
from agents.experiments.tables import TextTable
from refit_env.evaluation.ranking import metric_title

METRICS = ("recall@20", "ndcg@20")
"""What is compared."""
CLOSE = 0.02
"""The relative difference within which a figure counts as reproduced."""


def published_table(
    title: str, first: str, figures: Sequence[Published], groups: Sequence[Runs]
) -> TextTable:
    """Ours, theirs and the relative difference, a row a published figure.

    Args:
        title: above it.
        first: heading of the first column.
        figures: of the study.
        groups: the records of the study, and those of others that it shows.
    """
    found = {(group.env_id, group.model, group.variant): group for group in groups}
    lines = []
    for item in figures:
        group = found.get((item.environment, item.model, item.variant))
        cells = [item.title]
        apart = 0.0
        for metric in METRICS:
            theirs = item.figures.get(metric)
            ours = None if group is None else _mean(group, metric)
            gap = None if ours is None or theirs is None else ours / theirs - 1
            apart = max(apart, abs(gap or 0.0))
            cells += ["-" if ours is None else f"{ours:.4f}", "-" if theirs is None else f"{theirs:.4f}"]
            cells.append("-" if gap is None else f"{100 * gap:+.1f}")
        state = "not measured yet" if group is None else "yes" if apart <= CLOSE else "no"
        lines.append((*cells, state, ": ".join(filter(None, (item.source, item.why)))))
    columns = [first]
    for metric in METRICS:
        columns += [f"{metric_title(metric)}, ours", "theirs", "difference, %"]
    return TextTable(title, (*columns, f"within {100 * CLOSE:.0f} %", "whose; why"), tuple(lines))


def _mean(group: Runs, metric: str) -> float:
    return float(sum(record["test"][metric] for record in group.records) / len(group.records))
