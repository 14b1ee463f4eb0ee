"""Makes the model of a cell and measures it: what a cell's process does.

Letters: B users in a batch, I items.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

import torch

from agents.algorithms.registry import algorithm
from agents.baselines import BaselineConfig, fit_baseline
from agents.experiments.budgets import in_work, work_of
from agents.experiments.job import Job
from agents.experiments.measuring import measured
from agents.experiments.spec import BASELINE, CONTINUE, FINETUNE, PRETRAIN, REWARD_MODEL, SB3
from agents.experiments.training import (
    data_of,
    fine_tuned,
    fit_budget,
    further_training,
    pretrained,
    rewarded_validation,
    trained_by,
)
from agents.hyperparams.sb3 import SB3Settings
from agents.reward_checks.properties import reward_spread
from agents.runs.profiling import measure
from agents.runs.work import Work
from agents.training.closed_form import is_closed_form
from agents.training.config import TrainerConfig
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import PretrainResult
from agents.training.trained import CURVE, Trained
from refit_env.backbones import backbone_class
from refit_env.data import Dataset
from refit_env.policy import DiffusionPolicy
from refit_env.rewards import ModelReward, RewardContext, make_relevance, models_in
from refit_env.rewards.base import weighted_sum
from refit_env.rewards.registry import reward_in


def run_job(job: Job) -> dict[str, Any]:
    """Make and measure one cell; what its record will hold."""
    makers = {
        PRETRAIN: _pretrain,
        CONTINUE: _continue,
        FINETUNE: _finetune,
        SB3: _sb3,
        REWARD_MODEL: _reward_model,
        BASELINE: _baseline,
    }
    dataset = data_of(job.env_id)
    with measure() as usage:
        trained, policy, ranked = makers[job.variant.make](job, dataset)
    if job.keeps and policy is not None:
        policy.save(job.checkpoint, dataset, overwrite=True)
    return measured(job, trained, usage, ranked)


Made = tuple[Trained, DiffusionPolicy | None, Dataset]
"""The model, its policy where it is one, and the data set that it ranks."""


def _pretrain(job: Job, dataset: Dataset) -> Made:
    """Train a backbone from scratch; with ``refit``, to train and validation items.

    A network is then trained on the train items first, and again for as many epochs as validation chose.
    """
    model, config = job.model, _of(PretrainConfig, job)
    if not job.variant.refit:
        policy, result = _from_scratch(job, config, dataset)
        return _by_loss(policy, result, dataset), policy, dataset
    joined, seconds, work = dataset.learning_validation(), 0.0, Work()
    if not is_closed_form(model.backbone):
        _, chosen = _from_scratch(job, config, dataset)
        config = replace(config, epochs=chosen.best_epoch)
        seconds, work = chosen.seconds, chosen.work
    policy, result = _from_scratch(job, config, joined)
    result = replace(result, seconds=seconds + result.seconds, work=work + result.work)
    return _by_loss(policy, result, joined), policy, joined


def _from_scratch(
    job: Job, config: PretrainConfig, dataset: Dataset
) -> tuple[DiffusionPolicy, PretrainResult]:
    """The job's model, trained on a data set."""
    model = job.model
    return pretrained(
        job.env_id,
        config,
        job.seed,
        model.backbone,
        size=model.size,
        options=model.options,
        num_steps=model.num_steps,
        device=job.device,
        dataset=dataset,
    )


def _continue(job: Job, dataset: Dataset) -> Made:
    """Go on with the training, for as much work as the variant that it is compared with, where it has one.

    Where a reward sees validation items, they are trained on, too: the same information.
    """
    config, budget = _of(PretrainConfig, job), None
    if job.variant.work_of:
        budget = work_of(job.records, job.key(job.variant.work_of))
        config = replace(config, max_work=budget)
    known = rewarded_validation(job.env, dataset) if job.variant.target == "train" else None
    shown = dataset if known is None else dataset.learning_validation_of(known.sources())
    policy = DiffusionPolicy.load(job.parent)
    policy, result = further_training(policy, shown, config, job.seed, job.device)
    trained = _by_loss(policy, result, dataset)
    return replace(trained, budget=None if budget is None else in_work(budget)), policy, dataset


def _by_loss(policy: DiffusionPolicy, result: PretrainResult, dataset: Dataset) -> Trained:
    """A model that was trained by its own loss; its curve is over epochs."""
    rows = [row for row in result.history if CURVE[0] in row]
    curve = {"epoch": [row["epoch"] for row in rows]} if rows else {}
    for name in CURVE if rows else ():
        curve[name] = [round(row[name], 6) for row in rows]
    return Trained(
        policy.scorer(dataset),
        curve=curve,
        best_steps=float(result.best_epoch),
        training_seconds=result.seconds,
        work=result.work,
    )


def _finetune(job: Job, dataset: Dataset) -> Made:
    """Fine-tune by an algorithm of ``agents.algorithms.registry``."""
    model, config = job.model, _of(TrainerConfig, job)
    kwargs = dict(job.env) | {"backbone": model.backbone}
    if backbone_class(model.backbone).embedding:
        kwargs["checkpoint"] = str(job.parent.resolve())
    if (kwargs.get("reward_kwargs") or {}).get("neighbors_by") == "model":
        kwargs["reward_kwargs"] = {**kwargs["reward_kwargs"], "checkpoint": str(job.parent.resolve())}
    config = algorithm(job.variant.algorithm).adapted(config, kwargs.get("reward"))
    policy = DiffusionPolicy.load(job.parent)
    varied = reward_spread(job.env_id, policy, kwargs, config.exploration_std, job.seed, job.device)
    if job.budget is not None:
        budget = job.budget
        config = fit_budget(config, job.env_id, kwargs, policy.num_steps, budget.steps, budget.validations)
    result, taken = fine_tuned(
        job.variant.algorithm, policy, job.env_id, config, kwargs, job.seed, job.device
    )
    trained = replace(trained_by(result, taken, dataset), spread=varied)
    return trained, result.policy, dataset


def _sb3(job: Job, dataset: Dataset) -> Made:
    """Fine-tune by Stable-Baselines3, which is imported here and nowhere before."""
    from agents.sb3.experiment import train_sb3

    if job.budget is None:
        raise ValueError(f"{job.variant.key}: a variant of Stable-Baselines3 needs the study's budget")
    config, draws = _of(SB3Settings, job), job.model.relevance_draws
    trained = train_sb3(
        job.variant.algorithm, config, job.budget, job.env_id, job.env, job.parent, job.seed, draws
    )
    return trained, None, dataset


def _reward_model(job: Job, dataset: Dataset) -> Made:
    """The model whose scores the reward is, or several, as recommenders: they are shown all train items."""
    data, start = dataset.episodes, time.perf_counter()
    settings, reward = job.env.get("reward_kwargs"), job.env["reward"]
    spec = {name: 1.0 if isinstance(reward, str) else reward[name] for name in models_in(reward)}
    relevance = make_relevance("train", data)
    context = RewardContext(data, relevance, device=job.device, model=job.parent)
    parts = reward_in(context, spec, settings).parts()
    models = [(part, weight) for part, weight in parts if isinstance(part, ModelReward)]

    def score(users: torch.Tensor) -> torch.Tensor:
        """(B, I) what one predicts; of several, the weighted sum, each as the reward counts it."""
        if len(models) == 1:
            return models[0][0].predict(users)
        return weighted_sum([(weight, model.gains(users)) for model, weight in models])

    return Trained(score, training_seconds=time.perf_counter() - start), None, dataset


def _baseline(job: Job, dataset: Dataset) -> Made:
    """A recommender of ``agents.baselines``."""
    start, variant = time.perf_counter(), job.variant
    settings = asdict(_of(BaselineConfig, job))
    scorer, ranked = fit_baseline(
        dataset, variant.algorithm, settings, job.seed, refit=variant.refit, device=job.device
    )
    return Trained(scorer, training_seconds=time.perf_counter() - start), None, ranked


def _of(kind: Any, job: Job) -> Any:
    """The job's settings, which are of the class that its variant needs.

    Raises:
        TypeError: if they are not.
    """
    if not isinstance(job.settings, kind):
        raise TypeError(f"{job.variant.key} needs {kind.__name__}, got {type(job.settings).__name__}")
    return job.settings
