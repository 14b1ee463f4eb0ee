"""The sections of a run on the page: what the template shows, JSON-plain but for the drawn charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from agents.reports.explorer import Names
from agents.reports.facts import Facts, command_of, identity
from agents.reports.measured import (
    Measured,
    by_activity,
    by_item_kind,
    cold_users,
    counts_of_gains,
    histogram,
    movers,
    places,
    popularity_shares,
)
from agents.reports.svg import Chart, Line, bar_chart, line_chart
from agents.runs.plots import column
from refit_env.evaluation.beyond_accuracy import beyond_accuracy
from refit_env.evaluation.intervals import ends_in_words, is_known, side_of_zero
from refit_env.evaluation.ranking import metric_title, nearest_metric
from refit_env.evaluation.selection import LESS_IS_BETTER

BEFORE, AFTER = "before", "after"
ENDS = ("low", "high")
SURE = {1: "up", -1: "down", 0: ""}
"""``side_of_zero`` of an interval -> its class on the page."""
BEYOND_NAMES = {
    "arp": "ARP, train interactions of an item",
    "aplt": "APLT, share of long-tail items",
    "novelty": "novelty, bits",
    "ild": "diversity within a list",
    "calibration": "miscalibration, KL",
    "gini": "Gini of the items' places",
    "entropy": "entropy of the items' places",
    "personalization": "difference between users",
    "rsp": "unequal exposure of item groups",
    "pop_rsp": "unequal exposure, head and tail",
    "pop_reo": "unequal opportunity, head and tail",
    "user_gap": "NDCG gap, active and other users",
}
"""Metrics beyond accuracy in words; the others are words already."""
TERMS_LEFT_OUT = ("mean", "within_user_std", "zero_variance_share")
"""Scalars ``reward/...`` that are no terms of the reward."""


@dataclass(frozen=True, eq=False)
class RunParts:
    """A run with what was measured of its models.

    Attributes:
        facts: of the folder.
        measured: the lists of both models, or None where data or models are left out.
        explorer: of ``agents.reports.explorer.explorer``, or None.
        notes: sentences on what is missing.
    """

    facts: Facts
    measured: Measured | None
    explorer: Mapping[str, Any] | None
    notes: Sequence[str] = ()


def sections(parts: RunParts, number: int) -> dict[str, Any]:
    """Return what the template shows of one run.

    Args:
        parts: the run.
        number: of the run on the page, from 1.
    """
    facts, measured = parts.facts, parts.measured
    return {
        "id": f"run-{number}",
        "name": facts.name,
        "title": _title(facts),
        "sentence": facts.sentence(),
        "choice": facts.choice(),
        "finished": facts.finished,
        "unit": facts.unit if measured is None else measured.dataset.unit,
        "together": facts.unit == "rows",  # earlier versions recorded no unit, and drew each row alone
        "notes": list(parts.notes),
        "tiles": _tiles(facts, measured),
        "table": comparison_rows(facts),
        "test": _test_rows(facts),
        "curves": _kept(_curves(facts)),
        "rewards": _kept(_rewards(facts)),
        "monitors": _kept(_monitors(facts)),
        "alarms": [alarm.to_json() for alarm in facts.alarms],
        "monitored": any("monitor/reward" in row for row in facts.rows),
        "gains": None if measured is None or measured.before is None else _gains(measured),
        "shift": None if measured is None else _shift(measured),
        "explorer": parts.explorer,
        "settings": _settings(facts),
        "command": command_of(facts.config),
    }


def comparison_rows(facts: Facts) -> list[dict[str, Any]]:
    """Return the rows of the table before and after, with the ends of the intervals as shares of a bar."""
    found = facts.metrics.get("paired_bootstrap", {})
    all_ends = [one[end] for one in found.values() if is_known(one["low"], one["high"]) for end in ENDS]
    reach = max(map(abs, [*all_ends, *(one["mean_difference"] for one in found.values())]), default=0) or 1.0

    def place(value: float) -> float:
        return round(50 + 50 * value / reach, 2)

    rows = []
    for name, one in found.items():
        before, after = facts.metrics["before"].get(name), facts.metrics["after"].get(name)
        if before is None or after is None:
            continue
        known = is_known(one["low"], one["high"])
        low, high = (one[end] if known else one["mean_difference"] for end in ENDS)
        rows.append(
            {
                "metric": metric_title(name),
                "before": f"{before:.4f}",
                "after": f"{after:.4f}",
                "gain": f"{100 * (after / before - 1):+.1f} %" if before else "-",
                "difference": f"{one['mean_difference']:+.4f}",
                "interval": ends_in_words(one["low"], one["high"]),
                "sure": SURE[side_of_zero(one["low"], one["high"])],
                "low": place(low),
                "high": place(high),
                "middle": place(one["mean_difference"]),
            }
        )
    return rows


def _title(facts: Facts) -> str:
    """What a run did, in a few words."""
    where = identity(facts)[0]
    if facts.config["command"] != "finetune":
        return f"{facts.algorithm} on {where}"
    return f"{facts.algorithm} on {where}, reward {facts.reward}"


def _tiles(facts: Facts, measured: Measured | None) -> list[dict[str, str]]:
    """The large figures at the top."""
    out = []
    for row in comparison_rows(facts):
        if row["metric"].endswith("@20") or len(facts.metrics.get("after", {})) <= 2:
            out.append(
                {
                    "name": row["metric"],
                    "value": row["after"],
                    "from": f"from {row['before']}",
                    "change": row["gain"],
                    "kind": row["sure"],
                }
            )
    if measured is None:
        return out
    new = measured.after.means()
    old = {} if measured.before is None else measured.before.means()
    for name in sorted(name for name in new if name.startswith(("coverage@", "gini@"))):
        change = f"{new[name] - old[name]:+.3f}" if name in old else ""
        label = name.replace("gini", "Gini")
        start = f"from {old[name]:.3f}" if name in old else ""
        out.append({"name": label, "value": f"{new[name]:.3f}", "from": start, "change": change, "kind": ""})
    if measured.before is not None:
        up, same, down = counts_of_gains(measured)
        total = up + same + down
        out.append(
            {
                "name": f"{measured.dataset.unit} that gain",
                "value": f"{up / total:.0%}",
                "from": f"{same / total:.0%} unchanged, {down / total:.0%} lose",
                "change": "",
                "kind": "",
            }
        )
    return out


def _test_rows(facts: Facts) -> list[tuple[str, str]]:
    """Test metrics of a run without a start."""
    found = facts.metrics.get("test", {})
    return [(metric_title(name), f"{value:.4f}") for name, value in found.items() if value is not None]


def _line(facts: Facts, name: str, label: str, color: str) -> Line:
    x, y = column(facts.rows, name, facts.step_name)
    return Line(label, list(x), list(y), color)


def _kept(charts: Sequence[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart is not None]


def _curves(facts: Facts) -> list[Chart | None]:
    """Validation and the objective of training."""
    logged = {name.removeprefix("valid/") for row in facts.rows for name in row if name.startswith("valid/")}
    names = [nearest_metric(name, logged) for name in ("ndcg@20", "recall@20")]
    rule = facts.rule
    names += [name for name in rule.names if name in logged and name not in names]
    places = [float(alarm.iteration) for alarm in facts.alarms]
    shared: dict[str, Any] = {"xlabel": facts.step_name, "chosen": facts.chosen}
    charts = []
    for place, name in enumerate(dict.fromkeys(names)):
        line = _line(facts, f"valid/{name}", f"validation {metric_title(name)}", f"c{place + 1}")
        level = ("start", line.y[0]) if line.y and facts.config["command"] == "finetune" else None
        title = f"Validation {metric_title(name)}" + (", which selects" if name == rule.metric else "")
        charts.append(line_chart(title, [line], level=level, alarms=places if place == 0 else (), **shared))
    gain = _line(facts, "choice/gain", "gain", "c1")
    error = _line(facts, "choice/standard_error", "two standard errors", "c4")
    noise = Line(error.label, error.x, [2 * value for value in error.y], error.color)
    note = "Mean over the users that select. A gain below two standard errors is within noise."
    title = f"Validation gain over the start, {metric_title(rule.metric)}"
    charts.append(line_chart(title, [gain, noise], note=note, **shared))
    loss = _line(facts, "train/loss", "training loss", "c3")
    return [*charts, line_chart("Training loss", [loss], xlabel=facts.step_name, chosen=facts.chosen)]


def _rewards(facts: Facts) -> list[Chart | None]:
    """The reward of batches and its terms."""
    shared: dict[str, Any] = {"xlabel": facts.step_name, "chosen": facts.chosen}
    names = {name for row in facts.rows for name in row if name.startswith("reward/")}
    terms = sorted(name for name in names if name.removeprefix("reward/") not in TERMS_LEFT_OUT)
    mean = _line(facts, "reward/mean", "mean of the batch, with exploration", "c0")
    clean = _line(facts, "monitor/reward", "without exploration, fixed users", "c1")
    first = line_chart(
        "Reward",
        [mean, clean],
        note="The proxy that training maximises; the batches have other users each.",
        **shared,
    )
    lines = [
        _line(facts, name, name.removeprefix("reward/"), f"c{1 + place % 5}")
        for place, name in enumerate(terms)
    ]
    return [first, line_chart("Terms of the reward", lines, **shared) if len(lines) > 1 else None]


def _monitors(facts: Facts) -> list[Chart | None]:
    """Divergence, coverage, concentration and popularity of the lists by validation."""
    shared: dict[str, Any] = {"xlabel": facts.step_name, "chosen": facts.chosen}
    logged = {name for row in facts.rows for name in row}
    coverage = sorted(name for name in logged if name.startswith("valid/coverage@"))
    gini = sorted(name for name in logged if name.startswith("valid/gini@"))
    kl = _line(facts, "policy/kl_to_pretrained", "KL to the start, per dimension", "c4")
    charts = [line_chart("Divergence from the start", [kl], **shared)]
    for names, title in ((coverage, "Coverage of the lists"), (gini, "Gini of the recommendations")):
        lines = [_line(facts, name, metric_title(name.removeprefix("valid/")), "c2") for name in names[-1:]]
        level = ("start", lines[0].y[0]) if lines and lines[0].y else None
        charts.append(line_chart(title, lines, level=level, **shared))
    popularity = _line(facts, "monitor/popularity", "users who have the mean recommended item", "c5")
    level = ("start", popularity.y[0]) if popularity.y else None
    charts.append(line_chart("Popularity of the lists", [popularity], level=level, **shared))
    groups = _line(facts, "reward/zero_variance_share", "users whose episodes have equal rewards", "c3")
    charts.append(line_chart("Zero-variance groups", [groups], **shared))
    return charts


def _gains(measured: Measured) -> dict[str, Any]:
    """The gains of single users."""
    edges, counts = histogram(measured.gain)
    names = [f"{(low + high) / 2:+.2f}" for low, high in pairwise(edges)]
    half = len(counts) // 2
    unit, shown = measured.dataset.unit, "history items" if measured.dataset.has_rows else "train items"
    metric = metric_title(measured.metric)
    up, same, down = counts_of_gains(measured)
    groups = by_activity(measured)
    cold = cold_users(measured)
    return {
        "metric": metric,
        "counts": {"up": up, "same": same, "down": down},
        "histogram": bar_chart(
            f"{unit.capitalize()} by change of {metric}",
            names,
            [(unit, "c1", [float(count) for count in counts])],
            xlabel=f"change of {metric}",
            ylabel=unit,
            colors=["c4"] * half + ["c1"] * half,
            note=f"Without the {same} {unit} whose {metric} is the same; the outer bars hold what is beyond.",
        ),
        "activity": bar_chart(
            f"Change of {metric} by activity",
            [group.name for group in groups],
            [("mean change", "c1", [group.difference.mean_difference for group in groups])],
            xlabel=f"{shown} of the {unit} of a group",
            ylabel=f"change of {metric}",
            whiskers=[(group.difference.low, group.difference.high) for group in groups],
            note=f"Ten groups of equally many {unit}; lines are 95 % intervals over the {unit} of a group.",
        ),
        "cold": None
        if cold is None
        else {
            "users": cold.difference.num_users,
            "before": f"{cold.difference.before:.4f}",
            "after": f"{cold.difference.after:.4f}",
            "interval": ends_in_words(cold.difference.low, cold.difference.high),
        },
        "shown": shown,
        "fewest": int(measured.counts.min()),
        "kinds": [(name, f"{old:.4f}", f"{new:.4f}") for name, old, new in by_item_kind(measured)],
    }


def _shift(measured: Measured) -> dict[str, Any]:
    """Popularity and coverage of the lists."""
    shares = popularity_shares(measured)
    groups = len(shares[AFTER])
    names = [f"{n + 1}" for n in range(groups)]
    series = [("train interactions", "c3", shares["train"])]
    if BEFORE in shares:
        series.append((BEFORE, "c0", shares[BEFORE]))
    series.append((AFTER, "c1", shares[AFTER]))
    evaluations = {BEFORE: measured.before, AFTER: measured.after}
    counted = {name: places(found) for name, found in evaluations.items() if found is not None}
    names_of = Names(measured.dataset)
    titles = ("More often in lists", "Less often in lists")
    return {
        "popularity": bar_chart(
            "List places by popularity of the item",
            names,
            series,
            xlabel="tenths of the catalogue, most popular first",
            percent=True,
        ),
        "movers": [
            (title, [(names_of.name(m.item), m.train, m.before, m.after) for m in moved])
            for title, moved in zip(titles, movers(measured), strict=True)
            if moved
        ],
        "beyond": _beyond(measured),
        "never": [(name, int((count == 0).sum())) for name, count in counted.items()],
        "catalogue": measured.after.num_items,
    }


def _beyond(measured: Measured) -> dict[str, Any]:
    """The metrics beyond accuracy of the test lists."""
    found = [
        beyond_accuracy(one, measured.dataset).means
        for one in (measured.before, measured.after)
        if one is not None
    ]
    rows = []
    for name in found[0]:
        kind = name.partition("@")[0]
        arrow = "\u2193" if kind in LESS_IS_BETTER else "\u2191"
        values = [one[name] for one in found]
        change = [f"{values[1] - values[0]:+.4f}"] if len(values) > 1 else []
        rows.append([f"{BEYOND_NAMES.get(kind, kind)} {arrow}", *(f"{v:.4f}" for v in values), *change])
    length = measured.after.lists.shape[1]
    title = f"Test lists of {length} beyond accuracy; arrows: whether more or less is better"
    columns = ["metric", "before", "after", "change"] if len(found) > 1 else ["metric", "value"]
    return {"title": title, "columns": columns, "rows": rows}


def _settings(facts: Facts) -> list[tuple[str, str]]:
    """What is needed to repeat the run, in rows."""
    config, data = facts.config, facts.config.get("dataset") or {}
    rows: list[tuple[str, Any]] = [
        ("folder", facts.path),
        ("environment", config.get("env")),
        ("own data", config.get("data")),
        ("data set", data.get("name")),
        ("data fingerprint (sha256)", data.get("fingerprint")),
        ("start", config.get("init")),
        ("made from", config.get("run")),
        ("seed", config.get("seed")),
        ("selected on", facts.selected_on),
        ("weights (sha256)", facts.metrics.get("weights")),
    ]
    for folder, digest in (config.get("weights") or {}).items():
        rows.append((f"weights of {folder}", digest))
    for part, file in (
        ("algorithm", config.get("algorithm_file")),
        ("backbone", config.get("backbone_file")),
    ):
        if file:
            rows.append((f"file of the {part}", f"{file['file']} (sha256 {file['sha256']})"))
    for place, source in (config.get("reward_files") or {}).items():
        rows.append((f"file of the reward {place}", f"{source['file']} (sha256 {source['sha256']})"))
    for name, value in (config.get("env_kwargs") or {}).items():
        rows.append((f"environment: {name}", value))
    for name, value in (config.get("agent") or config.get("pretrain") or {}).items():
        rows.append((f"setting: {name}", value))
    for part, cost in (facts.metrics.get("cost") or {}).items():
        rows.append((f"cost: {part}", f"{cost['seconds']:.1f} s, peak {cost['peak_memory_mib']:.0f} MiB"))
    for name, version in (config.get("made_with") or {}).items():
        rows.append((f"made with: {name}", version))
    return [(name, str(value)) for name, value in rows if value is not None]
