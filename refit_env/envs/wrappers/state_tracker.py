"""The state of the chains, which wrappers of single and of vector environments track and share.

Letters: N chains (1 in a single environment), D size of the diffused vector, A numbers of an action.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import VectorEnv, VectorWrapper
from torch import Tensor

from refit_env.envs.denoising import refuse_nonfinite
from refit_env.envs.problem import DenoisingProblem
from refit_env.envs.wrappers.transforms import (
    ActionMap,
    ChainState,
    ObservationMap,
    Observations,
    ResidualMap,
)

Env = gym.Env[Any, Any] | VectorEnv[Any, Any, Any]


class StateTracker:
    """The state of the chains, before wrappers change observations.

    The innermost wrapper of this package updates it; the others share it.

    Attributes:
        problem: the environment's problem.
    """

    def __init__(self, problem: DenoisingProblem) -> None:
        """Track no chain yet."""
        self.problem = problem
        self._u: Tensor | None = None  # (N, D)
        self._t: Tensor | None = None  # (N, 1)
        self._users: Tensor | None = None  # (N,)
        self._state: ChainState | None = None

    def update(
        self, observations: Observations, users: Tensor | None, where: Tensor | None, keep: bool
    ) -> None:
        """Update the state from an observation.

        Args:
            observations: the environment's own, ``t`` (N, 1) and ``u`` (N, D).
            users: (N,) int64 of the infos, or None.
            where: (N,) bool, the chains of these users; None: all.
            keep: whether the caller gets the same memory, so that it must be copied.
        """
        self._u = observations["u"].clone() if keep else observations["u"]
        self._t, self._state = observations["t"].clone(), None
        if users is not None:
            old = self._users
            self._users = users.clone() if old is None or where is None else torch.where(where, users, old)

    def state(self) -> ChainState:
        """Return the current state of the chains.

        Raises:
            gymnasium.error.ResetNeeded: if a chain has ended, or none has started.
        """
        if self._state is not None:
            return self._state
        if self._u is None or self._t is None or self._users is None:
            raise ResetNeeded("no episode is running: call reset() before step()")
        t = self._t[:, 0].long()  # (N,)
        first, last = int(t.min()), int(t.max())
        if last >= self.problem.num_steps:
            place = f"sub-environment {int(t.argmax())}" if len(t) > 1 else "this environment"
            raise ResetNeeded(f"{place} has no running episode: reset it before step()")
        context = self.problem.context(self._users)  # (N, C) or None
        self._state = ChainState(self._u, first if first == last else t, context)
        return self._state


def layers(env: Env) -> Iterator[Env]:
    """Return the environment and the environments that it wraps, outermost first."""
    yield env
    while isinstance(env, gym.Wrapper | VectorWrapper):
        env = env.env
        yield env


def problem_of(env: Any, wrapper: type, *, vector: bool) -> DenoisingProblem:
    """Return the problem of a denoising environment.

    Args:
        env: the environment to wrap.
        wrapper: the wrapper's class, for messages.
        vector: whether it must be a vector environment.

    Raises:
        ValueError: if it is not a denoising environment, or of the other kind.
    """
    name = wrapper.__name__
    wanted, other = (VectorEnv, gym.Env) if vector else (gym.Env, VectorEnv)
    if isinstance(env, other):
        module = "refit_env.envs.wrappers" + ("" if vector else ".vector")
        kind = "a single environment" if vector else "a vector environment"
        raise ValueError(f"{env} is {kind}: wrap it in {module}.{name}")
    problem = getattr(env.unwrapped, "problem", None) if isinstance(env, wanted) else None
    if not isinstance(problem, DenoisingProblem):
        made = "gym.make_vec" if vector else "gym.make"
        raise ValueError(
            f"{name} wraps denoising environments, such as {made}('ReFiT-Synthetic-v0'); found {env}"
        )
    return problem


def shown_vector(env: Env, wrapper: type) -> gym.spaces.Box:
    """Return the space of u in the environment's observations.

    Raises:
        ValueError: if another wrapper has removed t or u.
    """
    space = env.single_observation_space if isinstance(env, VectorEnv) else env.observation_space
    there = space.spaces if isinstance(space, gym.spaces.Dict) else {}
    vector = there.get("u")
    if "t" not in there or not isinstance(vector, gym.spaces.Box):
        raise ValueError(
            f"{wrapper.__name__} needs observations with t and u, and those of {env} are {space}: put it "
            "beneath the wrapper that removes them"
        )
    return vector


def read_actions(actions: Any, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the actions as a float32 tensor of ``shape`` (N, A) or (A,), without graph.

    Raises:
        ValueError: for another shape, NaN, infinity, or values that are not numbers.
    """
    if not isinstance(actions, Tensor):
        try:
            actions = torch.from_numpy(np.array(actions, dtype=np.float32))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"action {str(actions)[:80]} is not an array of shape {shape}: {error}"
            ) from error
    if tuple(actions.shape) != shape:
        raise ValueError(f"action of shape {tuple(actions.shape)}, expected {shape}")
    out: Tensor = actions.detach().to(device, torch.float32)
    if not math.isfinite(float(out.sum())):  # or the sum of finite numbers overflows
        refuse_nonfinite(out)
    return out


class Layer:
    """A wrapper of this package, single or vector: its maps of actions and of observations.

    Attributes:
        action_map: from its actions to those of the environment below; None does not change them.
        observation_map: from the observations below to its own; None does not change them.
        tracker: the state of the chains, shared by all layers of one environment.
    """

    action_map: ActionMap | None
    observation_map: ObservationMap | None
    tracker: StateTracker
    _tracks: bool

    def attach(
        self,
        env: Env,
        problem: DenoisingProblem,
        action_map: ActionMap | None,
        observation_map: ObservationMap | None,
    ) -> None:
        """Set the maps and the state, which is that of a layer below if there is one."""
        self.action_map, self.observation_map = action_map, observation_map
        below = next((layer for layer in layers(env) if isinstance(layer, Layer)), None)
        self._tracks = below is None
        if below is None:
            shown_vector(env, type(self))
        self.tracker = StateTracker(problem) if below is None else below.tracker

    def observed(
        self, observations: Observations, users: Tensor | None, where: Tensor | None
    ) -> Observations:
        """Update the state from the observations below (N, ...), and return this wrapper's."""
        if self._tracks:
            self.tracker.update(observations, users, where, keep=self.observation_map is None)
        return observations if self.observation_map is None else self.observation_map(observations)


def require_residual(env: Env, wrapper: type) -> None:
    """Raise an error for an environment whose actions are not residuals of ``ResidualAction``.

    Raises:
        ValueError: with the wrapper to add.
    """
    for layer in layers(env):
        if isinstance(layer, Layer) and layer.action_map is not None:
            if isinstance(layer.action_map, ResidualMap):
                return
            break
        if getattr(layer, "_action_space", None) is not None:
            break  # Gymnasium's wrappers set it where they change actions
    raise ValueError(
        f"{wrapper.__name__} needs an environment whose actions are residuals, because next vectors "
        f"themselves are not in a low-dimensional span. Wrap ResidualAction(env, policy), without a wrapper "
        f"between that changes actions, instead of {env}"
    )
