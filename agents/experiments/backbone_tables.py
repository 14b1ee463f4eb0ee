"""The tables of ``refit compare backbones``: models and slices.

Letters: S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agents.experiments.backbones import PRETRAINED, REINFORCE, REWARD, ROWS, device_of
from agents.experiments.budgets import budget_note, mean_work, same, units_of
from agents.experiments.judging import METRICS
from agents.experiments.tables import TextTable, plus_minus
from refit_env.evaluation.slices import COLD, POPULAR, TAIL
from refit_env.evaluation.statistics import Interval, mean_interval
from refit_env.registration import entry

Runs = list[Mapping[str, Any]]
Groups = dict[tuple[str, str], dict[str, Runs]]
"""(environment, model) -> row -> finished results, in order of their seeds."""
SLICED = ("recall@20", "ndcg@20")
TASKS = {"cf": "standard CF", "sequential": "sequential", "social": "social", "poi": "POI"}
ON_GPU = " G"
"""What marks seconds and memory that were measured on a GPU."""
RANKED = "-ranking"
"""How the names of models end that were trained to rank; tasks' means are over the published objectives."""


def grouped(results: Sequence[Mapping[str, Any]]) -> Groups:
    """Sort results by model and row; models without a finished pretrained row are left out."""
    out: Groups = {}
    for result in results:
        out.setdefault((result["env"], result["model"]), {}).setdefault(result["row"], []).append(result)
    for rows in out.values():
        for runs in rows.values():
            runs.sort(key=lambda run: int(run["seed"]))
    return {key: {r: rows[r] for r in ROWS if r in rows} for key, rows in out.items() if PRETRAINED in rows}


def summarise(groups: Groups) -> list[dict[str, Any]]:
    """The figures behind the tables: one entry a model and row.

    Each has ``test`` and ``valid`` means over seeds with Student's intervals, ``gain`` (relative to the
    pretrained model of the same seed, an interval over seeds), ``slices`` likewise, ``seconds``,
    ``peak_memory_mib`` (of the device), ``device``, and ``seeds_sure``: of how many seeds the bootstrap over
    users excludes zero in favour of the row, for NDCG@20.
    """
    return [
        _entry(env_id, model, row, runs, rows[PRETRAINED])
        for (env_id, model), rows in groups.items()
        for row, runs in rows.items()
    ]


def _entry(env_id: str, model: str, row: str, runs: Runs, base: Runs) -> dict[str, Any]:
    start = {run["seed"]: run for run in base}
    pairs = [(run, start[run["seed"]]) for run in runs if run["seed"] in start]
    out: dict[str, Any] = {"env": env_id, "task": entry(env_id).task, "model": model, "row": row}
    for split in ("test", "valid"):
        out[split] = {m: mean_interval([run[split][m] for run in runs]).to_json() for m in METRICS}
    out["slices"] = {
        name: {"users": runs[0]["slices"][name]["users"]}
        | {m: _over([run["slices"][name].get(m) for run in runs]) for m in SLICED}
        for name in (COLD, POPULAR, TAIL)
    }
    cost = [run["cost"] for run in runs]
    out["seconds"] = float(np.mean([c["training_seconds"] + c["validation_seconds"] for c in cost]))
    out["device"] = " and ".join(sorted({device_of(run) for run in runs}))
    out["peak_memory_mib"] = max(c["peak_device_memory_mib"] or c["peak_memory_mib"] for c in cost)
    out["work"], out["budget"] = mean_work(runs), sorted(units_of(runs))
    out["seeds"] = [run["seed"] for run in runs]
    if row == PRETRAINED:
        return out
    out["gain"] = {m: relative([(a["test"][m], b["test"][m]) for a, b in pairs]) for m in METRICS}
    out["slice_gain"] = {
        name: {
            m: relative([(a["slices"][name].get(m), b["slices"][name].get(m)) for a, b in pairs])
            for m in SLICED
        }
        for name in (COLD, POPULAR, TAIL)
    }
    out["seeds_sure"] = sum(run["over_pretrained"]["ndcg@20"]["low"] > 0 for run in runs)
    return out


def relative(pairs: Sequence[tuple[float | None, float | None]]) -> dict[str, Any] | None:
    """Relative gain ``after / before - 1`` with its interval over seeds; None where it is not defined.

    Example:
        >>> relative([(1.1, 1.0), (1.2, 1.0), (1.3, 1.0)])["excludes_zero"]
        False
        >>> relative([(0.1, 0.0)]) is None
        True
    """
    if not pairs or any(before is None or after is None or before == 0 for after, before in pairs):
        return None
    interval = mean_interval([after / before - 1 for after, before in pairs if after is not None and before])
    return interval.to_json() | {"excludes_zero": _sure(interval)}


def model_table(summary: Sequence[Mapping[str, Any]]) -> TextTable:
    """Every model's rows: metrics on test, gains, cost."""
    columns = (
        "environment, model", "NDCG@10", "NDCG@20", "Recall@10", "Recall@20", "NDCG@20 gain, %",
        "Recall@20 gain, %", "seeds", "users sure", "seconds", "peak MiB",
    )  # fmt: skip
    lines = [
        (
            _short(found) + {PRETRAINED: "", REWARD: ": "}.get(found["row"], " ") + _title(found),
            *(plus_minus(found["test"][m]) for m in ("ndcg@10", "ndcg@20", "recall@10", "recall@20")),
            *(percent(found.get("gain", {}).get(m)) for m in ("ndcg@20", "recall@20")),
            str(len(found["seeds"])),
            "" if found["row"] == PRETRAINED else f"{found['seeds_sure']}/{len(found['seeds'])}",
            f"{found['seconds']:.0f}" + _mark(found),
            f"{found['peak_memory_mib']:.0f}" + _mark(found),
        )
        for found in summary
    ]
    return TextTable("Recommenders, pretrained and fine-tuned (test)", columns, tuple(lines))


def slice_table(summary: Sequence[Mapping[str, Any]]) -> TextTable:
    """Whom fine-tuning serves: gains of cold users, popular items and the tail."""
    columns = (
        "environment, model", "cold users", "their Recall@20", "gain, %", "popular: Recall@20", "gain, %",
        "tail: Recall@20", "gain, %",
    )  # fmt: skip
    start = {(f["env"], f["model"]): f["slices"] for f in summary if f["row"] == PRETRAINED}
    lines = []
    for found in summary:
        if found["row"] != REINFORCE:
            continue
        before, cells = start[found["env"], found["model"]], [_short(found)]
        cells.append(f"{before[COLD]['users']:.0f}")
        for name in (COLD, POPULAR, TAIL):
            level = before[name]["recall@20"]
            cells.append("" if level is None else plus_minus(level))
            cells.append(percent(found["slice_gain"][name]["recall@20"]))
        lines.append(tuple(cells))
    return TextTable("The slices: pretrained, and what REINFORCE changes (test)", columns, tuple(lines))


def percent(interval: Mapping[str, Any] | None) -> str:
    """A relative gain in per cent, half its interval, and a star where that excludes zero.

    Example:
        >>> percent({"mean": 0.1, "low": 0.05, "high": 0.15, "excludes_zero": True})
        '+10.0 ± 5.0 *'
    """
    if interval is None:
        return ""
    known = interval["low"] is not None
    half = f"{50 * (interval['high'] - interval['low']):.1f}" if known else "-"
    text = f"{100 * interval['mean']:+.1f} ± {half}"
    return text + (" *" if interval["excludes_zero"] else "")


def note(gpus: Iterable[str] = (), controls: Iterable[str] = ()) -> str:
    """What a reader of the tables must know.

    Args:
        gpus: names of those that cells were measured on.
        controls: in what the budgets of controls were counted (``budgets.units_of``).
    """
    names = ", ".join(sorted(gpus))
    mark = (
        f" {ON_GPU.strip()}: on a GPU ({names}), several cells at once, and memory is the GPU's."
        if names
        else ""
    )
    return (
        "Means over seeds +- half a 95 % interval (Student's t over seeds). A gain is relative to the "
        "pretrained model of the same seed; * marks those whose interval excludes zero. 'users sure' "
        "counts the seeds of which a paired bootstrap over users puts NDCG@20 above the pretrained "
        f"model's. 'more training' goes on with the same loss. {budget_note(controls)}"
        "Weights chosen on validation (settings: agents/hyperparams; where a linear model of the train "
        "items is the reward, a distillation of it, with as many updates of the same step sizes, and that "
        "model's own lists stand below); full ranking, seen items masked (in sequential and POI rows "
        "nothing is). Cold users have fewer than 5 train items (rows: shown items); popular is the most "
        "interacted fifth of the catalogue, tail the rest. DreamRec's published objective hardly ranks: "
        "read its gain beside the model that was trained to rank. One thread a cell." + mark
    )


def _short(found: Mapping[str, Any]) -> str:
    return f"{str(found['env']).removeprefix('ReFiT-').removesuffix('-v0')}, {found['model']}"


def _mark(found: Mapping[str, Any]) -> str:
    """What stands after figures that were measured on a GPU."""
    return "" if found["device"] == "cpu" else ON_GPU


def _title(found: Mapping[str, Any]) -> str:
    """What stands after a model's name; a control's says what it has in common with its rival."""
    if found["row"] == PRETRAINED:
        return ""
    return ", ".join(filter(None, (ROWS[found["row"]], same(found["budget"]))))


def _over(values: Sequence[float | None]) -> dict[str, Any] | None:
    """The mean over seeds; None where a seed has no such value."""
    known = [value for value in values if value is not None]
    return mean_interval(known).to_json() if known and len(known) == len(values) else None


def _sure(interval: Interval) -> bool:
    """Whether an interval lies wholly on one side of zero."""
    known = math.isfinite(interval.low) and math.isfinite(interval.high)
    return known and (interval.low > 0 or interval.high < 0)
