"""Trials of minutes: pretraining of a network, fine-tuning of a policy, within given seconds.

Ctrl-C ends a trial without storing it; a continued study tries it again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from agents.algorithms.reinforce import Reinforce
from agents.training.fine_tuner import FineTuner
from agents.training.pretrain_config import PretrainConfig, published_training
from agents.training.pretrainer import Pretrainer, has_ranking_loss
from agents.tuning.defaults import FineTuning
from refit_env.backbones import Backbone, backbone_class
from refit_env.data.dataset import Dataset
from refit_env.evaluation.ranking import evaluated_users
from refit_env.policy import DiffusionPolicy

MOST, LEAST = 480, 24
"""Least and most iterations of a fine-tuning trial."""
PROBE = 4
"""Iterations by which the time of one is measured."""
VALIDATIONS = 13
"""Validations of a fine-tuning trial: at the start, eight during training, interpolations and the end."""
UPDATE = 4.0
"""Time of a row in an update by cross-entropy, in times of a row in a validation."""
SMALLER = 0.3
"""Factor of the learning rate in the second pretraining of a network."""
SLACK = 1.5
"""Share of its seconds after which a trial is stopped, if the machine is slower than measured."""


def pretraining_of(name: str, dataset: Dataset) -> PretrainConfig:
    """Settings of pretraining in a study: as published, validated often, with early stopping."""
    published = published_training(name, dataset.name)
    every = max(1, min(published.eval_every, 5))
    config = replace(published, eval_every=every, patience=4, select="ndcg@20")
    if backbone_class(name).ranking_loss is not Backbone.ranking_loss:
        config = replace(config, objective="ranking", learning_rate=1e-3)
    return config


def pretrainings_of(name: str, dataset: Dataset) -> list[dict[str, Any]]:
    """Return what pretrainings of a network differ in: the first in nothing, the second has smaller steps."""
    return [{}, {"learning_rate": pretraining_of(name, dataset).learning_rate * SMALLER}]


def pretrain_network(
    dataset: Dataset,
    backbone: Backbone,
    *,
    num_steps: int,
    seed: int,
    device: torch.device,
    seconds: float,
    training: Mapping[str, Any] | None = None,
) -> tuple[DiffusionPolicy, dict[str, Any]]:
    """Pretrain a network until validation stops rising or time runs out.

    Args:
        dataset: the data set.
        backbone: the network, untrained; it is trained in place.
        num_steps: T of its chain.
        seed: seed of its training.
        device: device.
        seconds: time limit. Training by cross-entropy ends within an epoch, after the work that fits; other
            training after an epoch.
        training: settings other than those of ``pretraining_of``.

    Returns:
        The policy with the weights that validation selected, and notes.
    """
    begin = time.perf_counter()
    config = replace(pretraining_of(backbone.name, dataset), **(training or {}))
    trainer = Pretrainer(dataset, backbone, config, seed=seed, device=device, num_steps=num_steps)
    notes: dict[str, Any] = {"training": dict(training)} if training else {}
    if not has_ranking_loss(backbone) and config.objective == "ranking":
        trainer.config = replace(config, epochs=0)
        _stop_if(trainer.learn().interrupted)
        row = trainer.validation_seconds / len(evaluated_users(dataset, "valid"))
        left = seconds - (time.perf_counter() - begin) - trainer.validation_seconds
        config = replace(config, max_work=round(max(left / (UPDATE * row), config.users_per_batch)))
        trainer.config = config
        notes["training"] = {**(training or {}), "max_work": config.max_work}
    best, epochs = 0, config.epochs
    while trainer.epoch < epochs and time.perf_counter() - begin < seconds:
        before = trainer.epoch
        trainer.config = replace(trainer.config, epochs=min(epochs, before + config.eval_every))
        result = trainer.learn()
        _stop_if(result.interrupted)
        best = result.best_epoch
        if trainer.epoch == before:  # out of patience
            break
    policy = DiffusionPolicy(backbone, min(num_steps, backbone.diffusion.num_steps)).to(device).eval()
    return policy, notes | {"epochs": trainer.epoch, "best_epoch": best}


@dataclass(frozen=True)
class Pace:
    """The time of fine-tuning from one start."""

    update: float
    """Seconds of an iteration."""
    validation: float
    """Seconds of a validation."""

    def iterations(self, seconds: float) -> int:
        """Return the iterations that fit into seconds, validations included; 0 if too few do.

        Example:
            >>> Pace(0.5, 1.0).iterations(100.0), Pace(0.5, 1.0).iterations(5.0)
            (174, 0)
        """
        count = min(MOST, int((seconds - VALIDATIONS * self.validation) / max(self.update, 1e-9)))
        return count if count >= LEAST else 0


@dataclass(frozen=True)
class Training:
    """Common settings of the fine-tunings of a study."""

    env_id: str
    """Id of the environment."""
    env_kwargs: Mapping[str, Any]
    """Arguments of the environment that select the data."""
    seed: int
    """Seed of the users and the noise."""
    device: torch.device
    """Device."""

    def agent(self, policy: DiffusionPolicy, chosen: FineTuning) -> FineTuner:
        """Build the agent, which trains the policy in place."""
        kwargs = {**self.env_kwargs, **chosen.env}
        return Reinforce(
            policy, self.env_id, chosen.agent, env_kwargs=kwargs, seed=self.seed, device=self.device
        )

    def pace(self, policy: DiffusionPolicy, chosen: FineTuning) -> Pace:
        """Measure the time of a few iterations of a policy, which changes its weights."""
        short = replace(chosen.agent, iterations=PROBE, eval_every=10 * PROBE, blends=0)
        result = self.agent(policy, replace(chosen, agent=short)).learn()
        _stop_if(result.interrupted)
        updates = [row["seconds/update"] for row in result.history[2:]]  # the first one allocates memory
        rows = result.history
        validations = [row["seconds/validation"] for row in rows if "seconds/validation" in row]
        return Pace(sum(updates) / len(updates), max(validations))

    def fine_tune(self, policy: DiffusionPolicy, chosen: FineTuning, seconds: float) -> dict[str, Any]:
        """Fine-tune a policy in place; it ends with the weights that validation selected, or its start's.

        Returns:
            Notes: iterations, the chosen one, its share of the way, and whether time ran out.
        """
        begin, late = time.perf_counter(), False

        def check(agent: FineTuner, scalars: dict[str, float]) -> None:
            nonlocal late
            if time.perf_counter() - begin > SLACK * seconds:
                late = True
                raise KeyboardInterrupt

        result = self.agent(policy, chosen).learn(callback=check)
        _stop_if(result.interrupted and not late)
        last = int(result.history[-1]["iteration"])
        notes = {"iterations": last, "best_iteration": result.best_iteration, "share": result.share}
        return notes | ({"out_of_time": True} if late else {})


def _stop_if(interrupted: bool) -> None:
    """Raise KeyboardInterrupt again, which training turns into an orderly end."""
    if interrupted:
        raise KeyboardInterrupt
