"""Stable-Baselines3's algorithms as variants of a study (``refit compare algorithms``).

On-policy algorithms train the diffusion policy. SAC adds low-rank residuals to a frozen policy and observes
the chain in the same item factors, so that its networks are small for any catalogue size.

Letters: N sub-environments, T steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.hyperparams.models import Budget
from agents.hyperparams.sb3 import SB3Settings, sb3_settings
from agents.sb3.buffers import LeaveOneOutRolloutBuffer
from agents.sb3.callbacks import RankingEvalCallback, model_scorer
from agents.sb3.policies import DiffusionActorCriticPolicy
from agents.sb3.vec_env import GymVecEnv, to_sb3_vec_env
from agents.training.trained import CURVE, Trained
from refit_env.envs.wrappers.vector import (
    FactorObservation,
    GroupedUsers,
    LowRankAction,
    ResidualAction,
)
from refit_env.envs.wrappers.vector.base import AnyVectorWrapper
from refit_env.errors import MissingExtraError, unknown_name
from refit_env.policy import DiffusionPolicy


def train_sb3(
    name: str,
    config: SB3Settings,
    budget: Budget,
    env_id: str,
    env: Mapping[str, Any],
    checkpoint: Path,
    seed: int,
    draws: int = 1,
) -> Trained:
    """Fine-tune a pretrained policy by an algorithm of Stable-Baselines3 or sb3-contrib.

    Args:
        name: ``"ppo"``, ``"a2c"``, ``"trpo"`` or ``"sac"``.
        config: its settings.
        budget: environment steps, and validations within them.
        env_id: the environment.
        env: what it is made with: reward, relevance ...
        checkpoint: folder of the pretrained policy.
        seed: seed of all random numbers.
        draws: random hold-outs that resets take in turns (relevance ``holdout`` only).

    Raises:
        ValueError: for an unknown name, or a budget that is smaller than one rollout.
        ImportError: for TRPO without sb3-contrib.
    """
    envs = make_envs(config, env_id, env, checkpoint, seed, draws)
    model = make_model(name, config, envs, checkpoint, seed)
    total = whole_rollouts(model, budget.steps)
    ranking, rewards = TimedRanking(max(1, total // budget.validations)), RewardCurve()
    begin = time.perf_counter()
    model.learn(total, callback=CallbackList([ranking, rewards]))
    seconds = time.perf_counter() - begin
    ranking.load_best()
    history = ranking.history
    return Trained(
        score=model_scorer(model),
        env_steps=model.num_timesteps,
        curve={"steps": [point["timesteps"] for point in history]}
        | {metric: [round(point[metric], 6) for point in history] for metric in CURVE},
        reward={"steps": rewards.steps, "mean": rewards.means},
        best_steps=float(ranking.best_timesteps),
        training_seconds=seconds - ranking.seconds,
        validation_seconds=ranking.seconds,
    )


def make_envs(
    config: SB3Settings, env_id: str, env: Mapping[str, Any], checkpoint: Path, seed: int, draws: int = 1
) -> GymVecEnv:
    """Create the training environments of an algorithm: grouped by user or low-rank, by its settings."""
    steps = DiffusionPolicy.load(checkpoint).num_steps
    several: list[VectorEnv[Any, Any, Any]] = [
        gym.make_vec(
            env_id,
            num_envs=config.num_envs,
            vectorization_mode="vector_entry_point",
            autoreset_mode="Disabled",
            num_steps=steps,
            relevance_kwargs={"seed": n} if env.get("relevance") == "holdout" else None,
            **env,
        )
        for n in range(draws)
    ]
    if config.group_size > 1:
        several = [GroupedUsers(each, config.group_size) for each in several]
    envs: VectorEnv[Any, Any, Any] = InTurns(several, seed)
    if config.rank:
        frozen = DiffusionPolicy.load(checkpoint)
        frozen.set_exploration(config.exploration_std)
        envs = FactorObservation(
            LowRankAction(ResidualAction(envs, frozen, scale=config.scale), rank=config.rank),
            rank=config.rank,
        )
    return to_sb3_vec_env(envs)


def make_model(name: str, config: SB3Settings, envs: GymVecEnv, checkpoint: Path, seed: int) -> BaseAlgorithm:
    """Create an algorithm's model before training.

    Raises:
        ValueError: for an unknown name, an on-policy algorithm with a rank, or SAC without one.
        ImportError: for TRPO without sb3-contrib.
    """
    if name not in sb3_settings():
        raise unknown_name("Stable-Baselines3 algorithm", name, sb3_settings())
    if (name == "sac") != (config.rank > 0):
        raise ValueError(f"{name} with rank={config.rank}: SAC needs a rank above 0, the others rank=0")
    cls: Any = _trpo() if name == "trpo" else {"ppo": PPO, "a2c": A2C, "sac": SAC}[name]
    arguments: dict[str, Any] = dict(config.arguments) | {"seed": seed, "device": "cpu"}
    arguments["stats_window_size"] = config.num_envs  # the mean reward of the last round of chains
    if name == "sac":
        low_rank = SAC("MultiInputPolicy", envs, **arguments)
        last = low_rank.actor.mu  # initial actions are 0, the pretrained chain
        torch.nn.init.zeros_(last.weight)  # type: ignore[arg-type]  # a linear layer, typed as a module
        torch.nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        return low_rank
    if config.group_size > 1:
        arguments["rollout_buffer_class"] = LeaveOneOutRolloutBuffer
    actor = {"run": str(checkpoint), "exploration_std": config.exploration_std}
    arguments["policy_kwargs"] = {"actor": actor} | dict(arguments.get("policy_kwargs") or {})
    model: BaseAlgorithm = cls(DiffusionActorCriticPolicy, envs, **arguments)
    return model


def whole_rollouts(model: BaseAlgorithm, budget: int) -> int:
    """Return the steps of whole rollouts within a budget, because Stable-Baselines3 completes a rollout.

    Raises:
        ValueError: if one rollout exceeds the budget.
    """
    if isinstance(model, OnPolicyAlgorithm):
        each = model.n_steps * model.n_envs
    else:
        each = model.train_freq.frequency * model.n_envs  # type: ignore[attr-defined]  # of off-policy ones
    if each > budget:
        raise ValueError(
            f"one rollout has {each} environment steps, the budget is {budget}: raise --steps, or reduce "
            "num_envs"
        )
    return int(budget // each * each)


class InTurns(AnyVectorWrapper):
    """Alternates between several vector environments of the same chains: each reset selects the next one.

    They differ in the items that their rewards hide (``relevance_draws``). All episodes have T steps, so all
    sub-environments end together and are reset together.
    """

    def __init__(self, envs: Sequence[VectorEnv[Any, Any, Any]], seed: int) -> None:
        """Store environments with autoreset ``Disabled``, and reset each with its own seed."""
        super().__init__(envs[0])
        self.envs_in_turn = list(envs)
        self._turn = -1
        for n, env in enumerate(envs):
            env.reset(seed=seed + 1_000_003 * n)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the next environment; the seeds are those of the constructor.

        Raises:
            ValueError: for a partial reset.
        """
        rest = dict(options or {})
        mask = rest.pop("reset_mask", None)
        if mask is not None and not mask.all():
            raise ValueError("alternating environments are reset together: their episodes end together")
        self._turn += 1
        self.env = self.envs_in_turn[self._turn % len(self.envs_in_turn)]
        return self.env.reset(options=rest or None)


class TimedRanking(RankingEvalCallback):
    """A ``RankingEvalCallback`` that measures its time.

    Attributes:
        seconds: time spent in evaluations.
    """

    seconds = 0.0

    def _validate(self) -> None:
        begin = time.perf_counter()
        super()._validate()
        self.seconds += time.perf_counter() - begin


class RewardCurve(BaseCallback):
    """Records the mean reward of the latest episodes once per rollout.

    Attributes:
        steps: environment steps.
        means: mean rewards at these steps.
    """

    def __init__(self) -> None:
        """Create an empty curve."""
        super().__init__()
        self.steps: list[float] = []
        self.means: list[float] = []

    def _on_step(self) -> bool:
        """Continue training."""
        return True

    def _on_rollout_end(self) -> None:
        """Record a point."""
        episodes = self.model.ep_info_buffer
        if episodes:
            self.steps.append(float(self.num_timesteps))
            self.means.append(round(sum(episode["r"] for episode in episodes) / len(episodes), 6))


def _trpo() -> Any:
    """Return sb3-contrib's TRPO.

    Raises:
        ImportError: naming the package to install.
    """
    try:
        from sb3_contrib import TRPO
    except ImportError as error:
        raise MissingExtraError("TRPO", "sb3-contrib", "zoo") from error
    return TRPO
