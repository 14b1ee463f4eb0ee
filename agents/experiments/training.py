"""How the models of a study come about: pretraining, more of the same loss, fine-tuning.

Letters: B users in a batch, G episodes of each, T steps of a chain.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import gymnasium as gym
import torch

from agents.algorithms.registry import algorithm
from agents.training.closed_form import is_closed_form
from agents.training.closed_form_search import fitted_policy
from agents.training.config import TrainerConfig
from agents.training.fine_tuner import FineTuneResult
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import PretrainResult, pretrain
from agents.training.trained import CURVE, Trained
from refit_env.backbones import backbone_for
from refit_env.data import Dataset, load_dataset
from refit_env.envs.vector import DenoisingVectorEnv
from refit_env.policy import DiffusionPolicy
from refit_env.registration import entry
from refit_env.rewards import Relevance, make_relevance

Config = TypeVar("Config", bound=TrainerConfig)


def data_of(env_id: str) -> Dataset:
    """The data set of an environment id.

    Raises:
        ValueError: for an id without a data set of its own.
    """
    name = entry(env_id).dataset
    if name is None:
        raise ValueError(f"{env_id} has no data set of its own; a study needs an id that has one")
    return load_dataset(name)


def pretrained(
    env_id: str,
    config: PretrainConfig,
    seed: int,
    backbone: str | None = None,
    *,
    size: str = "published",
    options: Mapping[str, Any] | None = None,
    num_steps: int | None = None,
    device: str = "cpu",
    dataset: Dataset | None = None,
) -> tuple[DiffusionPolicy, PretrainResult]:
    """A backbone, trained from scratch; the chain is respaced.

    A closed form is fitted with ``options`` as they are, without a search.

    Args:
        env_id: gives the data, the backbone and T.
        config: of training.
        seed: of the initial weights, the batches and the noise.
        backbone: the environment's own if None.
        size: whose configuration of it (``refit_env.backbones.sized_config``).
        options: changes to that configuration.
        num_steps: T of the chain; the environment's if None.
        device: ``"cpu"``, ``"cuda"`` ...
        dataset: the data; None loads those of the environment.
    """
    row, dataset = entry(env_id), data_of(env_id) if dataset is None else dataset
    steps, name = num_steps or row.num_steps, backbone or row.backbone
    if is_closed_form(name):
        begin = time.perf_counter()
        policy = fitted_policy(dataset, name, options or {}, steps, torch.device(device))
        return policy, PretrainResult(policy.backbone, seconds=time.perf_counter() - begin)
    model = backbone_for(dataset, name, options, size=size, seed=seed)
    result = pretrain(dataset, model, config, seed=seed, device=device)
    return DiffusionPolicy(result.backbone, steps).to(device), result


def further_training(
    policy: DiffusionPolicy, dataset: Dataset, config: PretrainConfig, seed: int, device: str = "cpu"
) -> tuple[DiffusionPolicy, PretrainResult]:
    """A pretrained policy, its backbone trained on by its loss (or that of another target).

    Its chain stays as it is, and validation runs that chain's steps back.
    """
    result = pretrain(dataset, policy.backbone, config, seed=seed, device=device, eta=policy.diffusion.eta)
    return policy.to(device), result


def sees_validation(env_kwargs: Mapping[str, Any]) -> bool:
    """Whether an environment's reward sees validation items of some users, be it as a neighbour's.

    Example:
        >>> sees_validation({"relevance": "validation"}), sees_validation({"relevance": "recent"})
        (True, False)
        >>> sees_validation({"reward": "racs", "reward_kwargs": {"neighbor_relevance": "validation"}})
        True
    """
    neighbors = (env_kwargs.get("reward_kwargs") or {}).get("neighbor_relevance")
    return "validation" in (env_kwargs.get("relevance"), neighbors)


def rewarded_validation(env_kwargs: Mapping[str, Any], dataset: Dataset) -> Relevance | None:
    """Whose validation items an environment's reward sees, and who selects; None where it sees none."""
    settings = env_kwargs.get("relevance_kwargs") or {}
    return make_relevance("validation", dataset, **settings) if sees_validation(env_kwargs) else None


def fine_tuned(
    name: str,
    policy: DiffusionPolicy,
    env_id: str,
    config: TrainerConfig,
    env_kwargs: Mapping[str, Any],
    seed: int,
    device: str = "cpu",
) -> tuple[FineTuneResult, list[int]]:
    """Fine-tune a policy in place with an algorithm of ``agents.algorithms.registry``.

    Returns:
        The result, and the environment steps that were taken before each entry of its history.

    Raises:
        KeyboardInterrupt: if Ctrl-C ended it: half a run is no result.
    """
    agent = algorithm(name)(policy, env_id, config, env_kwargs=env_kwargs, seed=seed, device=device)
    steps = StepCounter(agent.envs)
    taken = [0]
    result = agent.learn(callback=lambda agent, scalars: taken.append(steps.count))
    if result.interrupted:
        raise KeyboardInterrupt
    return result, taken


class StepCounter:
    """Counts the environment steps that vector environments take: one for each sub-environment.

    Attributes:
        count: steps since it was made.
    """

    def __init__(self, envs: Sequence[DenoisingVectorEnv]) -> None:
        """Watch the ``step`` of each environment."""
        self.count = 0
        for env in envs:
            self._watch(env)

    def _watch(self, env: DenoisingVectorEnv) -> None:
        step = env.step

        def counted(actions: Any) -> Any:
            self.count += env.num_envs
            return step(actions)

        env.step = counted  # type: ignore[method-assign]


def fit_budget(
    config: Config, env_id: str, env_kwargs: Mapping[str, Any], num_steps: int, budget: int, validations: int
) -> Config:
    """Settings with as many iterations as a budget of environment steps allows.

    Args:
        config: of the algorithm; its batch is cut where the data have fewer users, as the agent cuts it.
        env_id: the environment.
        env_kwargs: what it is made with.
        num_steps: T.
        budget: environment steps, all sub-environments counted.
        validations: how many within the budget.

    Raises:
        ValueError: if one iteration needs more than the budget.
    """
    kwargs = dict(env_kwargs) | {"num_steps": num_steps, "backend": "torch"}
    probe = cast(
        "DenoisingVectorEnv",
        gym.make_vec(env_id, num_envs=1, vectorization_mode="vector_entry_point", **kwargs),
    )
    users = min(config.users_per_batch, len(probe.problem.users))
    probe.close()
    each = users * config.samples_per_user * num_steps
    if each > budget:
        raise ValueError(
            f"one iteration needs {each} environment steps, the budget is {budget}: "
            "raise --steps, or make users_per_batch or samples_per_user smaller"
        )
    iterations = budget // each
    return replace(config, iterations=iterations, eval_every=max(1, round(iterations / validations)))


def trained_by(result: FineTuneResult, taken: Sequence[int], dataset: Dataset) -> Trained:
    """A fine-tuning result with environment steps for its x axis.

    Args:
        result: of an agent.
        taken: environment steps before each entry of its history.
        dataset: what its policy ranks.
    """
    at = {int(row["iteration"]): steps for row, steps in zip(result.history, taken, strict=True)}
    validated = [row for row in result.history if CURVE[0] in row]
    paid = [row for row in result.history if "reward/mean" in row]
    return Trained(
        score=result.policy.scorer(dataset),
        env_steps=taken[-1],
        curve={"steps": [float(at[int(row["iteration"])]) for row in validated]}
        | {name: [round(row[name], 6) for row in validated] for name in CURVE},
        reward={
            "steps": [float(at[int(row["iteration"])]) for row in paid],
            "mean": [round(row["reward/mean"], 6) for row in paid],
        },
        best_steps=float(at[result.best_iteration]),
        share=result.share,
        training_seconds=result.seconds,
        validation_seconds=result.validation_seconds,
        work=result.work,
    )
