"""The comparison of the study of fronts: the area under each front of one seed, and bootstrap differences.

Letters: U users, I items, K list length, P points, n measured users, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.experiments.frontier_job import NDCG, FrontJob
from agents.experiments.fronts import FLOOR, OF_COUNTS, Box, on_front, user_weights, weighted_goal
from agents.experiments.records import read_records
from refit_env.data import Dataset
from refit_env.data.rows import SparseRows, without
from refit_env.errors import DataError
from refit_env.evaluation.beyond_accuracy import OF_USERS, beyond_accuracy
from refit_env.evaluation.catalogue import catalogue_of
from refit_env.evaluation.metrics import ndcg_at_k
from refit_env.evaluation.ranking import Evaluation, evaluated_users
from refit_env.evaluation.reranking import OVER_USERS

BASE = "start"
"""Name of the point of the model itself."""
RESAMPLES = 60
"""R, of the bootstrap over users of one seed."""
EACH = "re-rankers of each list"
"""Name of the front of all re-rankers whose lists do not depend on other users, of the start and of the model
tuned for accuracy."""
ALL = "all re-rankers"
"""Name of the front of these and of the greedy assignments over users."""
SUPERVISED = "all supervised"
"""Name of the front of all supervised baselines together."""
ANY = "all runs"
"""Name of the front of all runs together."""
TOP = "all runs, re-ranked"
"""Name of the front of all runs and of re-rankers on their points."""
ON_TOP, TUNED = " + ", "tuned + "
"""Between a run's name and that of a re-ranker on its points; before that of one on the tuned model."""
Record = Mapping[str, Any]


def compared(job: FrontJob, whole: Dataset, measured: npt.NDArray[np.int64] | None) -> dict[str, Any]:
    """Return the areas of the fronts of one seed, and bootstrap values of their differences over users."""
    rows, lists = _of_others(job)
    users = evaluated_users(whole, "test", measured)
    start = rows[0]
    drawn = user_weights(whole.groups_of(users), RESAMPLES, job.seed)
    weights = np.concatenate([np.ones((1, len(users))), drawn])
    values = _weighted(job, whole, users, lists, weights)  # goal -> (P, R + 1)
    out: dict[str, Any] = {"start": {s: start[s] for s in ("valid", "test")}, "users": len(users)}
    return out | {"goals": {goal: _areas(job, goal, rows, values) for goal in job.goals}}


def _of_others(job: FrontJob) -> tuple[list[dict[str, Any]], npt.NDArray[np.int32]]:
    """Return the points of the seed's other cells, and their lists (P, n, K); the start comes first."""
    records, rows, lists = read_records(job.records), [], []
    for kind in ("post-hoc", "tuned", *job.runs, *job.supervised):
        record = records.get(job.key(kind))
        if record is None:
            raise DataError(f"{job.records}: there is no record of {job.key(kind)}")
        rows += record["points"]
        with np.load(job.folder / f"{job.key(kind)}.npz", allow_pickle=False) as found:
            lists.append(found["lists"])
    return rows, np.concatenate(lists)


def _weighted(
    job: FrontJob,
    whole: Dataset,
    users: npt.NDArray[np.int64],
    lists: npt.NDArray[np.int32],
    weights: npt.NDArray[np.float64],
) -> dict[str, npt.NDArray[np.float64]]:
    """Return NDCG and the goals of all points (P, R) under weights (R, n) of the users."""
    known, masked = catalogue_of(whole), (whole.masked("test")[users] > 0).astype(np.float64)
    out: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in (NDCG, *job.goals)}
    kinds = [goal.partition("@")[0] for goal in job.goals]
    truth = SparseRows(without(whole.test.csr, whole.masked("test")))
    relevant = torch.nn.functional.pad(truth.mask(torch.from_numpy(users)), (0, 1))  # (n, I + 1)
    for own in lists.astype(np.int64):
        scores = evaluation_of(users, relevant, own)
        per_user = beyond_accuracy(scores, whole, "test", [k for k in kinds if k in OF_USERS]).per_user
        out[NDCG].append(weights @ scores.per_user[NDCG] / len(users))
        for goal, kind in zip(job.goals, kinds, strict=True):
            value = None if kind in OF_COUNTS else per_user[goal]
            out[goal].append(weighted_goal(kind, own, value, weights, known, masked))
    return {name: np.stack(each) for name, each in out.items()}


def evaluation_of(users: npt.NDArray[np.int64], relevant: Tensor, lists: npt.NDArray[np.int64]) -> Evaluation:
    """Return the evaluation of given lists.

    Args:
        users: (n,) whose.
        relevant: (n, I + 1) bool, the relevant items; the last column, that of empty places, is False.
        lists: (n, K); -1 is an empty place.
    """
    num_items = relevant.shape[1] - 1
    shown = torch.from_numpy(lists) % (num_items + 1)  # (n, K)
    ndcg = ndcg_at_k(shown, relevant).double().numpy()  # (n,)
    return Evaluation(users, {f"ndcg@{lists.shape[1]}": ndcg}, len(users), lists, num_items)


def _areas(
    job: FrontJob, goal: str, rows: Sequence[Record], values: Mapping[str, npt.NDArray[np.float64]]
) -> dict[str, Any]:
    """Return the areas of each method, and of the best run less the best re-ranker, by resample."""
    x, y = values[NDCG], values[goal]  # (P, R + 1)
    start = x[0], y[0]  # (R + 1,) each
    box = Box.of(goal, float(start[1][0]), y[x[:, 0] >= FLOOR * x[0, 0], 0])
    methods = list(dict.fromkeys(row["method"] for row in rows if row["method"] != BASE))
    trained = [m for m in methods if m.partition(ON_TOP)[0] in job.runs]
    post_hoc = [m for m in methods if m not in (*trained, *job.supervised)]
    each = [m for m in post_hoc if m.removeprefix(TUNED) not in OVER_USERS]
    groups = {m: [m] for m in methods} | {EACH: each, ALL: post_hoc, ANY: list(job.runs), TOP: trained}
    groups |= {SUPERVISED: list(job.supervised)} if job.supervised else {}
    fronts = {name: _front(rows, members, goal, box) for name, members in groups.items()}
    areas = {
        name: np.array([box.area(x[p, r], y[p, r], (start[0][r], start[1][r])) for r in range(x.shape[1])])
        for name, p in fronts.items()
    }
    by_valid = {name: _valid_area(rows, members, goal) for name, members in groups.items()}
    best = max(each, key=lambda name: by_valid[name])
    out = {
        "areas": {name: round(float(found[0]), 5) for name, found in areas.items()},
        "best": best,
        "over_best": [round(float(v), 5) for v in areas[ANY][1:] - areas[best][1:]],
        "over_each": [round(float(v), 5) for v in areas[ANY][1:] - areas[EACH][1:]],
        "over_all": [round(float(v), 5) for v in areas[ANY][1:] - areas[ALL][1:]],
        "top_over_all": [round(float(v), 5) for v in areas[TOP][1:] - areas[ALL][1:]],
    }
    if job.supervised:
        out["over_supervised"] = [round(float(v), 5) for v in areas[ANY][1:] - areas[SUPERVISED][1:]]
    return out


def _front(rows: Sequence[Record], members: Sequence[str], goal: str, box: Box) -> npt.NDArray[np.int64]:
    """Return the points of the start and of some methods that are on their front of validation."""
    places = np.array([n for n, row in enumerate(rows) if row["method"] in (BASE, *members)])
    x = np.array([rows[n]["valid"][NDCG] for n in places])
    y = np.array([box.sign * rows[n]["valid"][goal] for n in places])
    return np.asarray(places[on_front(x, y)])


def _valid_area(rows: Sequence[Record], members: Sequence[str], goal: str) -> float:
    """Return the area of some methods' points on validation."""
    chosen = [row["valid"] for row in rows if row["method"] in (BASE, *members)]
    start = rows[0]["valid"]
    every = [row["valid"] for row in rows if row["valid"][NDCG] >= FLOOR * start[NDCG]]
    box = Box.of(goal, start[goal], np.array([means[goal] for means in every]))
    x, y = (np.array([row[name] for row in chosen]) for name in (NDCG, goal))
    return box.area(x, y, (start[NDCG], start[goal]))
