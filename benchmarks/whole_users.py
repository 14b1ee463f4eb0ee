"""Intervals of published records over rows, and over the users or sessions that the rows belong to.

    REFIT_DATA_HOME=FOLDER python -m benchmarks.whole_users

Leaderboards draw each test row of a data set in order of time alone, but rows of one user or session are not
independent. This draws whole users or sessions, too. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.experiments.per_user import values_of
from agents.experiments.records import read_records
from refit_env.data import load_dataset
from refit_env.evaluation.ranking import evaluated_users
from refit_env.evaluation.statistics import PairedBootstrap, paired_bootstraps

RESULTS = Path(__file__).parent / "results"
BASELINES = {"NYC": "most-visited", "TKY": "fpmc", "YooChoose": "item-knn", "KuaiRec": "user-knn"}
"""The best baseline of each environment."""
BEST, START = "stacked_ranking-reinforce", "stacked_ranking"


def mean_of_seeds(records: Mapping[str, Any], start: str) -> npt.NDArray[np.float64]:
    """Return NDCG@20 of each row (n,), the mean over the seeds of the records whose keys start so.

    Args:
        records: by key.
        start: of their keys, all but the seed.

    Raises:
        KeyError: if there is none.
    """
    ours = [record for key, record in records.items() if key.startswith(f"{start}_seed")]
    found = [values_of(record, "ndcg@20") for record in ours]
    if not found:
        raise KeyError(f"no record of {start}")
    return np.asarray(np.mean(found, axis=0), np.float64)


def differences(name: str, records: Mapping[str, Any]) -> dict[str, dict[str, PairedBootstrap]]:
    """Return the differences of an environment, each ``alone`` and ``together``.

    Args:
        name: of ``BASELINES``.
        records: of the studies ``stacked`` and ``leaderboards``, by key.
    """
    rows = load_dataset(name.lower()).episodes
    groups = rows.groups_of(evaluated_users(rows, "test"))  # (n,)
    env = f"ReFiT-{name}-v0"
    best = mean_of_seeds(records, f"{env}_{BEST}")
    others = {f"less {BASELINES[name]}": f"{env}_{BASELINES[name]}", "less cross-entropy": f"{env}_{START}"}
    out = {}
    for title, key in others.items():
        other = {"ndcg@20": mean_of_seeds(records, key)}
        out[title] = {
            how: paired_bootstraps(other, {"ndcg@20": best}, groups=drawn, resamples=2_000)["ndcg@20"]
            for how, drawn in (("alone", None), ("together", groups))
        }
    return out


def main() -> None:
    """Print a line for each difference."""
    records = read_records(RESULTS / "leaderboards.jsonl") | read_records(RESULTS / "stacked.jsonl")
    for name in BASELINES:
        for title, found in differences(name, records).items():
            ends = ", ".join(f"{how} [{one.low:+.4f}, {one.high:+.4f}]" for how, one in found.items())
            mean = found["alone"].mean_difference
            print(f"{name}, stacked + cross-entropy + REINFORCE {title}: {mean:+.4f}, {ends}")


if __name__ == "__main__":
    main()
