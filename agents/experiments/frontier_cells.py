"""What a cell of the study of fronts does: points of re-rankers, of fine-tuned models, or their comparison.

Letters: K list length, P points, n measured users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.algorithms.registry import algorithm
from agents.experiments.frontier_areas import BASE, ON_TOP, TUNED, compared
from agents.experiments.frontier_job import NDCG, FrontJob
from agents.runs.profiling import Usage, measure
from agents.training.closed_form_search import fitted_policy
from agents.training.fine_tuner import FineTuner
from agents.training.tensors import resolve_device
from refit_env.data import Dataset, load_dataset
from refit_env.evaluation.beyond_accuracy import means_of
from refit_env.evaluation.ranking import Evaluation, ScoreFunction, evaluate, evaluated_users
from refit_env.evaluation.reranking import reranked
from refit_env.policy import DiffusionPolicy
from refit_env.registration import entry
from refit_env.utils.atomic_io import atomic_path


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
