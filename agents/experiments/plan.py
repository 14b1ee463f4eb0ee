"""The cells of a study: environment x model x variant x seed, each with what decides its result."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.baselines import baseline
from agents.experiments.job import CHECKPOINTS, Job
from agents.experiments.making import run_job
from agents.experiments.records import Cell
from agents.experiments.resolve import env_of, settings_of
from agents.experiments.spec import BASELINE, CONTINUE, FINETUNE, PRETRAIN, SB3, Place, Variant
from agents.experiments.study import Study
from agents.experiments.training import sees_validation
from agents.hyperparams.models import FOLDER, Model, baseline_settings
from agents.runs.files import POLICY
from refit_env.backbones import backbone_config
from refit_env.errors import DataError, SettingError, did_you_mean
from refit_env.registration import entry
from refit_env.rewards import models_in
from refit_env.utils.user_code import source_of, sources_in

MORE_DATA = "train items, and the validation items that fine-tuning was rewarded for"
"""What further training is on where the reward sees validation items: the same information."""


def plan(
    study: Study,
    records: Path,
    *,
    env_ids: Sequence[str] = (),
    models: Sequence[str] = (),
    variants: Sequence[str] = (),
    seeds: int | None = None,
    device: str = "cpu",
    large: bool = False,
) -> list[Cell]:
    """The cells of a study, seed by seed, so that a table of the first seeds comes first.

    Args:
        study: whose.
        records: file of its records; checkpoints are in a folder beside it.
        env_ids: environments; the study's own if empty.
        models: names of models; those of the study if empty.
        variants: keys of variants, with which all that they need is made; the usual ones if empty.
        seeds: how many, from the first seed of the study; those of the study if None.
        device: where cells run, ``"cpu"`` or ``"cuda"``.
        large: whether models that need a GPU are taken where none is named.

    Raises:
        SettingError: for an unknown environment, model or variant.
        DataError: for settings that are wrong; the message names the file that has them.
    """
    envs = list(dict.fromkeys(env_ids or study.environments))
    places = {env_id: _place(study, env_id, named=bool(env_ids)) for env_id in envs}
    _check_named("model", models, {name for place in places.values() for name in place.models}, study)
    _check_named("variant", variants, {v.key for place in places.values() for v in place.variants}, study)
    jobs: list[Job] = []
    for env_id, place in places.items():
        for seed in _seeds(place, seeds):
            for name, model, variant in _rows(place, _chosen(place, variants), models, large):
                jobs.append(_job(study, env_id, place, name, model, variant, seed, records, device))
    jobs = [job for job in jobs if job.variant.make != BASELINE or _has_seed(job, jobs)]
    return [_cell(job, places[job.env_id]) for job in sorted(jobs, key=lambda job: job.seed)]


def _place(study: Study, env_id: str, *, named: bool) -> Place:
    """What the study does on an environment; a fault of one that was ``named`` states the option.

    Raises:
        SettingError: if the named environment is unknown, or the study cannot be run on it.
    """
    try:
        return study.place(env_id)
    except DataError:
        raise
    except ValueError as error:
        if not named:
            raise
        raise SettingError("env", f"{env_id}: {error}") from None


def _chosen(place: Place, names: Sequence[str]) -> list[Variant]:
    """The variants named and those that they need; the usual ones where none is named."""
    wanted = [v.key for v in place.variants if (v.key in names if names else v.usual)]
    keys, open_keys = set(wanted), list(wanted)
    while open_keys:
        found = set(place.variant(open_keys.pop()).needs()) - keys
        keys |= found
        open_keys += found
    return [variant for variant in place.variants if variant.key in keys]


def _seeds(place: Place, number: int | None) -> Iterable[int]:
    """The first seeds of a place, and those after them where it has fewer; all where no number is stated."""
    if number is None:
        return place.seeds
    more = range(max(place.seeds) + 1, max(place.seeds) + 1 + number)
    return (*place.seeds, *more)[:number]


def _check_named(kind: str, names: Sequence[str], known: Collection[str], study: Study) -> None:
    """Refuse models and variants that no environment has."""
    for name in names:
        if name not in known:
            fault = f"{name!r} is no {kind} of {study.name}.{did_you_mean(name, known)}"
            raise SettingError(f"{kind}s", f"{fault} Known: {', '.join(sorted(known))}.")


def _rows(
    place: Place, variants: Sequence[Variant], models: Sequence[str], large: bool
) -> Iterable[tuple[str, Model, Variant]]:
    """The models and variants of a place; a baseline is a row of no model."""
    first = next(iter(place.models.values()))
    yield from (("", first, variant) for variant in variants if variant.make == BASELINE)
    for name, model in place.models.items():
        if name not in models if models else model.gpu and not large:
            continue
        for variant in variants:
            left_out = variant.of_reward_models and not models_in(env_of(variant, model).get("reward", ""))
            if variant.make != BASELINE and not left_out and name in (variant.models or (name,)):
                yield name, model, variant


def _job(
    study: Study,
    env_id: str,
    place: Place,
    name: str,
    model: Model,
    variant: Variant,
    seed: int,
    records: Path,
    device: str,
) -> Job:
    """One cell's job."""
    if variant.make == BASELINE:
        chosen = baseline_settings(env_id, variant.algorithm)
        model = replace(model, variants={variant.key: chosen})
    try:
        found = settings_of(variant, model, place)
    except DataError:
        raise
    except ValueError as error:
        where = " of ".join(filter(None, (variant.key, name, env_id)))
        raise DataError(f"{_file_of(variant, model, place, study, env_id)}: {where}: {error}") from None
    return Job(
        env_id=env_id,
        model_name=name,
        model=model,
        variant=variant,
        seed=seed,
        settings=found,
        env=env_of(variant, model),
        budget=place.budget if variant.make in (FINETUNE, SB3) else None,
        split=study.split,
        per_user=study.per_user,
        records=records,
        runs=records.parent / CHECKPOINTS / study.name,
        keeps=any(other.parent == variant.key for other in (*study.variants, *place.variants)),
        device=device,
    )


def _file_of(variant: Variant, model: Model, place: Place, study: Study, env_id: str) -> Path:
    """The file with the settings that were refused: the study's, or that of the data set's models."""
    models = (study.environments.get(env_id) or {}).get("models", study.models)
    if variant.make != BASELINE and isinstance(models, Mapping):
        return study.path  # it states the models itself
    try:
        settings_of(variant, replace(model, variants={}), place)
    except ValueError:
        return study.path
    return FOLDER / f"{entry(env_id).dataset}.yml"


def _has_seed(job: Job, jobs: Sequence[Job]) -> bool:
    """Whether a baseline's cell is needed: of one without random numbers, the first seed's alone."""
    if baseline(job.variant.algorithm).seeded:
        return True
    return job.seed == next(j.seed for j in jobs if (j.env_id, j.variant) == (job.env_id, job.variant))


def _cell(job: Job, place: Place) -> Cell:
    """The cell of a job."""
    return Cell(
        job.key(),
        run_job,
        (job,),
        decided_by(job, place),
        entry(job.env_id).dataset or "",
        tuple(job.key(need) for need in job.variant.needs()),
        leaves=job.checkpoint / POLICY if job.keeps else None,
    )


def decided_by(job: Job, place: Place) -> dict[str, Any]:
    """What decides a cell's result: settings of the model, the variant and all that it needs."""
    row, variant = entry(job.env_id), job.variant
    out: dict[str, Any] = {"env": job.env_id, "variant": variant.key, "seed": job.seed, "split": job.split}
    if variant.make == BASELINE:
        fit = {"baseline": variant.algorithm, "settings": job.settings, "refit": variant.refit}
        return out | {variant.key: fit}
    model = job.model
    config = backbone_config(model.backbone, row.dataset or "", model.options, size=model.size)
    out |= {"model": job.model_name, "backbone": model.backbone, "config": config}
    if (source := source_of("backbone", model.backbone)) is not None:
        out |= {"backbone_sha256": source["sha256"]}
    out |= {"num_steps": model.num_steps or row.num_steps}
    names, open_names = [variant.key], [variant.key]
    while open_names:
        found = [need for need in place.variant(open_names.pop()).needs() if need not in names]
        names, open_names = names + found, open_names + found
    return out | {other.key: _part(other, model, place) for other in place.variants if other.key in names}


def _part(variant: Variant, model: Model, place: Place) -> dict[str, Any]:
    """What one variant adds to what decides a result."""
    out: dict[str, Any] = {"make": variant.make, "settings": settings_of(variant, model, place)}
    if variant.make == PRETRAIN:
        return out | ({"refit": True} if variant.refit else {})
    out |= {"parent": variant.parent}
    env = env_of(variant, model)
    if variant.make == CONTINUE:
        out |= {"more_data": MORE_DATA} if sees_validation(env) and variant.target == "train" else {}
        return out | ({"work_of": variant.work_of} if variant.work_of else {})
    out |= {"env": env} | ({"algorithm": variant.algorithm} if variant.algorithm else {})
    if variant.make == FINETUNE and (source := source_of("algorithm", variant.algorithm)) is not None:
        out |= {"algorithm_sha256": source["sha256"]}  # another content of a user's file is another cell
    if own := sources_in("reward", env.get("reward")):
        out |= {"reward_sha256": [found["sha256"] for found in own.values()]}
    if variant.make == SB3:
        out |= {"relevance_draws": model.relevance_draws}
    if place.budget is not None and variant.make in (FINETUNE, SB3):
        out |= {"budget": place.budget}
    return out
