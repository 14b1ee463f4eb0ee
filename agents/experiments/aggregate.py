"""Statistics of the comparison: over seeds within an environment, and over environments.

Aggregates follow Agarwal et al. (arXiv 2108.13264): the interquartile mean over runs of all environments with
a stratified bootstrap, and the probability of improvement. Scores are relative gains over "no training" of
the same seed, since environments differ in the height of their metrics and seeds in their checkpoints.

Letters: S seeds, E environments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.experiments.budgets import mean_work, units_of
from agents.experiments.rows import BASE, RIVAL
from refit_env.evaluation.statistics import FloatArray, Interval, mean_interval, stratified_bootstrap

Results = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""Environment -> row -> finished results, in order of their seeds."""


def by_row(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[Mapping[str, Any]]]]:
    """Sort the results of cells by environment and row; rows of which no seed is finished are left out."""
    out: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for result in results.values():
        out.setdefault(result["env"], {}).setdefault(result["row"], []).append(result)
    for rows in out.values():
        for runs in rows.values():
            runs.sort(key=lambda run: int(run["seed"]))
    return out


def over_seeds(runs: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row's figures: means over seeds with Student's intervals, and what it cost.

    Args:
        runs: the row's finished results.
        base: those of "no training"; differences are taken seed by seed.

    Returns:
        ``test``, ``valid``, ``difference`` and ``relative_gain``, an interval a metric each (None where a
        pretrained model's is 0); ``seconds``, ``work``, ``budget`` (its units, of a control),
        ``peak_memory_mib``, ``env_steps`` and ``seeds``.
    """
    start = {run["seed"]: run for run in base}
    pairs = [(run, start[run["seed"]]) for run in runs if run["seed"] in start]
    metrics = list(runs[0]["test"])
    out: dict[str, Any] = {
        split: {m: mean_interval([run[split][m] for run in runs]).to_json() for m in metrics}
        for split in ("test", "valid")
    }
    if pairs and runs[0]["row"] != BASE:
        out["difference"] = {
            m: _judged(mean_interval([run["test"][m] - b["test"][m] for run, b in pairs])) for m in metrics
        }
        out["relative_gain"] = {m: _mean_of([gain(run, b, m) for run, b in pairs]) for m in metrics}
    cost = [run["cost"] for run in runs]
    out["seconds"] = float(np.mean([c["training_seconds"] + c["validation_seconds"] for c in cost]))
    out["training_seconds"] = float(np.mean([c["training_seconds"] for c in cost]))
    out["peak_memory_mib"] = max(c["peak_memory_mib"] for c in cost)
    out["env_steps"] = float(np.mean([run["env_steps"] for run in runs]))
    out["work"] = mean_work(runs)
    out["budget"] = sorted(units_of(runs))
    return out | {"seeds": [run["seed"] for run in runs]}


def gain(after: Mapping[str, Any], before: Mapping[str, Any], metric: str) -> float | None:
    """The relative gain of one cell over another on test; None where the other's metric is 0.

    Example:
        >>> gain({"test": {"ndcg@20": 0.5}}, {"test": {"ndcg@20": 0.25}}, "ndcg@20")
        1.0
    """
    old = float(before["test"][metric])
    return None if old == 0 else float(after["test"][metric]) / old - 1.0


def without_gains(results: Results, metric: str = "ndcg@20") -> list[str]:
    """The environments in which a pretrained model's metric is 0, so that there are no relative gains."""
    return [
        env for env, rows in results.items() if any(run["test"][metric] == 0 for run in rows.get(BASE, []))
    ]


def over_environments(results: Results, metric: str = "ndcg@20") -> dict[str, dict[str, Any]]:
    """Aggregates of the rows that have the same seeds finished in every environment.

    Environments without relative gains (``without_gains``) are left out.

    Returns:
        Row -> ``iqm``, the interquartile mean of relative gains, and ``improvement``, the probability to
        improve on REINFORCE (absent where REINFORCE is, and for itself), both with 95 % intervals.
    """
    left_out = without_gains(results, metric)
    tables = gain_tables({env: rows for env, rows in results.items() if env not in left_out}, metric)
    out: dict[str, dict[str, Any]] = {}
    for row, scores in tables.items():
        out[row] = {"iqm": stratified_bootstrap(scores).to_json()}
        if RIVAL in tables and row != RIVAL:
            out[row]["improvement"] = improvement(scores, tables[RIVAL]).to_json()
    return out


def gain_tables(results: Results, metric: str) -> dict[str, FloatArray]:
    """Row -> (S, E) relative gains over "no training" of the same seed; complete rows alone.

    Args:
        results: of environments that have relative gains.
        metric: on test.
    """
    seeds = {env: [run["seed"] for run in rows.get(BASE, [])] for env, rows in results.items()}
    shared = next(iter(seeds.values()), [])
    if not shared or any(own != shared for own in seeds.values()):
        return {}
    names = [row for row in next(iter(results.values())) if row != BASE]
    tables = {}
    for row in names:
        columns = [rows.get(row, []) for rows in results.values()]
        if all([run["seed"] for run in column] == shared for column in columns):
            table = [
                [gain(run, base, metric) for run, base in zip(rows[row], rows[BASE], strict=True)]
                for rows in results.values()
            ]
            tables[row] = np.array(table, dtype=np.float64).T  # (S, E)
    return tables


def improvement(scores: npt.ArrayLike, rival: npt.ArrayLike) -> Interval:
    """Probability that a run of one algorithm is better than a run of another, a tie counting half.

    Args:
        scores: (S, E).
        rival: (S, E); its runs are resampled independently.

    Returns:
        The mean over environments of P(X > Y) (Mann-Whitney's statistic over all pairs of seeds), with its
        stratified bootstrap interval.

    Example:
        >>> improvement([[0.1], [0.3]], [[0.2], [0.0]]).mean
        0.75
    """
    both = np.concatenate([np.asarray(scores, float), np.asarray(rival, float)], axis=1)  # (S, 2 E)
    return stratified_bootstrap(both, _mann_whitney)


def _mann_whitney(both: FloatArray) -> float:
    """P(X > Y) + P(X = Y) / 2, averaged over environments, of X and Y side by side (S, 2 E)."""
    x, y = np.split(both, 2, axis=1)  # (S, E), (S, E)
    wins = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])  # (S, S, E)
    return float(wins.mean())


def _mean_of(gains: Sequence[float | None]) -> dict[str, Any] | None:
    """The mean over seeds with its interval; None where a seed has no gain."""
    known = [value for value in gains if value is not None]
    return mean_interval(known).to_json() if len(known) == len(gains) else None


def _judged(interval: Interval) -> dict[str, Any]:
    """An interval, and whether it lies wholly on one side of zero."""
    known = math.isfinite(interval.low) and math.isfinite(interval.high)
    return interval.to_json() | {"excludes_zero": known and (interval.low > 0 or interval.high < 0)}
