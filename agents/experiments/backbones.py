"""The cells of ``refit compare backbones``: environment x model x row x seed.

Rows: ``pretrained``; ``reinforce``, fine-tuned from it; ``elbo``, its own training gone on with for as much
work as fine-tuning took, which is what REINFORCE has to beat. Where the reward is a model's, two more:
``distill``, fitted to that reward by cross-entropy in as many updates of the same step sizes, and
``reward``, the lists of that model itself, without any recommender.

Letters: B users in a batch, I items.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from agents.algorithms.configs import DistillConfig
from agents.experiments.budgets import in_work, work_of
from agents.experiments.judging import CELLS, CHECKPOINTS, differences_from, judge, means_of
from agents.experiments.records import Cell
from agents.experiments.training import (
    data_of,
    fine_tuned,
    further_elbo,
    pretrained,
    rewarded_validation,
    sees_validation,
    trained_by,
)
from agents.hyperparams.backbones import Tuned, models_of, tuned
from agents.runs.folder import POLICY
from agents.runs.profiling import measure
from agents.training.config import TrainerConfig
from agents.training.trained import Trained
from refit_env.backbones import backbone_class, sized_config
from refit_env.data import Dataset
from refit_env.evaluation.ranking import Evaluation
from refit_env.evaluation.slices import slices
from refit_env.policy import DiffusionPolicy
from refit_env.registration import entry
from refit_env.rewards import ModelReward, make_relevance, make_reward, models_in
from refit_env.rewards.base import weighted_sum

PRETRAINED, REINFORCE, ELBO = "pretrained", "reinforce", "elbo"
DISTILL, REWARD = "distill", "reward"
ROWS: dict[str, str] = {
    PRETRAINED: "pretrained",
    REINFORCE: "+ REINFORCE",
    ELBO: "+ more training",
    DISTILL: "+ distillation of the reward",
    REWARD: "the reward model alone",
}
"""Key -> what the table calls it, in the order of the tables."""
NEEDS: dict[str, tuple[str, ...]] = {
    PRETRAINED: (),
    REINFORCE: (PRETRAINED,),
    ELBO: (PRETRAINED, REINFORCE),
    DISTILL: (PRETRAINED,),
    REWARD: (PRETRAINED,),
}
MORE_DATA = "train items, and the validation items that REINFORCE was rewarded for"
"""What the control of a model that was rewarded for validation items is trained on, as its cell tells."""
OF_A_MODEL = (DISTILL, REWARD)
"""Rows for rewards that are models' opinions."""
SEEDS = 3
MORE_SEEDS = {env_id: 5 for env_id in ("ReFiT-ML1M-v0", "ReFiT-Zhihu-v0", "ReFiT-Ciao-v0", "ReFiT-TKY-v0")}
"""Environments that are run with other than ``SEEDS`` seeds where nothing is said."""
TWELVE = tuple(
    f"ReFiT-{name}-v0"
    for name in (
        "ML1M", "Yelp2018", "Anime", "YooChoose", "KuaiRec", "Zhihu", "Ciao", "Epinions", "Yelp",
        "Foursquare", "TKY", "NYC",
    )
)  # fmt: skip
"""The environments of the paper's twelve data sets."""


@dataclass(frozen=True)
class Job:
    """One cell: a model of an environment, one row, one seed."""

    env_id: str
    """The environment."""
    model: str
    """Name among the environment's models."""
    row: str
    """A key of ``ROWS``."""
    seed: int
    """Of pretraining, of the users drawn and of the noise."""
    out: Path
    """Folder of the comparison."""
    settings: Tuned
    """Of the model."""
    device: str = "cpu"
    """Where it is trained and evaluated."""

    def key(self, row: str | None = None) -> str:
        """Stem of the file of this cell, or of another row of the same model and seed."""
        return f"{self.env_id}_{self.model}_{row or self.row}_seed{self.seed}"

    @property
    def checkpoint(self) -> Path:
        """Where the pretrained policy lies."""
        return self.out / CHECKPOINTS / f"{self.env_id}_{self.model}_seed{self.seed}"

    def decided_by(self) -> dict[str, Any]:
        """What decides the result: the row's own settings and those of the rows that it needs."""
        told, row = self.settings, entry(self.env_id)
        config = asdict(sized_config(told.backbone, row.dataset or "", told.size)) | dict(told.options)
        out: dict[str, Any] = {"env": self.env_id, "model": self.model, "row": self.row, "seed": self.seed}
        out |= {"backbone": told.backbone, "size": told.size, "config": config}
        out |= {"num_steps": told.num_steps or row.num_steps, "pretrain": told.pretrain}
        if self.row == REWARD:
            return out | {"env_kwargs": dict(told.env)}
        if self.row == DISTILL:
            return out | {"distill": distilling(told), "env_kwargs": dict(told.env)}
        if self.row != PRETRAINED:
            out |= {"reinforce": told.reinforce, "env_kwargs": dict(told.env)}
        if self.row == ELBO:
            out |= {"more": more_training(told)}
            out |= {"more_data": MORE_DATA} if sees_validation(told.env) else {}
        return out


def plan(
    env_ids: Iterable[str],
    out: Path,
    *,
    models: Sequence[str] = (),
    rows: Sequence[str] = tuple(ROWS),
    seeds: int | None = None,
    settings: Mapping[str, Mapping[str, Tuned]] | None = None,
    device: str = "cpu",
    large: bool = False,
) -> list[Cell]:
    """The cells of a comparison, seed by seed, so that a table of the first seeds comes first.

    Args:
        env_ids: registered ids that have data.
        out: folder of the comparison.
        models: names of models; empty takes all that an environment has.
        rows: keys of ``ROWS``, with all that they need.
        seeds: how many, from seed 0; None takes each environment's own number.
        settings: environment -> model -> settings, in place of ``agents.hyperparams.backbones``.
        device: where cells run, ``"cpu"`` or ``"cuda"``.
        large: whether models that need a GPU (``Tuned.gpu``) are taken where none is named.

    Raises:
        ValueError: for an unknown id, one without data, or a model that none of the environments has.
    """
    found: list[tuple[int, Job]] = []
    envs = list(dict.fromkeys(env_ids))
    for env_id in envs:
        known = (settings or {}).get(env_id) or models_of(env_id)
        chosen = [n for n, told in known.items() if (n in models if models else large or not told.gpu)]
        if not chosen and len(envs) == 1:
            tuned(env_id, models[0])  # raises, and names those that there are
        for seed in range(MORE_SEEDS.get(env_id, SEEDS) if seeds is None else seeds):
            found += [
                (seed, Job(env_id, m, row, seed, out, known[m], device))
                for m in chosen
                for row in rows
                if row not in OF_A_MODEL or models_in(known[m].env.get("reward", ""))
            ]
    jobs = [job for _, job in sorted(found, key=lambda pair: pair[0])]
    return [
        Cell(
            job.key(),
            run_job,
            (job,),
            job.decided_by(),
            entry(job.env_id).dataset or "",
            tuple(job.key(need) for need in NEEDS[job.row]),
            leaves=job.checkpoint / POLICY if job.row == PRETRAINED else None,
        )
        for job in jobs
    ]


def run_job(job: Job) -> dict[str, Any]:
    """Train and judge one cell; what its file will hold."""
    dataset = data_of(job.env_id)
    makers = {
        PRETRAINED: _pretrained,
        REINFORCE: lambda job: _fine_tuned(job, "reinforce", job.settings.reinforce),
        ELBO: _more,
        DISTILL: lambda job: _fine_tuned(job, "distill", distilling(job.settings)),
        REWARD: _reward,
    }
    with measure() as usage:
        trained = makers[job.row](job)
    test, found = judge(trained, usage, job.checkpoint, dataset, job.device)
    out = {"env": job.env_id, "task": dataset.task, "model": job.model, "row": job.row, "seed": job.seed}
    out["device"] = job.device
    out |= found | {"users": len(test.users), "slices": _slices(test, dataset)}
    if job.row != PRETRAINED:
        out["over_pretrained"] = differences_from(job.checkpoint, dataset, test, job.device)
    return out


def more_training(settings: Tuned) -> Any:
    """The settings with which pretraining is gone on with; its budget is the work of fine-tuning."""
    rate = settings.more_rate or settings.pretrain.learning_rate
    return replace(
        settings.pretrain,
        learning_rate=rate,
        epochs=10_000,
        patience=0,
        select_on=settings.reinforce.select_on,
        eval_every=settings.more_every or settings.pretrain.eval_every,
    )


def distilling(settings: Tuned) -> DistillConfig:
    """The settings of distillation: those that it shares with REINFORCE are the same."""
    shared = {f.name for f in fields(DistillConfig)} & {f.name for f in fields(settings.reinforce)}
    return DistillConfig(**{name: getattr(settings.reinforce, name) for name in shared})


def _pretrained(job: Job) -> Trained:
    """Pretrain, and keep the checkpoint that the others begin from."""
    told = job.settings
    policy, result = pretrained(
        job.env_id,
        told.pretrain,
        job.seed,
        told.backbone,
        size=told.size,
        options=told.options,
        num_steps=told.num_steps,
        device=job.device,
    )
    dataset = data_of(job.env_id)
    policy.save(job.checkpoint, dataset)
    metric = f"valid/{told.pretrain.select_on}"
    looked = [row for row in result.history if metric in row]
    curve = {"epoch": [r["epoch"] for r in looked], metric: [round(r[metric], 6) for r in looked]}
    return Trained(
        policy.scorer(dataset),
        curve=curve,
        best_steps=float(result.best_epoch),
        training_seconds=result.seconds,
        work=result.work,
    )


def _fine_tuned(job: Job, name: str, config: TrainerConfig) -> Trained:
    """Fine-tune by an algorithm of ``agents.algorithms.registry``."""
    told, dataset = job.settings, data_of(job.env_id)
    kwargs = dict(told.env) | {"backbone": told.backbone}
    if backbone_class(told.backbone).embedding:
        kwargs["checkpoint"] = str(job.checkpoint)
    policy = DiffusionPolicy.load(job.checkpoint)
    result, taken = fine_tuned(name, policy, job.env_id, config, kwargs, job.seed, job.device)
    return trained_by(result, taken, dataset)


def _more(job: Job) -> Trained:
    """Go on with the training for as much work as REINFORCE took.

    Where REINFORCE was rewarded for validation items, they are trained on, too: the same information.
    """
    budget = work_of(job.out / CELLS / f"{job.key(REINFORCE)}.json")
    config = replace(more_training(job.settings), max_work=budget)
    policy, dataset = DiffusionPolicy.load(job.checkpoint), data_of(job.env_id)
    told = dataset
    known = rewarded_validation(job.settings.env, dataset)
    if known is not None:
        told = dataset.learning_validation_of(known.sources())
    policy, result = further_elbo(policy, told, config, job.seed, job.device)
    return Trained(
        policy.scorer(dataset),
        best_steps=float(result.best_epoch),
        training_seconds=result.seconds,
        work=result.work,
        budget=in_work(budget),
    )


def _reward(job: Job) -> Trained:
    """The model whose opinion the reward is, or several, as recommenders: they are shown all train items."""
    dataset, start = data_of(job.env_id).episodes, time.perf_counter()
    kwargs, told = job.settings.env.get("reward_kwargs") or {}, job.settings.env["reward"]
    spec = {name: 1.0 if isinstance(told, str) else told[name] for name in models_in(told)}
    relevance = make_relevance("train", dataset)
    parts = make_reward(spec, dataset, relevance, device=job.device, model=job.checkpoint, **kwargs).parts()
    models = [(part, weight) for part, weight in parts if isinstance(part, ModelReward)]

    def score(users: torch.Tensor) -> torch.Tensor:
        """(B, I) what one predicts; of several, the weighed sum, each as the reward counts it."""
        if len(models) == 1:
            return models[0][0].predict(users)
        return weighted_sum([(weight, model.gains(users)) for model, weight in models])

    return Trained(score, training_seconds=time.perf_counter() - start)


def _slices(test: Evaluation, dataset: Dataset) -> dict[str, dict[str, float]]:
    """The slices' sizes and means."""
    return {
        name: {"users": float(len(part.users))} | {m: part.means()[m] for m in means_of(test) if part.means()}
        for name, part in slices(test, dataset).items()
    }


def device_of(result: Mapping[str, Any]) -> str:
    """Where a cell was measured; the first ones do not tell, and were on a CPU."""
    return str(result.get("device", "cpu"))


def whose(result: Mapping[str, Any]) -> tuple[str, str, int]:
    """The environment, model and seed of a cell's checkpoint."""
    return result["env"], result["model"], int(result["seed"])
