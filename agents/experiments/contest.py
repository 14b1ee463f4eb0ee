"""The cells of ``refit compare algorithms``: environment x row x seed, all of a seed from one checkpoint.

Letters: B users in a batch, I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from agents.experiments.budgets import in_work, work_of
from agents.experiments.judging import CELLS, CHECKPOINTS, differences_from, judge
from agents.experiments.records import Cell
from agents.experiments.rows import BASE, RIVAL, ROWS, Row, row_config
from agents.experiments.training import data_of, fine_tuned, fit_budget, further_elbo, pretrained, trained_by
from agents.hyperparams.algorithms import EnvSettings, settings_of
from agents.hyperparams.sb3 import SB3Settings
from agents.runs.folder import POLICY
from agents.runs.profiling import measure
from agents.training.config import TrainerConfig
from agents.training.trained import Trained
from refit_env.policy import DiffusionPolicy
from refit_env.registration import entry


@dataclass(frozen=True)
class Job:
    """One cell of the comparison: what is trained where, and with what."""

    env_id: str
    """The environment."""
    row: Row
    """The line of its table."""
    seed: int
    """Of pretraining, of the users drawn and of the noise."""
    out: Path
    """Folder of the comparison."""
    settings: EnvSettings
    """What all rows of the environment share."""
    config: TrainerConfig | SB3Settings | None
    """The row's own settings."""

    @property
    def key(self) -> str:
        """Stem of the cell's file."""
        return cell_key(self.env_id, self.row.key, self.seed)

    @property
    def checkpoint(self) -> Path:
        """Where the pretrained policy of this environment and seed lies."""
        return self.out / CHECKPOINTS / f"{self.env_id}_pretrained_seed{self.seed}"

    def decided_by(self) -> dict[str, Any]:
        """What decides the result, for the cell's file: the shared settings that the row depends on too."""
        shared = {f.name: getattr(self.settings, f.name) for f in fields(self.settings)}
        shared.pop("tuned")  # the row's own part of it is in its settings
        more_elbo = shared.pop("more_elbo")
        kept = {"pretrain": shared["pretrain"]} if self.row.key == BASE else shared
        kept |= {"agent": {} if self.config is None else self.config}
        if self.row.kind == "elbo":  # its budget is REINFORCE's work: so are its settings
            kept |= {"agent": more_elbo, RIVAL: row_config(ROWS[RIVAL], self.settings)}
        steps = {"num_steps": entry(self.env_id).num_steps}
        return {"env": self.env_id, "row": self.row.key, "seed": self.seed} | steps | kept


def cell_key(env_id: str, row: str, seed: int) -> str:
    """Stem of a cell's file."""
    return f"{env_id}_{row}_seed{seed}"


def plan(
    env_ids: Sequence[str],
    rows: Sequence[Row],
    seeds: Sequence[int],
    out: Path,
    steps: int | None = None,
    settings: Mapping[str, EnvSettings] | None = None,
) -> list[Cell]:
    """The cells of a comparison, seed by seed, so that a table of the first seeds comes first.

    Args:
        env_ids: registered ids.
        rows: with all that they need (``choose_rows``).
        seeds: of the runs.
        out: folder of the comparison.
        steps: the budget; that of the environment's settings unless given.
        settings: by environment, in place of ``agents.hyperparams.algorithms``.

    Raises:
        ValueError: for an unknown id or one without data, or a budget below one.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps}: the budget of environment steps must be at least 1")
    shared = {}
    for env_id in env_ids:
        found = (settings or {}).get(env_id) or settings_of(env_id)
        shared[env_id] = found if steps is None else replace(found, steps=steps)
        if entry(env_id).dataset is None:
            raise ValueError(f"{env_id} has no data set of its own; a comparison needs an id that has one")
    jobs = [
        Job(env_id, row, seed, out, shared[env_id], row_config(row, shared[env_id]))
        for env_id in env_ids
        for seed in seeds
        for row in rows
    ]
    return [
        Cell(
            job.key,
            run_job,
            (job,),
            job.decided_by(),
            entry(job.env_id).dataset or "",
            tuple(cell_key(job.env_id, need, job.seed) for need in _needs(job.row)),
            leaves=job.checkpoint / POLICY if job.row.key == BASE else None,
        )
        for job in jobs
    ]


def whose(result: Mapping[str, Any]) -> tuple[str, int]:
    """The environment and seed of a cell's checkpoint."""
    return result["env"], int(result["seed"])


def run_job(job: Job) -> dict[str, Any]:
    """Train and judge one cell; what its file will hold."""
    dataset = data_of(job.env_id)
    with measure() as usage:
        trained = train(job)
    test, found = judge(trained, usage, job.checkpoint, dataset)
    out = {"env": job.env_id, "row": job.row.key, "seed": job.seed} | found
    out["env_steps"] = trained.env_steps
    if job.row.key != BASE:
        out["over_no_training"] = differences_from(job.checkpoint, dataset, test)
    return out


def train(job: Job) -> Trained:
    """Make the cell's model, by its row's kind."""
    makers = {"none": _no_training, "elbo": _more_elbo, "native": _native, "sb3": _sb3}
    return makers[job.row.kind](job)


def _no_training(job: Job) -> Trained:
    """Pretrain, and keep the checkpoint that all others of the seed begin from."""
    policy, result = pretrained(job.env_id, job.settings.pretrain, job.seed)
    dataset = data_of(job.env_id)
    policy.save(job.checkpoint, dataset)
    return Trained(policy.scorer(dataset), training_seconds=result.seconds, work=result.work)


def _more_elbo(job: Job) -> Trained:
    """Go on with the ELBO for as much work as REINFORCE took."""
    budget = work_of(job.out / CELLS / f"{cell_key(job.env_id, RIVAL, job.seed)}.json")
    config, dataset = replace(job.settings.more_elbo, max_work=budget), data_of(job.env_id)
    policy, result = further_elbo(DiffusionPolicy.load(job.checkpoint), dataset, config, job.seed)
    return Trained(
        policy.scorer(dataset), training_seconds=result.seconds, work=result.work, budget=in_work(budget)
    )


def _native(job: Job) -> Trained:
    """Fine-tune by an algorithm of ``agents.algorithms.registry``."""
    settings, policy = job.settings, DiffusionPolicy.load(job.checkpoint)
    if not isinstance(job.config, TrainerConfig):
        raise TypeError(f"row {job.row.key!r} needs a TrainerConfig, got {type(job.config).__name__}")
    kwargs = settings.env_kwargs()
    config = replace(job.config, relevance_draws=settings.relevance_draws)
    config = fit_budget(config, job.env_id, kwargs, policy.num_steps, settings.steps, settings.looks)
    result, taken = fine_tuned(job.row.algorithm, policy, job.env_id, config, kwargs, job.seed)
    return trained_by(result, taken, data_of(job.env_id))


def _sb3(job: Job) -> Trained:
    """Fine-tune by Stable-Baselines3, which is imported here and nowhere before."""
    from agents.sb3.experiment import train_sb3

    if not isinstance(job.config, SB3Settings):
        raise TypeError(f"row {job.row.key!r} needs SB3Settings, got {type(job.config).__name__}")
    return train_sb3(job.row.algorithm, job.config, job.settings, job.env_id, job.checkpoint, job.seed)


def _needs(row: Row) -> tuple[str, ...]:
    """Rows that must be finished first."""
    return () if row.key == BASE else (BASE, *row.needs)
