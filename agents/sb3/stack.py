"""The wrappers between an algorithm and its chains: which of them a diffusion policy can act through.

A diffusion policy must see the chain's vectors as they are, and its action must become the next one. Wrappers
of rewards, of episodes and of pictures leave that alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
from gymnasium import wrappers
from gymnasium.vector import VectorActionWrapper, VectorObservationWrapper
from gymnasium.wrappers import vector
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecNormalize,
)

from refit_env.envs.wrappers.state_tracker import Layer, layers

CHANGING = (gym.ObservationWrapper, gym.ActionWrapper, VectorObservationWrapper, VectorActionWrapper)
"""Bases of Gymnasium's wrappers that change what is observed or done."""
HARMLESS = (
    wrappers.DtypeObservation,
    wrappers.FilterObservation,
    wrappers.FlattenObservation,
    vector.DtypeObservation,
    vector.FilterObservation,
    vector.FlattenObservation,
)
"""Those whose result the policy reads, or refuses by its space."""
OTHERS = ("FrameStackObservation", "MaxAndSkipObservation", "NormalizeObservation", "RepeatAction")
"""Names of those that have another base; Gymnasium 1.2 lacks the last."""


def check_stack(envs: VecEnv) -> None:
    """Refuse wrappers behind which observations are not the chain's, or actions no next vectors.

    The environments of a ``SubprocVecEnv`` live in other processes and are not looked into.

    Args:
        envs: the environments of an algorithm, wrapped or not.

    Raises:
        ValueError: naming the wrapper, and what to do.
    """
    layer: Any = envs
    while isinstance(layer, VecEnvWrapper):
        _check_sb3(layer)
        layer = layer.venv
    for env in gym_envs(envs):
        for inner in layers(env):
            _check_gym(inner)


def gym_envs(envs: VecEnv) -> Iterable[Any]:
    """The Gymnasium environments, vector or single, that SB3's are made of; none of other processes."""
    base: Any = envs.unwrapped
    if not hasattr(base, "env"):
        return getattr(base, "envs", [])  # a DummyVecEnv, else a SubprocVecEnv
    return [base.env, *getattr(base.env.unwrapped, "envs", [])]  # a GymVecEnv, of a SyncVectorEnv too


def _check_sb3(layer: VecEnvWrapper) -> None:
    """Refuse SB3's wrappers that change observations."""
    if isinstance(layer, VecNormalize):
        keys = layer.norm_obs_keys
        if layer.norm_obs and (keys is None or keys):
            changed = "observations" if keys is None else ", ".join(keys)
            raise ValueError(
                f"VecNormalize changes {changed}, and the diffusion policy acts on the chain's own vectors: "
                "pass norm_obs=False. Its norm_reward may stay"
            )
    elif isinstance(layer, VecFrameStack) and layer.stacked_obs.n_stack > 1:
        raise ValueError(
            f"VecFrameStack shows {layer.stacked_obs.n_stack} vectors at once, and the diffusion policy acts "
            "on the chain's last one: leave it out. A chain's state holds all that there is to know"
        )
    elif isinstance(layer, VecExtractDictObs):
        raise ValueError(
            f"VecExtractDictObs shows {layer.key!r} alone, and the diffusion policy needs t, u and, where "
            "there is one, history: leave it out"
        )


def _check_gym(layer: Any) -> None:
    """Refuse wrappers of Gymnasium and of this package that change observations or actions."""
    name = type(layer).__name__
    if isinstance(layer, Layer) and layer.action_map is not None:
        raise ValueError(
            f"behind {name} an action is no next vector, which is what the diffusion policy gives: leave the "
            "wrapper out, or use SB3's own policies (SAC, TD3, TQC)"
        )
    if name in OTHERS or (isinstance(layer, CHANGING) and not isinstance(layer, HARMLESS)):
        raise ValueError(
            f"{name} changes observations or actions, and the diffusion policy acts on the chain's own "
            "vectors: leave it out, or use SB3's own policies (MultiInputPolicy, SAC)"
        )
