"""What commands report of a run: metrics, before and after, the validation curve, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from agents.runs.plots import Panel, column
from agents.runs.profiling import Usage
from agents.training.fine_tuner import FineTuner
from refit_env.data import Dataset
from refit_env.evaluation.beyond_accuracy import measured
from refit_env.evaluation.intervals import ends_in_words
from refit_env.evaluation.ranking import Evaluation, metric_title, nearest_metric
from refit_env.evaluation.selection import Rule
from refit_env.evaluation.statistics import paired_bootstrap, paired_bootstraps

REPORTED = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
"""The metrics that ``metrics.json`` and the tables hold; a small catalogue has those of its longest lists."""


def reported(means: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are reported, in their order; for data with dislikes, their shares too.

    Example:
        >>> reported({"recall@3": 0.5, "ndcg@3": 0.25, "coverage@3": 1.0})
        {'recall@3': 0.5, 'ndcg@3': 0.25}
    """
    names = dict.fromkeys(nearest_metric(name, means) for name in REPORTED)
    names |= dict.fromkeys(name for name in means if name.startswith("dislikes@"))
    return {name: float(means[name]) for name in names}


def validation_panel(
    rows: Sequence[Mapping[str, float]],
    rule: Rule,
    chosen: tuple[str, float] | None = None,
    *,
    step_name: str = "iteration",
    start: bool = False,
) -> Panel:
    """The panel of a log's validation: NDCG@20 and Recall@20, or those of a smaller catalogue's lists.

    Args:
        rows: of the log.
        rule: how the weights are chosen.
        chosen: label and step of the chosen weights.
        step_name: the log's first column.
        start: whether the first row is that of the weights that training began with; the rule's
            metric is then a horizontal line.
    """
    logged = {name.removeprefix("valid/") for row in rows for name in row if name.startswith("valid/")}
    names = [nearest_metric(name, logged) for name in ("ndcg@20", "recall@20")]
    names += [name for name in rule.names if name in logged and name not in names]
    lines = {metric_title(name): column(rows, f"valid/{name}", step_name) for name in names}
    first = column(rows, f"valid/{rule.metric}", step_name)[1]
    levels = {f"start, {metric_title(rule.metric)}": first[0]} if start and first else {}
    return Panel("validation", lines, "mean over users", levels, chosen)


def comparison(
    before: Evaluation, after: Evaluation, dataset: Dataset, names: Iterable[str] = (), seed: int = 0
) -> dict[str, Any]:
    """Compare two models on the same users, for ``metrics.json``.

    Of rows, those of one user or session are drawn together for the intervals.

    Args:
        before: of the pretrained model, on test.
        after: of the fine-tuned one.
        dataset: the data set of both.
        names: metrics besides those that are always reported, such as those of the rule that selects. A
            metric of all lists together has no interval over users.
        seed: of the bootstrap.

    Raises:
        ValueError: if the two were evaluated on different users.
    """
    if list(before.users) != list(after.users):
        raise ValueError("before and after were evaluated on different users")
    wanted = list(dict.fromkeys([*reported(before.means()), *names]))
    found = [measured(one, dataset, "test", wanted) for one in (before, after)]
    old, new = ({name: float(one.means[name]) for name in wanted} for one in found)
    known = [name for name in wanted if name in found[0].per_user]
    values = ({name: one.per_user[name] for name in known} for one in found)
    table = paired_bootstraps(*values, groups=dataset.groups_of(before.users), seed=seed)
    return {
        "users": len(before.users),
        "unit": dataset.unit,
        "before": old,
        "after": new,
        "relative_gain": {name: new[name] / old[name] - 1 if old[name] else math.nan for name in wanted},
        "paired_bootstrap": {name: row.to_json() for name, row in table.items()},
    }


def validation_gain(agent: FineTuner) -> dict[str, Any] | None:
    """Return the gain of the chosen weights by the metric that selects, on the users that select.

    Returns:
        The paired bootstrap over these users, as JSON; None for a metric of all lists together.
    """
    found = [agent.values_that_select(start=start) for start in (True, False)]
    if found[0] is None or found[1] is None:
        return None
    groups = agent.dataset.groups_of(agent.users_that_select())
    return paired_bootstrap(found[0], found[1], groups=groups).to_json()


def comparison_table(report: Mapping[str, Any], title: str) -> Table:
    """The before/after table of one run, for the terminal."""
    unit = report["unit"]
    table = Table(title=f"{title} (test, {report['users']} {unit})")
    for name in ("metric", "before", "after", "gain", f"difference, 95 % interval over {unit}"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for name, old in report["before"].items():
        new, found = report["after"][name], report["paired_bootstrap"].get(name)
        ends = None if found is None else ends_in_words(found["low"], found["high"], ", ")
        interval = "of all lists together" if ends is None else f"[{ends}]"
        gain = percent(report["relative_gain"][name])
        table.add_row(name, f"{old:.4f}", f"{new:.4f}", gain, f"{new - old:+.4f} {interval}")
    return table


def percent(gain: float) -> str:
    """A relative gain for a table; a dash where there is none (nothing to divide by)."""
    return f"{100 * gain:+.1f} %" if math.isfinite(gain) else "-"


def cost(**parts: Usage | Mapping[str, Any] | None) -> dict[str, Any]:
    """Seconds and peak memory of each part that was measured."""
    return {
        name: part.to_json() if isinstance(part, Usage) else dict(part)
        for name, part in parts.items()
        if part is not None
    }
