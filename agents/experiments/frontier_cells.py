"""What a cell of the study of fronts does: points of re-rankers, points of a fine-tuning, the comparison.

Letters: B users in a batch, U users, I items, K list length, P points, n measured users, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.algorithms.registry import algorithm
from agents.experiments.fronts import FLOOR, OF_COUNTS, Box, on_front, user_weights, weighted_goal
from agents.experiments.records import read_records
from agents.runs.profiling import Usage, measure
from agents.training.closed_form_search import fitted_policy
from agents.training.config import TrainerConfig
from agents.training.fine_tuner import FineTuner
from agents.training.tensors import resolve_device
from refit_env.data import Dataset, load_dataset
from refit_env.data.rows import SparseRows, without
from refit_env.errors import DataError
from refit_env.evaluation.beyond_accuracy import OF_USERS, beyond_accuracy, means_of
from refit_env.evaluation.catalogue import catalogue_of
from refit_env.evaluation.metrics import ndcg_at_k
from refit_env.evaluation.ranking import Evaluation, ScoreFunction, evaluate, evaluated_users
from refit_env.evaluation.reranking import OVER_USERS, reranked
from refit_env.policy import DiffusionPolicy
from refit_env.registration import entry
from refit_env.utils.atomic_io import atomic_path

NDCG = "ndcg@20"
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


@dataclass(frozen=True)
class FrontJob:
    """One cell."""

    place: str
    """The environment and its protocol."""
    env_id: str
    """The environment."""
    kind: str
    """``post-hoc``, ``tuned``, ``fronts``, or the name of a run or supervised baseline."""
    seed: int
    """Of the users kept apart, of the hold-outs, of the noise."""
    goals: tuple[str, ...]
    """Metrics beyond accuracy."""
    backbone: str
    """A closed form."""
    options: Mapping[str, Any]
    """Its settings."""
    later: float
    """Share of the users who are kept apart."""
    relevance: str
    """Of the reward."""
    reward: Mapping[str, float]
    """Of a run."""
    reward_kwargs: Mapping[str, Any]
    """Of a run."""
    agent: TrainerConfig | None
    """Of a run."""
    rerank: Mapping[str, tuple[float, ...]]
    """Re-ranker -> strengths."""
    rerank_at: tuple[int, ...]
    """Of a run: the iterations whose points are re-ranked, too."""
    runs: tuple[str, ...]
    """Of ``fronts``: the runs."""
    records: Path
    """File of the records."""
    folder: Path
    """Folder of the lists."""
    device: str
    """Where it runs."""
    algorithm: str = "reinforce"
    """Of a run or supervised baseline."""
    supervised: tuple[str, ...] = ()
    """Of ``fronts``: the supervised baselines."""

    def key(self, kind: str = "") -> str:
        """Return the key of this cell's record, or of another kind's of the same environment and seed."""
        place = self.place.replace(", ", "-").replace(" ", "-")
        return f"{place}_{kind or self.kind}_seed{self.seed}"

    @property
    def lists(self) -> Path:
        """The file of its lists."""
        return self.folder / f"{self.key()}.npz"


def run_front_job(job: FrontJob) -> dict[str, Any]:
    """Return what a cell's record holds besides settings and provenance."""
    whole = load_dataset(entry(job.env_id).dataset or "").episodes
    known, measured = known_users(whole, job)
    with measure() as usage:
        if job.runs:
            out: dict[str, Any] = compared(job, whole, measured)
        else:
            points = Points(job, whole, measured)
            _make[job.kind if job.kind in _make else RUN](job, known, points)
            points.save()
            out = {"points": points.rows, "users": len(points.users)}
    start = out["points"][0] if "points" in out else out["start"]
    shown = {split: start[split] for split in ("valid", "test")}
    return _facts(job, usage) | shown | out


def known_users(whole: Dataset, job: FrontJob) -> tuple[Dataset, npt.NDArray[np.int64] | None]:
    """Return the data set without the users kept apart, and those users; None: all are measured."""
    if not job.later:
        return whole, None
    order = np.random.default_rng(job.seed).permutation(whole.num_users)
    later = np.sort(order[: round(job.later * whole.num_users)]).astype(np.int64)
    train, valid, test = (
        rows.select(~np.isin(rows.users, later)) for rows in (whole.train, whole.valid, whole.test)
    )
    return replace(whole, train=train, valid=valid, test=test, origin=whole.fingerprint), later


class Points:
    """The points of a cell: metrics of both splits, and the lists of the test split.

    Attributes:
        rows: for each point its ``name``, its ``method``, and the metrics ``valid`` and ``test``.
        users: (n,) measured users of the test split.
    """

    def __init__(self, job: FrontJob, whole: Dataset, measured: npt.NDArray[np.int64] | None) -> None:
        """Begin without points."""
        self.job, self.whole, self.measured = job, whole, measured
        self.users = evaluated_users(whole, "test", measured)
        self.rows: list[dict[str, Any]] = []
        self._lists: list[npt.NDArray[np.int32]] = []

    def add(self, method: str, name: str, scores: Mapping[str, ScoreFunction] | ScoreFunction) -> None:
        """Measure a model on both splits."""
        row: dict[str, Any] = {"method": method, "name": name}
        for split in ("valid", "test"):
            score = scores[split] if isinstance(scores, Mapping) else scores
            found = self.evaluation(score, split)
            means = means_of(found, self.whole, split, self.job.goals)
            row[split] = {m: round(float(means[m]), 5) for m in (NDCG, *self.job.goals)}
        self.rows.append(row)
        self._lists.append(found.lists.astype(np.int32))

    def evaluation(self, score: ScoreFunction, split: str) -> Evaluation:
        """Return the evaluation of the measured users."""
        return evaluate(score, self.whole, split, ks=(20,), users=self.measured, device=self.job.device)

    def save(self) -> None:
        """Write the lists (P, n, K)."""
        self.job.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.job.lists) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, lists=np.stack(self._lists))


def _post_hoc(job: FrontJob, known: Dataset, points: Points) -> None:
    """Add the points of all re-rankers of the start."""
    score = _start(job, known).scorer(points.whole)
    points.add(BASE, BASE, score)
    _rerank(job, score, points, "")


def _tuned(job: FrontJob, known: Dataset, points: Points) -> None:
    """Add the points of all re-rankers of a model that was fine-tuned for accuracy and chosen by it."""
    policy = _start(job, known)
    result = _agent(job, known, policy).learn()
    score = policy.scorer(points.whole)
    points.add(TUNED.strip(" +"), f"{result.best_iteration}", score)
    _rerank(job, score, points, TUNED)


def _start(job: FrontJob, known: Dataset) -> DiffusionPolicy:
    """Return the policy that training and re-ranking begin with."""
    return fitted_policy(known, job.backbone, job.options, 1, resolve_device(job.device))


def _agent(job: FrontJob, known: Dataset, policy: DiffusionPolicy) -> FineTuner:
    """Return the agent of a run, on the users who are known."""
    assert job.agent is not None
    kwargs: dict[str, Any] = {"data": known, "reward": dict(job.reward), "relevance": job.relevance}
    kwargs |= {"reward_kwargs": dict(job.reward_kwargs)} if job.reward_kwargs else {}
    kind = algorithm(job.algorithm)
    return kind(policy, job.env_id, job.agent, env_kwargs=kwargs, seed=job.seed, device=job.device)


def _rerank(job: FrontJob, score: ScoreFunction, points: Points, prefix: str) -> None:
    """Add the points of all re-rankers of a model; ``prefix`` names the model."""
    for name, strengths in job.rerank.items():
        if job.later and name == "cover":
            continue  # it needs all later users at once
        for strength in strengths:
            both = {
                split: reranked(
                    name, score, points.whole, split, users=points.measured, k=20, strength=strength
                )
                for split in ("valid", "test")
            }
            points.add(prefix + name, f"{prefix}{name} {strength:g}", both)


def _run(job: FrontJob, known: Dataset, points: Points) -> None:
    """Add the start of a run and a point for each of its validations."""
    policy = _start(job, known)
    agent, score = _agent(job, known, policy), policy.scorer(points.whole)
    points.add(job.kind, "0", score)

    def validated(learner: FineTuner, scalars: Mapping[str, float]) -> None:
        if f"valid/{NDCG}" in scalars:
            points.add(job.kind, f"{learner.iteration}", score)
        if learner.iteration in job.rerank_at:
            _rerank(job, score, points, f"{job.kind}{ON_TOP}")

    if agent.learn(callback=validated).interrupted:
        raise KeyboardInterrupt


RUN, FRONTS = "run", "fronts"
_make = {"post-hoc": _post_hoc, "tuned": _tuned, RUN: _run}


def compared(job: FrontJob, whole: Dataset, measured: npt.NDArray[np.int64] | None) -> dict[str, Any]:
    """Return the areas of the fronts of one seed, and bootstrap values of their differences over users."""
    rows, lists = _of_others(job)
    users = evaluated_users(whole, "test", measured)
    start = rows[0]
    weights = np.concatenate([np.ones((1, len(users))), user_weights(len(users), RESAMPLES, job.seed)])
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


def _facts(job: FrontJob, usage: Usage) -> dict[str, Any]:
    """Return what every record of the study holds."""
    return {
        "env": job.env_id,
        "place": job.place,
        "variant": job.kind,
        "model": job.backbone,
        "seed": job.seed,
        "split": "test",
        "device": job.device,
        "cost": usage.to_json(),
    }
