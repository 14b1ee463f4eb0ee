"""The figures behind the tables: over the seeds of one variant, gains taken seed by seed over its parent.

Letters: S seeds, n rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agents.experiments.budgets import mean_work, units_of
from agents.experiments.columns import METRICS
from agents.experiments.per_user import over_users
from agents.experiments.row_groups import Ids
from agents.experiments.shipped import study_path
from agents.experiments.study import Study, read_study
from refit_env.errors import DataError
from refit_env.evaluation.intervals import side_of_zero
from refit_env.evaluation.slices import COLD, POPULAR, TAIL
from refit_env.evaluation.statistics import Interval, mean_interval
from refit_env.registration import entry

Record = Mapping[str, Any]
SLICES = (COLD, POPULAR, TAIL)
SLICED = ("recall@20", "ndcg@20")


@dataclass(frozen=True)
class Runs:
    """The finished records of one variant of a model on an environment."""

    env_id: str
    """The environment."""
    model: str
    """Name of the model; empty for a baseline."""
    variant: str
    """Key of the variant."""
    title: str
    """What tables call it."""
    parent: str
    """Key of the variant over which its gain is; empty for none."""
    records: tuple[Record, ...]
    """In order of their seeds."""
    row_groups: Ids | None = field(default=None, compare=False)
    """(n,) the user or session of each measured row; None where episodes are no rows, or it is not known."""
    study: str = ""
    """The study that measured them, where another one shows them."""

    def of(self, variant: str) -> tuple[str, str, str, str]:
        """Return what no row has in common with those of another variant, study, environment or model."""
        return self.study, self.env_id, self.model, variant


def drawn_together(runs: Sequence[Runs]) -> Ids | None:
    """Return whose the rows are that all of the runs measured (n,); None where one of them does not know."""
    known = [one.row_groups for one in runs if one.row_groups is not None]
    same = len(known) == len(runs) and all(np.array_equal(known[0], ids) for ids in known)
    return known[0] if same else None


def grouped(study: Study, records: Iterable[Record], others: Mapping[str, Iterable[Record]]) -> list[Runs]:
    """Sort records by environment, model and variant, in the order of the study.

    Args:
        study: whose.
        records: of the study.
        others: study -> its records, for the rows that this one shows (``Study.also``).
    """
    found: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        found.setdefault((record["env"], record["model"], record["variant"]), []).append(record)
    out = []
    shown = (also.environment for also in study.also)
    for env_id in dict.fromkeys([*study.environments, *shown, *(env for env, _, _ in found)]):
        for also in study.also:
            if also.environment == env_id:
                out += _shown(also.study, also.model, also.variants, env_id, others.get(also.study, ()))
        if not any(env == env_id for env, _, _ in found):
            continue
        place = study.place(env_id)
        models = list(dict.fromkeys([*place.models, *(m for env, m, _ in found if env == env_id)]))
        for model in models:
            for variant in place.variants:
                runs = found.get((env_id, model, variant.key))
                if runs:
                    ordered = tuple(sorted(runs, key=lambda run: int(run["seed"])))
                    out.append(Runs(env_id, model, variant.key, variant.title, variant.parent, ordered))
    return out


def _shown(
    study: str, model: str, titles: Mapping[str, str], env_id: str, records: Iterable[Record]
) -> list[Runs]:
    """The rows of another study, each with its parent there, or the first of them where that is not shown."""
    out, parents = [], _parents(study, env_id, list(titles))
    for key, title in titles.items():
        named = (env_id, model, key)
        runs = [r for r in records if (r["env"], r["model"], r["variant"]) == named]
        if runs:
            ordered = tuple(sorted(runs, key=lambda run: int(run["seed"])))
            out.append(Runs(env_id, model, key, title, parents[key], ordered, study=study))
    return out


def _parents(study: str, env_id: str, keys: Sequence[str]) -> dict[str, str]:
    """The parents of some variants of a study; of one whose parent is not among them, the first of them."""
    try:
        place = read_study(study_path(study)).place(env_id)
        stated = {key: place.variant(key).parent for key in keys}
    except ValueError:  # no shipped study, or one that has changed since
        stated = {}
    found = {key: stated.get(key, "") for key in keys}
    return {key: found[key] if found[key] in keys else keys[0] if key != keys[0] else "" for key in keys}


def check_starts(groups: Sequence[Runs], where: object) -> None:
    """Refuse records that began from other weights than those of their parent's record.

    Raises:
        DataError: naming the record.
    """
    weights = {(*g.of(g.variant), r["seed"]): r.get("weights") for g in groups for r in g.records}
    for group in groups:
        for run in group.records:
            own, parent = run.get("start"), weights.get((*group.of(group.parent), run["seed"]))
            if own is not None and parent is not None and own != parent:
                raise DataError(
                    f"{where}: {run['key']} began from another checkpoint than that of {group.parent!r}; "
                    "--redo measures it again if it is stale, else delete its line"
                )


def summarise(groups: Sequence[Runs], split: str = "test") -> list[dict[str, Any]]:
    """One entry a variant: means over seeds with Student's intervals, gains, slices, what it cost.

    Args:
        groups: of ``grouped``.
        split: what was measured.

    Returns:
        Entries with ``env``, ``task``, ``model``, ``variant``, ``title``, ``seeds``, an interval a metric
        under the split's name (and ``valid``, where it was measured), ``gain`` (relative) and ``difference``
        over the parent of the same seed (absent without one), ``users_sure`` (of how many seeds the bootstrap
        over users puts NDCG@20 above the parent's), ``slices`` and ``slice_gain``, ``seconds``, ``work``,
        ``budget``, ``peak_memory_mib`` (of the device), ``device``, ``env_steps`` and ``best_at``.
    """
    found = {group.of(group.variant): group for group in groups}
    return [_entry(group, found.get(group.of(group.parent)), split) for group in groups]


def _entry(group: Runs, base: Runs | None, split: str) -> dict[str, Any]:
    runs = group.records
    out: dict[str, Any] = {"env": group.env_id, "task": entry(group.env_id).task, "model": group.model}
    out |= {"variant": group.variant, "title": group.title, "seeds": [int(run["seed"]) for run in runs]}
    for name in [name for name in dict.fromkeys((split, "valid")) if all(name in run for run in runs)]:
        out[name] = {m: mean_interval([run[name][m] for run in runs]).to_json() for m in METRICS}
    out |= {"slices": _slice_means(runs)} | _cost(runs)
    out["to_95"] = [steps_to(run.get("curve") or {}) for run in runs]
    spreads = [run["reward_spread"] for run in runs if run.get("reward_spread")]
    out["reward_spread"] = {n: float(np.mean([s[n] for s in spreads])) for n in spreads[0]} if spreads else {}
    start = {} if base is None else {run["seed"]: run for run in base.records}
    pairs = [(run, start[run["seed"]]) for run in runs if run["seed"] in start]
    if base is None or not pairs:
        return out
    out["gain"] = {m: relative([(a[split][m], b[split][m]) for a, b in pairs]) for m in METRICS}
    differences = {m: mean_interval([a[split][m] - b[split][m] for a, b in pairs]) for m in METRICS}
    out["difference"] = {m: _with_zero(interval) for m, interval in differences.items()}
    out["slice_gain"] = {
        name: {m: relative([(_slice(a, name, m), _slice(b, name, m)) for a, b in pairs]) for m in SLICED}
        for name in SLICES
    }
    ids = drawn_together([group, base])
    over = [found for run in runs if (found := _over_users(run, start.get(run["seed"]), ids)) is not None]
    out["users_sure"] = sum(side_of_zero(found["low"], found["high"]) > 0 for found in over)
    out["over_users"] = over
    return out


def _over_users(run: Record, start: Record | None, ids: Ids | None) -> Mapping[str, float | None] | None:
    """A record's NDCG@20 less its start's with its interval over users; None where it has none.

    Older records of rows hold an interval that draws each row alone. It is worked out again where both hold
    values of single rows, and ``ids`` (n,) states whose these are.
    """
    known: Mapping[str, float | None] | None = (run.get("over_parent") or {}).get("ndcg@20")
    if known is None or start is None or ids is None:
        return known
    if not all("ndcg@20" in (record.get("per_user") or {}) for record in (run, start)):
        return known
    return over_users(start, run, "ndcg@20", ids)


def steps_to(curve: Mapping[str, Sequence[float]], share: float = 0.95) -> float | None:
    """The steps after which validation had first made a share of its greatest gain; None without any gain.

    Example:
        >>> steps_to({"steps": [0, 10, 20, 30], "valid/ndcg@20": [0.1, 0.15, 0.198, 0.2]})
        20.0
    """
    values, steps = curve.get("valid/ndcg@20") or [], curve.get("steps") or []
    if not values or not steps or max(values) <= values[0]:
        return None
    wanted = values[0] + share * (max(values) - values[0])
    return float(next(s for s, value in zip(steps, values, strict=True) if value >= wanted))


def _slice_means(runs: Sequence[Record]) -> dict[str, Any]:
    """Sizes and means over seeds of the slices that all records have."""
    known = [name for name in SLICES if all(name in (run.get("slices") or {}) for run in runs)]
    return {
        name: {"users": runs[0]["slices"][name]["users"]}
        | {m: _over([_slice(run, name, m) for run in runs]) for m in SLICED}
        for name in known
    }


def _slice(run: Record, name: str, metric: str) -> float | None:
    """A slice's metric; None where the record has no such slice, or nobody is in it."""
    value = ((run.get("slices") or {}).get(name) or {}).get(metric)
    return None if value is None else float(value)


def _cost(runs: Sequence[Record]) -> dict[str, Any]:
    """Means over seeds of time and work, the worst seed's memory."""
    cost = [run["cost"] for run in runs]
    return {
        "seconds": float(np.mean([seconds_of(c) for c in cost])),
        "peak_memory_mib": max(c.get("peak_device_memory_mib") or c["peak_memory_mib"] for c in cost),
        "device": " and ".join(sorted({str(run.get("device", "cpu")) for run in runs})),
        "work": mean_work(runs),
        "budget": sorted(units_of(runs)),
        "env_steps": float(np.mean([run.get("env_steps") or 0 for run in runs])),
        "best_at": [run.get("best_at") for run in runs],
    }


def seconds_of(cost: Mapping[str, Any]) -> float:
    """Wall-clock time of training, and of validation where it was timed apart from it."""
    return float(cost["training_seconds"]) + float(cost["validation_seconds"] or 0.0)


def gain(after: Record, before: Record, metric: str, split: str = "test") -> float | None:
    """The relative gain of one record over another; None where the other's metric is 0.

    Example:
        >>> gain({"test": {"ndcg@20": 0.5}}, {"test": {"ndcg@20": 0.25}}, "ndcg@20")
        1.0
    """
    old = float(before[split][metric])
    return None if old == 0 else float(after[split][metric]) / old - 1.0


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
    return _with_zero(
        mean_interval([after / before - 1 for after, before in pairs if after is not None and before])
    )


def _with_zero(interval: Interval) -> dict[str, Any]:
    """An interval, and whether it excludes zero."""
    return interval.to_json() | {"excludes_zero": side_of_zero(interval.low, interval.high) != 0}


def _over(values: Sequence[float | None]) -> dict[str, Any] | None:
    """The mean over seeds; None where a seed has no such value."""
    known = [value for value in values if value is not None]
    return mean_interval(known).to_json() if known and len(known) == len(values) else None
