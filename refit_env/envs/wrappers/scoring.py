"""Item scores of an agent that acts in a wrapped environment, for evaluation on any user.

Letters: B users in a batch, D size of the diffused vector, I items, T steps, A numbers of an action.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorActionWrapper, VectorEnv, VectorObservationWrapper
from gymnasium.wrappers import TransformAction, TransformObservation
from gymnasium.wrappers import vector as gym_vector
from torch import Tensor

from refit_env.data.dataset import Dataset
from refit_env.data.rows import SparseRows
from refit_env.envs.problem import DenoisingProblem
from refit_env.envs.wrappers.state_tracker import Env, Layer, layers, read_actions
from refit_env.envs.wrappers.transforms import ChainState, ResidualMap
from refit_env.evaluation.ranking import ScoreFunction
from refit_env.policy import DiffusionPolicy

Act = Callable[[Any], Any]
"""Batched observations -> batched actions of the wrapped environment."""

Observe = Callable[[Any], Any]
Resolve = Callable[[Any, ChainState], Any]


def chain_scorer(env: Env, act: Act, dataset: Dataset | None = None) -> ScoreFunction:
    """Return a function users (B,) -> scores (B, I) for ``refit_env.evaluation.ranking.evaluate``.

    Whole chains run through the environment's observation and action maps, but not through the environment:
    any number of any users can be scored, and the environment's own episodes do not change. Chains start in
    the users' full train rows, as in the published protocol and in ``DiffusionPolicy.scorer``, also where the
    environment hides a part of them.

    Args:
        env: a denoising environment, single or vector, in this package's wrappers and Gymnasium's
            ``TransformObservation`` and ``TransformAction`` with their subclasses (``FlattenObservation``,
            ``RescaleAction``, ...); other wrappers must change neither observations nor actions.
        act: from observations (B, ...), arrays or (torch backend) tensors, to actions (B, A); deterministic
            for a deterministic evaluation.
        dataset: its train rows are the starting states; None uses the environment's.

    Returns:
        users (B,) int64 -> scores (B, I) float32, without graph.

    Raises:
        ValueError: if env is not a denoising environment, a wrapper is not supported, the data set has
            another catalogue, or vectors are not scores and no policy in the wrappers can score them; later,
            if ``act`` returns NaN, infinity or another shape.

    Example:
        >>> import gymnasium as gym
        >>> import refit_env
        >>> env = gym.make("ReFiT-Synthetic-v0")
        >>> score = chain_scorer(env, act=lambda observations: observations["u"])  # leaves u as it is
        >>> score(torch.tensor([7, 3])).shape
        torch.Size([2, 400])
    """
    problem, policy = _problem(env), _policy(env)
    dataset = problem.dataset if dataset is None else dataset
    _check(problem, policy, dataset)
    stages = [_stage(layer, problem.device) for layer in list(layers(env))[:-1]]  # outermost first
    space = env.single_action_space if isinstance(env, VectorEnv) else env.action_space
    arrays = getattr(env.unwrapped, "backend", "numpy") == "numpy"
    shown = _shown(policy, dataset, problem.device)

    @torch.no_grad()
    def score(users: Tensor) -> Tensor:
        ids = users.to(problem.device)  # (B,)
        u, context = _start(ids, shown(ids), policy)  # (B, D)
        for t in range(problem.num_steps):
            seen: Any = {} if context is None else {"history": context.clone()}
            seen |= {"t": torch.full((len(ids), 1), float(t), device=u.device), "u": u.clone()}
            for observe, _ in reversed(stages):
                seen = observe(seen)
            given = act(_as_arrays(seen) if arrays else seen)
            actions: Any = read_actions(given, (len(ids), *(space.shape or ())), problem.device)  # (B, A)
            for _, resolve in stages:
                actions = resolve(actions, ChainState(u, t, context))
            u = actions  # (B, D)
        scores = u if policy is None else policy.backbone.scores(u, ids, context)  # (B, I)
        return scores.to(users.device)

    return score


def _check(problem: DenoisingProblem, policy: DiffusionPolicy | None, dataset: Dataset) -> None:
    """Raise an error for a data set or a chain that cannot be scored."""
    if dataset.num_items != problem.num_items:
        raise ValueError(
            f"the environment ranks {problem.num_items} items, "
            f"data set {dataset.name!r} has {dataset.num_items}"
        )
    if policy is None and problem.dim != problem.num_items:
        raise ValueError(
            f"the chain's {problem.dim} numbers are not scores of {problem.num_items} items: wrap the "
            "environment in ResidualAction, whose policy scores them"
        )


def _shown(
    policy: DiffusionPolicy | None, dataset: Dataset, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Return the function users (B,) -> the policy's input; without a policy, their train rows (B, I)."""
    return (
        SparseRows(dataset.train.csr, device).dense
        if policy is None
        else policy.backbone.shown(dataset, device)
    )


def _start(users: Tensor, shown: Tensor, policy: DiffusionPolicy | None) -> tuple[Tensor, Tensor | None]:
    """u_T (B, D) and the context of ``users`` (B,) with the input ``shown``."""
    if policy is None:
        return shown, None
    return policy.backbone.initial_state(users, shown), policy.backbone.context(users, shown)


def _problem(env: Env) -> DenoisingProblem:
    """Return the environment's problem."""
    problem = getattr(getattr(env, "unwrapped", None), "problem", None)
    if not isinstance(problem, DenoisingProblem):
        raise ValueError(f"chain_scorer needs a denoising environment, wrapped or not; found {env}")
    return problem


def _policy(env: Env) -> DiffusionPolicy | None:
    """Return the policy of the ``ResidualAction`` among the wrappers."""
    for layer in layers(env):
        if isinstance(layer, Layer) and isinstance(layer.action_map, ResidualMap):
            return layer.action_map.policy
    return None


def _stage(layer: Any, device: torch.device) -> tuple[Observe, Resolve]:
    """Return the maps of one wrapper, of batches of observations and of actions.

    Raises:
        ValueError: if the wrapper is not supported.
    """
    if isinstance(layer, Layer):
        see, do = layer.observation_map, layer.action_map
        return see or _same, do or _same_action
    if isinstance(layer, TransformObservation):
        return _each(layer.func, device), _same_action
    if isinstance(layer, gym_vector.VectorizeTransformObservation):
        return _each(layer.wrapper.func, device), _same_action
    if isinstance(layer, TransformAction):
        return _same, _each_action(layer.func, device)
    if isinstance(layer, gym_vector.VectorizeTransformAction):
        return _same, _each_action(layer.wrapper.func, device)
    changing = (gym.ObservationWrapper, gym.ActionWrapper, VectorObservationWrapper, VectorActionWrapper)
    spaces = ("_observation_space", "_single_observation_space", "_action_space", "_single_action_space")
    if isinstance(layer, changing) or any(getattr(layer, name, None) is not None for name in spaces):
        raise ValueError(
            f"chain_scorer does not support {type(layer).__name__}, which changes observations or actions: "
            "do its work in act, and pass the environment below it"
        )
    return _same, _same_action


def _same(observations: Any) -> Any:
    """Observations, unchanged."""
    return observations


def _same_action(actions: Any, state: ChainState) -> Any:
    """Return the actions unchanged."""
    return actions


def _each(function: Callable[[Any], Any], device: torch.device) -> Observe:
    """Return a function that applies a function of single arrays to each array of a batch."""

    def of_batch(value: Any) -> Any:
        batch = _as_arrays(value)
        if isinstance(batch, dict):
            count = len(next(iter(batch.values())))
            out = [function({name: item[i] for name, item in batch.items()}) for i in range(count)]
        else:
            out = [function(item) for item in batch]
        if isinstance(out[0], dict):
            return {name: _stacked([one[name] for one in out], device) for name in out[0]}
        return _stacked(out, device)

    return of_batch


def _each_action(function: Callable[[Any], Any], device: torch.device) -> Resolve:
    """``_each`` for actions."""
    of_batch = _each(function, device)
    return lambda actions, state: of_batch(actions)


def _stacked(rows: list[Any], device: torch.device) -> Tensor:
    """Arrays as a batch (B, ...)."""
    return torch.from_numpy(np.stack(rows)).to(device, torch.float32)


def _as_arrays(value: Any) -> Any:
    """Convert a tensor or a dictionary of tensors to arrays."""
    if isinstance(value, dict):
        return {name: item.cpu().numpy() for name, item in value.items()}
    return value.cpu().numpy()
