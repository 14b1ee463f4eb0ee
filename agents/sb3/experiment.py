"""Stable-Baselines3's algorithms as rows of ``refit compare algorithms``.

On-policy ones act with the diffusion policy itself. SAC acts with low-rank residuals on a frozen one and sees
the chain along the same item factors, so that its networks are small at any catalogue size.

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

from agents.hyperparams.algorithms import EnvSettings
from agents.hyperparams.sb3 import SB3_SETTINGS, SB3Settings
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
from refit_env.errors import unknown_name
from refit_env.policy import DiffusionPolicy


def train_sb3(
    name: str, config: SB3Settings, shared: EnvSettings, env_id: str, checkpoint: Path, seed: int
) -> Trained:
    """Fine-tune a pretrained policy by an algorithm of Stable-Baselines3 or sb3-contrib.

    Args:
        name: ``"ppo"``, ``"a2c"``, ``"trpo"`` or ``"sac"``.
        config: its settings.
        shared: the environment's budget, goal and number of validations.
        env_id: the environment.
        checkpoint: folder of the pretrained policy.
        seed: of everything random.

    Raises:
        ValueError: for an unknown name, or a budget that is smaller than one rollout.
        ImportError: if TRPO is asked for and sb3-contrib is not installed.
    """
    envs = make_envs(config, shared, env_id, checkpoint, seed)
    model = make_model(name, config, envs, checkpoint, seed)
    total = whole_rollouts(model, shared.steps)
    ranking, rewards = TimedRanking(max(1, total // shared.looks)), RewardCurve()
    begin = time.perf_counter()
    model.learn(total, callback=CallbackList([ranking, rewards]))
    seconds = time.perf_counter() - begin
    ranking.load_best()
    looks = ranking.history
    return Trained(
        score=model_scorer(model),
        env_steps=model.num_timesteps,
        curve={"steps": [look["timesteps"] for look in looks]}
        | {metric: [round(look[metric], 6) for look in looks] for metric in CURVE},
        reward={"steps": rewards.steps, "mean": rewards.means},
        best_steps=float(ranking.best_timesteps),
        training_seconds=seconds - ranking.seconds,
        validation_seconds=ranking.seconds,
    )


def make_envs(
    config: SB3Settings, shared: EnvSettings, env_id: str, checkpoint: Path, seed: int
) -> GymVecEnv:
    """The environments that an algorithm trains on: grouped by user, low-rank where the settings say so."""
    steps = DiffusionPolicy.load(checkpoint).num_steps
    several: list[VectorEnv[Any, Any, Any]] = [
        gym.make_vec(
            env_id,
            num_envs=config.num_envs,
            vectorization_mode="vector_entry_point",
            autoreset_mode="Disabled",
            num_steps=steps,
            relevance_kwargs={"seed": n} if shared.relevance == "holdout" else None,
            **shared.env_kwargs(),
        )
        for n in range(shared.relevance_draws)
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
    """An algorithm's model before training.

    Raises:
        ValueError: for an unknown name, or low-rank settings for an on-policy algorithm and the reverse.
        ImportError: if TRPO is asked for and sb3-contrib is not installed.
    """
    if name not in SB3_SETTINGS:
        raise unknown_name("Stable-Baselines3 algorithm", name, SB3_SETTINGS)
    if (name == "sac") != (config.rank > 0):
        raise ValueError(f"{name} with rank={config.rank}: SAC needs a rank above 0, the others rank=0")
    cls: Any = _trpo() if name == "trpo" else {"ppo": PPO, "a2c": A2C, "sac": SAC}[name]
    arguments: dict[str, Any] = dict(config.arguments) | {"seed": seed, "device": "cpu"}
    arguments["stats_window_size"] = config.num_envs  # the mean reward is that of the last round of chains
    if name == "sac":
        low_rank = SAC("MultiInputPolicy", envs, **arguments)
        last = low_rank.actor.mu  # acts by 0, which is the pretrained chain, until it has learnt
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
    """The most environment steps within a budget: Stable-Baselines3 ends with the rollout under way.

    Raises:
        ValueError: if one rollout takes more.
    """
    if isinstance(model, OnPolicyAlgorithm):
        each = model.n_steps * model.n_envs
    else:
        each = model.train_freq.frequency * model.n_envs  # type: ignore[attr-defined]  # of off-policy ones
    if each > budget:
        raise ValueError(
            f"one rollout takes {each} environment steps, the budget is {budget}: raise --steps, or make "
            "num_envs smaller"
        )
    return int(budget // each * each)


class InTurns(AnyVectorWrapper):
    """Several vector environments of the same chains, one after the other: each reset goes to the next.

    They differ in what their rewards hide (``relevance_draws``). Episodes all have T steps, so all
    sub-environments end together and a reset is always one of all.
    """

    def __init__(self, envs: Sequence[VectorEnv[Any, Any, Any]], seed: int) -> None:
        """Take environments with autoreset ``Disabled``, and seed each of them apart."""
        super().__init__(envs[0])
        self.envs_in_turn = list(envs)
        self._turn = -1
        for n, env in enumerate(envs):
            env.reset(seed=seed + 1_000_003 * n)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin the next environment's episodes; seeds are those of the constructor.

        Raises:
            ValueError: if some sub-environments shall go on, which another environment could not.
        """
        rest = dict(options or {})
        mask = rest.pop("reset_mask", None)
        if mask is not None and not mask.all():
            raise ValueError("environments in turns are reset all at once: their episodes end together")
        self._turn += 1
        self.env = self.envs_in_turn[self._turn % len(self.envs_in_turn)]
        return self.env.reset(options=rest or None)


class TimedRanking(RankingEvalCallback):
    """``RankingEvalCallback`` that knows how long it took.

    Attributes:
        seconds: spent in evaluations.
    """

    seconds = 0.0

    def _look(self) -> None:
        begin = time.perf_counter()
        super()._look()
        self.seconds += time.perf_counter() - begin


class RewardCurve(BaseCallback):
    """Keeps the mean reward of the episodes that ended last, once a rollout.

    Attributes:
        steps: environment steps.
        means: mean rewards there.
    """

    def __init__(self) -> None:
        """Nothing has been seen yet."""
        super().__init__()
        self.steps: list[float] = []
        self.means: list[float] = []

    def _on_step(self) -> bool:
        """Training goes on."""
        return True

    def _on_rollout_end(self) -> None:
        """Take a point."""
        episodes = self.model.ep_info_buffer
        if episodes:
            self.steps.append(float(self.num_timesteps))
            self.means.append(round(sum(episode["r"] for episode in episodes) / len(episodes), 6))


def _trpo() -> Any:
    """sb3-contrib's TRPO.

    Raises:
        ImportError: naming what to install.
    """
    try:
        from sb3_contrib import TRPO
    except ImportError as error:
        raise ImportError("TRPO needs sb3-contrib: pip install 'refit-env[zoo]'") from error
    return TRPO
