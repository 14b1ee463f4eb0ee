"""The study of fronts: its file, and its cells.

Of each environment and seed a share of the users is kept apart. They are in no training: their train items
are the input of the model, their validation items choose the points of a front, their test items measure it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from agents.algorithms.registry import settings_class
from agents.experiments.frontier_cells import run_front_job
from agents.experiments.frontier_job import FrontJob
from agents.experiments.job import CHECKPOINTS
from agents.experiments.records import Cell
from agents.experiments.resolve import changed
from agents.hyperparams.yaml_files import check_name, listed, located, mapping, read_yaml, settings
from agents.training.config import TrainerConfig
from refit_env.backbones import backbone_config
from refit_env.errors import DataError, unknown_name
from refit_env.evaluation.reranking import RERANKERS, rerankers_for
from refit_env.evaluation.selection import BEYOND
from refit_env.registration import entry
from refit_env.settings import Bounded, Nonnegative, check_setting

POST_HOC, TUNED, FRONTS = "post-hoc", "tuned", "fronts"
"""Cells besides runs and baselines: re-rankers of the start, of the tuned model; the comparison."""
_KNOWN = (
    "kind", "title", "seeds", "goals", "rerank", "on_top", "on_top_at", "tuned", "runs", "supervised",
    "environments", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Run(Bounded):
    """One fine-tuning, each validation of which is a point."""

    reward: Mapping[str, float]
    """The reward, a weighted mix."""
    start: str = ""
    """Name of the start among those of the environment; empty: the base."""
    algorithm: str = "reinforce"
    """What trains."""
    preset: str = "default"
    """The named settings of the algorithm that it starts from."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the algorithm's settings."""
    reward_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the reward."""
    usual: bool = True
    """Whether environments that name no runs have it."""

    def config(self, changes: Mapping[str, Any]) -> TrainerConfig:
        """Return the settings, the environment's before the run's own."""
        given = {**changes, **self.settings}
        return changed(settings_class(self.algorithm).preset(self.preset), given, self.algorithm)


@dataclass(frozen=True)
class FrontPlace(Bounded):
    """One environment of the study."""

    backbone: str = "linear"
    """The start, a closed form."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Its settings."""
    starts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further starts: name -> changes to the settings."""
    later: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    """Share of the users who come later, kept apart from all training; 0: all users are trained on and
    measured."""
    relevance: str = "holdout"
    """Which items the reward counts as relevant."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the settings of the algorithms."""
    runs: tuple[str, ...] = ()
    """The runs and supervised baselines that it has; empty: the usual ones."""

    def has(self, name: str, run: Run) -> bool:
        """Return whether it has a run or supervised baseline."""
        return name in self.runs if self.runs else run.usual


@dataclass(frozen=True)
class FrontStudy:
    """The study's file."""

    name: str
    """Stem of its file."""
    title: str
    """Title of its report."""
    seeds: tuple[int, ...]
    """Seeds of the users kept apart, the hold-outs and the noise."""
    goals: tuple[str, ...]
    """Metrics beyond accuracy, each a pair with NDCG@20."""
    rerank: Mapping[str, tuple[float, ...]]
    """Re-ranker -> strengths."""
    on_top: Mapping[str, tuple[float, ...]]
    """Re-ranker -> strengths, on points of the runs."""
    on_top_at: tuple[int, ...]
    """The iterations of these points."""
    tuned: Run
    """Fine-tuning for accuracy alone, the other start of the re-rankers."""
    runs: Mapping[str, Run]
    """Name -> a fine-tuning by reinforcement learning."""
    supervised: Mapping[str, Run]
    """Fine-tunings without reinforcement learning, by name: their front is compared with that of the runs."""
    environments: Mapping[str, FrontPlace]
    """By id; ``ID, for diversity`` is another one on the same id."""
    note: str = ""
    """What a reader must know besides."""


def read_front_study(path: Path) -> FrontStudy:
    """Read the study.

    Raises:
        DataError: for what is wrong in the file: one line that names the file, the entry, and what would be
        right.
    """
    found, where = mapping(read_yaml(path), str(path), _KNOWN), str(path)
    goals = listed(found.get("goals", []), f"{where}: goals")
    for goal in goals:
        if str(goal).removesuffix("@20") not in BEYOND:
            raise DataError(f"{where}: goals: {unknown_name('metric', goal, [f'{b}@20' for b in BEYOND])}")
    rerank, on_top = (_strengths(found.get(name), f"{where}: {name}") for name in ("rerank", "on_top"))
    tuned = settings(Run, found.get("tuned") or {"reward": {"ndcg": 1.0}}, f"{where}: tuned")
    runs, supervised = (
        {
            name: settings(Run, body, f"{where}: {kind}, {name}")
            for name, body in mapping(found.get(kind) or {}, f"{where}: {kind}").items()
        }
        for kind in ("runs", "supervised")
    )
    if both := sorted(runs.keys() & supervised.keys()):
        raise DataError(
            f"{where}: {both[0]} is among the runs and among the supervised: give one another name"
        )
    trained = [("runs", *one) for one in runs.items()] + [("supervised", *one) for one in supervised.items()]
    places = {}
    known = [name for _, name, _ in trained]
    for env_id, body in mapping(found.get("environments"), f"{where}: environments").items():
        place = located(f"{where}: environments", lambda: _place(env_id, body, where))  # noqa: B023
        for kind, name, run in trained:
            located(f"{where}: {kind}, {name}", lambda: run.config(place.settings))  # noqa: B023
            if place.has(name, run) and run.start and run.start not in place.starts:
                raise DataError(f"{where}: {kind}, {name}: {unknown_name('start', run.start, place.starts)}")
        for name in place.runs:
            if name not in known:
                raise DataError(f"{where}: environments, {env_id}, runs: {unknown_name('run', name, known)}")
        places[env_id] = place
    for kind, name, _ in trained:
        check_name(name, f"{where}: {kind}")
        if name in RERANKERS:
            raise DataError(f"{where}: {kind}: {name} is a re-ranker: give the run another name")
    seeds = found.get("seeds", 5)
    return FrontStudy(
        path.stem,
        str(found.get("title", path.stem)),
        tuple(range(seeds)) if isinstance(seeds, int) else tuple(listed(seeds, f"{where}: seeds")),
        tuple(goals),
        rerank,
        on_top,
        tuple(listed(found.get("on_top_at", []), f"{where}: on_top_at")),
        tuned,
        runs,
        supervised,
        places,
        str(found.get("note", "")),
    )


def _strengths(value: Any, where: str) -> dict[str, tuple[float, ...]]:
    """Return re-ranker -> strengths; DataError for an unknown one, or strengths that are none."""
    body = mapping(value, where)
    located(where, lambda: rerankers_for(list(body)))
    out = {name: tuple(listed(given, f"{where}, {name}")) for name, given in body.items()}
    for name, given in out.items():
        for strength in given:
            located(f"{where}, {name}", lambda: check_setting("strength", strength, Nonnegative))  # noqa: B023
    return out


def _place(env_id: str, body: Any, where: str) -> FrontPlace:
    """Return one environment of the file; ValueError for an unknown id, DataError for wrong settings."""
    dataset = entry(env_of(env_id)).dataset or ""
    here = f"{where}: environments, {env_id}"
    place = settings(FrontPlace, body, here)
    starts: dict[str, Any] = {"options": {}} | {
        f"starts, {name}": changes for name, changes in place.starts.items()
    }
    for name, changes in starts.items():
        options = {**place.options, **mapping(changes, f"{here}, {name}")}
        located(f"{here}, {name}", lambda: backbone_config(place.backbone, dataset, options))  # noqa: B023
    return place


def env_of(name: str) -> str:
    """Return the id of an environment of the study.

    Example:
        >>> env_of("ReFiT-ML1M-v0, all users")
        'ReFiT-ML1M-v0'
    """
    return name.partition(",")[0]


def plan_fronts(
    study: FrontStudy,
    records: Path,
    *,
    envs: Sequence[str] = (),
    variants: Sequence[str] = (),
    seeds: int | None = None,
    device: str = "cpu",
) -> list[Cell]:
    """Return the cells: of each environment and seed one of re-ranking, one a run, one of the comparison.

    Args:
        study: whose.
        records: file of its records; lists are in a folder beside it.
        envs: environments; the study's own if empty.
        variants: runs, ``post-hoc`` or ``fronts``; all if empty. With ``fronts``, all.
        seeds: how many; those of the study if None.
        device: where cells run.

    Raises:
        ValueError: for an unknown environment or variant.
    """
    kinds = [POST_HOC, TUNED, *study.runs, *study.supervised, FRONTS]
    for name in variants:
        if name not in kinds:
            raise unknown_name(f"variant of {study.name}", name, kinds)
    wanted = kinds if not variants or FRONTS in variants else [k for k in kinds if k in variants]
    places, trained = _chosen(study, envs), {**study.runs, **study.supervised}
    chosen = study.seeds if seeds is None else tuple(range(study.seeds[0], study.seeds[0] + seeds))
    return [
        _cell(study, name, place, kind, seed, records, device)
        for seed in chosen
        for name, place in places.items()
        for kind in wanted
        if kind not in trained or place.has(kind, trained[kind])
    ]


def _chosen(study: FrontStudy, envs: Sequence[str]) -> dict[str, FrontPlace]:
    """Return the environments named, with all their protocols; all if none is named."""
    for env_id in envs:
        if not any(env_id in (name, env_of(name)) for name in study.environments):
            raise unknown_name(f"environment of {study.name}", env_id, study.environments)
    return {
        name: place
        for name, place in study.environments.items()
        if not envs or name in envs or env_of(name) in envs
    }


def _cell(
    study: FrontStudy, name: str, place: FrontPlace, kind: str, seed: int, records: Path, device: str
) -> Cell:
    """Return one cell."""
    folder = records.parent / CHECKPOINTS / study.name
    run = study.tuned if kind == TUNED else {**study.runs, **study.supervised}.get(kind)
    runs, supervised = (
        tuple(other for other, found in group.items() if place.has(other, found))
        for group in (study.runs, study.supervised)
    )
    job = FrontJob(
        place=name,
        env_id=env_of(name),
        kind=kind,
        seed=seed,
        goals=study.goals,
        backbone=place.backbone,
        options=dict(place.options) | dict(place.starts.get(run.start if run else "", {})),
        later=place.later,
        relevance=place.relevance,
        reward=dict(run.reward) if run else {},
        reward_kwargs=dict(run.reward_kwargs) if run else {},
        algorithm=run.algorithm if run else "reinforce",
        agent=run.config(place.settings) if run else None,
        rerank=_rerank_of(study, kind),
        rerank_at=study.on_top_at if kind in study.runs else (),
        runs=runs if kind == FRONTS else (),
        supervised=supervised if kind == FRONTS else (),
        records=records,
        folder=folder,
        device=device,
    )
    others = (POST_HOC, TUNED, *runs, *supervised)
    needs = tuple(job.key(other) for other in others) if kind == FRONTS else ()
    decided = {  # settings as their class: a field that was added later counts as its default
        f.name: getattr(job, f.name)
        for f in fields(job)
        if f.name not in ("records", "folder", "device") and getattr(job, f.name) != f.default
    }
    leaves = None if kind == FRONTS else job.lists
    data = entry(job.env_id).dataset or ""
    return Cell(job.key(), run_front_job, (job,), decided | {"env": job.env_id}, data, needs, leaves)


def _rerank_of(study: FrontStudy, kind: str) -> dict[str, tuple[float, ...]]:
    """Return the re-rankers of a cell and their strengths."""
    if kind == FRONTS:
        return {}
    return dict(study.rerank if kind in (POST_HOC, TUNED) else study.on_top)
