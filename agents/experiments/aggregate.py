"""Statistics of a study over environments.

Aggregates follow Agarwal et al. (arXiv 2108.13264): the interquartile mean over runs of all environments with
a stratified bootstrap, and the probability of improvement. Scores are relative gains over the root variant
("no training") of the same seed, since environments differ in the height of their metrics and seeds in their
checkpoints.

Letters: S seeds, E environments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.experiments.summary import Record, Runs, gain
from refit_env.evaluation.statistics import FloatArray, Interval, stratified_bootstrap

Results = Mapping[str, Mapping[str, Sequence[Record]]]
"""Environment -> variant -> finished records, in order of their seeds."""
BASE, REINFORCE = "pretrained", "reinforce"
"""The variant that gains are over, and the one that others are to improve on."""


def by_variant(groups: Sequence[Runs]) -> dict[str, dict[str, Sequence[Record]]]:
    """The records of each environment's default model by variant; the first model's where it has several."""
    out: dict[str, dict[str, Sequence[Record]]] = {}
    models: dict[str, str] = {}
    for group in groups:
        if models.setdefault(group.env_id, group.model) == group.model:
            out.setdefault(group.env_id, {})[group.variant] = group.records
    return out


def by_start(groups: Sequence[Runs]) -> dict[str, dict[str, Sequence[Record]]]:
    """The records of each start by variant: of each environment, and of each model where it has several."""
    models: dict[str, set[str]] = {}
    for group in groups:
        models.setdefault(group.env_id, set()).add(group.model)
    out: dict[str, dict[str, Sequence[Record]]] = {}
    for group in groups:
        several = len(models[group.env_id]) > 1
        start = f"{group.env_id}, {group.model}" if several else group.env_id
        out.setdefault(start, {})[group.variant] = group.records
    return out


def without_gains(results: Results, metric: str = "ndcg@20") -> list[str]:
    """The environments in which a pretrained model's metric is 0, so that there are no relative gains."""
    return [
        env for env, rows in results.items() if any(run["test"][metric] == 0 for run in rows.get(BASE, []))
    ]


def over_environments(results: Results, metric: str = "ndcg@20") -> dict[str, dict[str, Any]]:
    """Aggregates of the variants that have the same seeds finished in every environment.

    Environments without relative gains (``without_gains``) are left out.

    Returns:
        Variant -> ``iqm``, the interquartile mean of relative gains, and ``improvement``, the probability to
        improve on REINFORCE (absent where REINFORCE is, and for itself), both with 95 % intervals.
    """
    left_out = without_gains(results, metric)
    tables = gain_tables({env: rows for env, rows in results.items() if env not in left_out}, metric)
    out: dict[str, dict[str, Any]] = {}
    for row, scores in tables.items():
        out[row] = {"iqm": stratified_bootstrap(scores).to_json()}
        if REINFORCE in tables and row != REINFORCE:
            out[row]["improvement"] = improvement(scores, tables[REINFORCE]).to_json()
    return out


def gain_tables(results: Results, metric: str) -> dict[str, FloatArray]:
    """Variant -> (S, E) relative gains over "no training" of the same seed; complete variants alone.

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


def improvement(scores: npt.ArrayLike, other: npt.ArrayLike) -> Interval:
    """Probability that a run of one algorithm is better than a run of another, a tie counting half.

    Args:
        scores: (S, E).
        other: (S, E); its runs are resampled independently.

    Returns:
        The mean over environments of P(X > Y) (Mann-Whitney's statistic over all pairs of seeds), with its
        stratified bootstrap interval.

    Example:
        >>> improvement([[0.1], [0.3]], [[0.2], [0.0]]).mean
        0.75
    """
    both = np.concatenate([np.asarray(scores, float), np.asarray(other, float)], axis=1)  # (S, 2 E)
    return stratified_bootstrap(both, _mann_whitney)


def _mann_whitney(both: FloatArray) -> float:
    """P(X > Y) + P(X = Y) / 2, averaged over environments, of X and Y side by side (S, 2 E)."""
    x, y = np.split(both, 2, axis=1)  # (S, E), (S, E)
    wins = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])  # (S, S, E)
    return float(wins.mean())
