"""Checks the wrappers between an algorithm and its chains: a diffusion policy does not support all of them.

A diffusion policy needs the unchanged vectors of the chain, and its action must become the next vector.
Wrappers of rewards, of episodes and of rendering do not change these.
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
"""Bases of Gymnasium's wrappers that change observations or actions."""
HARMLESS = (
    wrappers.DtypeObservation,
    wrappers.FilterObservation,
    wrappers.FlattenObservation,
    vector.DtypeObservation,
    vector.FilterObservation,
    vector.FlattenObservation,
)
"""Allowed subclasses: the policy reads their observations, or refuses them by their space."""
OTHERS = ("FrameStackObservation", "MaxAndSkipObservation", "NormalizeObservation", "RepeatAction")
"""Names of refused wrappers with another base; Gymnasium 1.2 lacks the last."""


def check_stack(envs: VecEnv) -> None:
    """Raise an error for wrappers that change the chain's observations or actions.

    The environments of a ``SubprocVecEnv`` are in other processes and are not checked.

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
    """Return the Gymnasium environments, vector or single, inside SB3's; none that are in other processes."""
    base: Any = envs.unwrapped
    if not hasattr(base, "env"):
        return getattr(base, "envs", [])  # a DummyVecEnv, else a SubprocVecEnv
    return [base.env, *getattr(base.env.unwrapped, "envs", [])]  # a GymVecEnv, of a SyncVectorEnv too


def _check_sb3(layer: VecEnvWrapper) -> None:
    """Raise an error for SB3's wrappers that change observations."""
    if isinstance(layer, VecNormalize):
        keys = layer.norm_obs_keys
        if layer.norm_obs and (keys is None or keys):
            changed = "observations" if keys is None else ", ".join(keys)
            raise ValueError(
                f"VecNormalize changes {changed}, but the diffusion policy needs the chain's vectors: pass "
                "norm_obs=False. norm_reward is allowed"
            )
    elif isinstance(layer, VecFrameStack) and layer.stacked_obs.n_stack > 1:
        raise ValueError(
            f"VecFrameStack stacks {layer.stacked_obs.n_stack} vectors, but the diffusion policy needs only "
            "the chain's last one, which is the whole state: remove the wrapper"
        )
    elif isinstance(layer, VecExtractDictObs):
        raise ValueError(
            f"VecExtractDictObs keeps only {layer.key!r}, but the diffusion policy needs t, u and, if there "
            "is one, history: remove the wrapper"
        )


def _check_gym(layer: Any) -> None:
    """Raise an error for wrappers of Gymnasium and of this package that change observations or actions."""
    name = type(layer).__name__
    if isinstance(layer, Layer) and layer.action_map is not None:
        raise ValueError(
            f"with {name} an action is not the next vector, which the diffusion policy returns: remove the "
            "wrapper, or use SB3's policies (SAC, TD3, TQC)"
        )
    if name in OTHERS or (isinstance(layer, CHANGING) and not isinstance(layer, HARMLESS)):
        raise ValueError(
            f"{name} changes observations or actions, but the diffusion policy needs the chain's vectors: "
            "remove the wrapper, or use SB3's policies (MultiInputPolicy, SAC)"
        )
