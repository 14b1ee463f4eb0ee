"""The vector environment: many denoising chains as one batched state.

Letters: N sub-environments, n of them that start or end now, D size of the diffused vector, K list length,
L history length, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from refit_env.data.dataset import Dataset
from refit_env.envs.backend import BACKENDS, Bools, Ints, spread_ids
from refit_env.envs.config import read_config
from refit_env.envs.denoising import (
    METADATA,
    USER_OPTIONS,
    as_numbers,
    as_options,
    check_render_mode,
    make_spaces,
    refuse_nonfinite,
)
from refit_env.envs.problem import make_problem
from refit_env.envs.render import Renderer
from refit_env.envs.rngs import Generators
from refit_env.envs.surroundings import check_limit, check_tensor_wrappers
from refit_env.envs.vector_options import check_arguments, read_mask, read_users, resolve_autoreset
from refit_env.errors import unknown_name
from refit_env.settings import check_setting


class DenoisingVectorEnv(VectorEnv[Any, Any, Any]):
    """The batched ``DenoisingEnv`` that ``gym.make_vec`` makes.

    ## Description

    N chains step together. With the same seeds and actions its results equal those of
    ``SyncVectorEnv([DenoisingEnv] * N, autoreset_mode=SAME_STEP)`` bit for bit: sub-environment i has its own
    generator, with the seed ``seed + i``. A step needs little more time than the copy of its actions; see
    ``benchmarks/env_throughput.py``.

    ## Action Space

    ``Box(-6, 6, (N, D), float32)``: the next vectors. NaN, infinity or another shape raises ``ValueError``.
    With ``backend="torch"`` a tensor; it is copied, without its graph.

    ## Observation Space

    ``Dict(t=Box(0, T, (N, 1)), u=Box(-6, 6, (N, D)))``, float32, and ``history`` where ``DenoisingEnv`` has
    it. With ``backend="torch"`` observations, rewards, flags and infos are tensors on ``device``, and no
    vector is copied through the host. A returned array never changes later; its memory is used again only
    when no reference to it is left.

    ## Rewards

    Those of ``DenoisingEnv``: (N,) float64 arrays, or float32 tensors.

    ## Starting State

    That of ``DenoisingEnv``. All chains have length T, so without partial resets they start and end
    together, and rewards and starting states are computed in one batch.

    ## Episode End

    ``autoreset_mode="SameStep"`` (default): at an end the returned observation is the first of the next
    chain. ``info["final_obs"]`` (an object array of dicts, or one dict of tensors with the torch backend) and
    ``info["final_info"]`` describe the chain that ended; beside each value, ``_name`` is the mask of the
    sub-environments that have it. ``"Disabled"``: the last observation is returned and ``info`` holds the
    terms; ``reset(options={"reset_mask": bools})`` then starts new chains where the mask is true.
    ``"NextStep"``, a default of Gymnasium, raises an error: it would add a transition without meaning to
    every T.

    ## Arguments

    Those of ``DenoisingEnv``, and

    | argument | default | meaning |
    |---|---|---|
    | ``num_envs`` | 1 | N |
    | ``backend`` | ``"numpy"`` | or ``"torch"`` |
    | ``device`` | ``"cpu"`` | device of the tensors; a GPU needs ``backend="torch"`` |
    | ``autoreset_mode`` | ``"SameStep"`` | or ``"Disabled"`` |

    ``reset(options={"user": numbers})`` accepts one number for all, or N of them (list, array or tensor);
    ``"user_id"`` accepts the source's ids in the same way. With ``source_ids``, ``user_id`` and ``top_k_ids``
    are NumPy arrays in both backends, because tensors cannot hold text.

    >>> import gymnasium as gym
    >>> import refit_env
    >>> envs = gym.make_vec("ReFiT-Synthetic-v0", num_envs=3)
    >>> observation, info = envs.reset(seed=0, options={"user": [5, 6, 7]})
    >>> for _ in range(4):
    ...     observation, reward, terminated, truncated, info = envs.step(observation["u"])
    >>> terminated.tolist(), info["final_info"]["user"].tolist(), info["final_info"]["top_k"].shape
    ([True, True, True], [5, 6, 7], (3, 20))

    ## Version History

    * v0: initial version.
    """

    metadata = METADATA | {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(
        self,
        data: str | Path | Dataset | None = None,
        *,
        num_envs: int = 1,
        render_mode: str | None = None,
        backend: str = "numpy",
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        max_episode_steps: int | None = None,
        source_ids: bool = False,
        **settings: Any,
    ) -> None:
        """Make the environments; the class's docstring describes the arguments.

        ``settings`` are fields of ``ProblemConfig``. ``max_episode_steps``, an argument of ``gym.make_vec``,
        must not be below T.

        Raises:
            ValueError: for a wrong name or setting; the message states the right one.
            DataError: if the data set is missing or breaks a rule.
        """
        config = read_config(type(self), data, settings)
        check_arguments(num_envs, backend, config.device)
        check_setting("source_ids", source_ids, bool)
        check_render_mode(render_mode)
        check_limit(max_episode_steps, config.num_steps)
        self.autoreset_mode = resolve_autoreset(autoreset_mode)
        self.metadata = type(self).metadata | {"autoreset_mode": self.autoreset_mode}
        self.problem = make_problem(config)
        self.num_envs, self.backend, self.device = num_envs, backend, self.problem.device
        self.source_ids = source_ids
        self.single_observation_space, self.single_action_space = make_spaces(self.problem)
        self.render_mode = render_mode
        self._renderers = [Renderer(self.problem) for _ in range(num_envs)] if render_mode is not None else []
        self._backend = BACKENDS[backend](num_envs, self.problem.dim, self.device)
        self._generators = Generators(num_envs)
        self._t = np.full(num_envs, config.num_steps, np.int64)  # (N,) steps taken; T: no chain is running
        self._users = np.full(num_envs, -1, dtype=np.int64)
        self._u = torch.empty(0)  # (N, D) the vectors of the last observation
        self._context: Tensor | None = None  # (N, L) the histories shown

    # Batched boxes hold several (N, D) arrays, so they are made at their first use.

    @cached_property
    def observation_space(self) -> gym.Space[Any]:  # type: ignore[override]
        """The batched observation space."""
        return batch_space(self.single_observation_space, self.num_envs)

    @cached_property
    def action_space(self) -> gym.Space[Any]:  # type: ignore[override]
        """The batched action space."""
        return batch_space(self.single_action_space, self.num_envs)

    # ------------------------------------------------------------------ reset

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start new chains, in all sub-environments or where a mask is true.

        Args:
            seed: an int (sub-environment i gets ``seed + i``), N of them, or None to keep the generators.
            options: ``"user"``: one number for all, or N numbers (list, array or tensor), of which those
                under the mask are used; ``"user_id"``: the same with the source's ids; ``"reset_mask"``: (N,)
                bool.

        Returns:
            The observations of all chains, and ``{"user": (N,), "_user": mask}``; with ``source_ids`` also
            ``user_id``.

        Raises:
            ValueError: for wrong users, options or lengths, and (torch backend) under wrappers that need
                NumPy arrays.
        """
        if self.backend == "torch":
            check_tensor_wrappers(self, self.device.type == "cpu")
        named = as_options(options)
        for name in named:
            if name not in ("reset_mask", *USER_OPTIONS):
                raise unknown_name("reset option", name, ["reset_mask", *USER_OPTIONS])
        begun = self._u.numel() > 0
        chosen = read_mask(named.get("reset_mask"), self.num_envs, begun)  # (N,)
        where = np.flatnonzero(chosen)  # (n,)
        users = read_users(named, where, self.num_envs, self.problem)
        if seed is not None:
            self._generators.seed(seed, where)
        self._begin(where, users)
        return self._observation(), self._users_info(chosen)

    def _begin(self, where: Ints, users: Ints | None) -> None:
        """Start new chains at the places ``where`` (n,); users are drawn if None."""
        noise = None
        if users is None or self.problem.needs_noise:
            generators = self._generators.of(where)
            if users is None:
                users = self.problem.draw_users(generators)
            if self.problem.needs_noise:
                rows = [g.standard_normal(self.problem.dim, dtype=np.float32) for g in generators]
                noise = self._backend.tensor(np.stack(rows))  # (n, D)
        self._users[where] = users
        ids = self._backend.tensor(users)  # (n,)
        fresh = self._backend.empty()  # (N, D)
        context = self.problem.context(ids)  # (n, L) or None
        self._t[where] = 0
        if where.size == self.num_envs:
            self._u = self.problem.initial_state(ids, noise, out=fresh)
            self._context = context
        else:
            self._u = fresh.copy_(self._u)
            self._u[self._backend.tensor(where)] = self.problem.initial_state(ids, noise)
            if context is not None and self._context is not None:
                self._context = self._context.index_copy(0, self._backend.tensor(where), context)
        if self._renderers:
            for i in where:
                self._renderers[i].begin(int(self._users[i]), self._u[i].cpu().numpy())

    # ------------------------------------------------------------------ randomness

    @property  # type: ignore[misc]  # read-only, as in SyncVectorEnv
    def np_random(self) -> Any:
        """The sub-environments' generators."""
        return tuple(self._generators.of(np.arange(self.num_envs)))

    @property
    def np_random_seed(self) -> Any:
        """The sub-environments' seeds."""
        return self._generators.seeds

    # ------------------------------------------------------------------ step

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Make the actions the next vectors.

        Args:
            actions: (N, D), an array or (torch backend) a tensor.

        Returns:
            Observations, rewards, terminated, truncated (always false), infos; see the class's docstring.

        Raises:
            ValueError: for NaN, infinity or a wrong shape; no chain changes.
            gymnasium.error.ResetNeeded: if a chain has ended, or none has started.
        """
        make, over = self._backend, self._ended()
        if over is not None:
            first = int(np.argmax(over))
            raise ResetNeeded(f"sub-environment {first} has no running episode: reset it before step()")
        self._u = self._copied(actions)
        self._t += 1
        for i, renderer in enumerate(self._renderers):
            renderer.add(self._u[i].cpu().numpy())
        ended = self._ended()
        if ended is None:
            return self._observation(), make.no_rewards(), make.flags(), make.flags(), {}
        rewards, info = self._end(ended)
        return self._observation(), rewards, make.flags(ended), make.flags(), info

    def _ended(self) -> Bools | None:
        """(N,) whether each chain has ended; None if none has."""
        over = self._t >= self.problem.num_steps  # (N,)
        return over if over.any() else None

    def _copied(self, actions: Any) -> Tensor:
        """Return a checked copy of the actions, (N, D)."""
        shape = (self.num_envs, self.problem.dim)
        if not isinstance(actions, Tensor):
            array = as_numbers(actions, shape)
            actions = torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
        elif tuple(actions.shape) != shape:
            raise ValueError(f"actions of shape {tuple(actions.shape)}, expected {shape}: the next vectors")
        u = self._backend.empty().copy_(actions.detach())  # (N, D)
        # A sum is NaN or infinite if a number is; the copy is still in the cache. The sum of finite numbers
        # can overflow, so each number is checked then.
        if not math.isfinite(float(u.sum())):
            refuse_nonfinite(u)
        return u

    def _end(self, ended: Bools) -> tuple[Any, dict[str, Any]]:
        """Return rewards and infos of the chains that ended; with SAME_STEP, new chains replace them."""
        make, where = self._backend, np.flatnonzero(ended)  # where: (n,)
        last, users = self._u, make.tensor(self._users[where])  # (N, D), (n,)
        u0 = last if where.size == self.num_envs else last[make.tensor(where)]  # (n, D)
        paid, terms, lists = self.problem.score(u0, users, finite=True)
        rewards = make.spread(paid, where)
        infos: dict[str, Any] = make.info({k: make.spread(v, where) for k, v in terms.items()}, ended)
        infos |= self._users_info(ended) | make.info({"top_k": make.spread(lists, where)}, ended)
        if self.source_ids:
            items = self.problem.dataset.items_by_id.take(lists.cpu().numpy())  # (n, K)
            infos |= make.info({"top_k_ids": spread_ids(items, where, self.num_envs)}, ended)
        if self.autoreset_mode == AutoresetMode.DISABLED:
            return rewards, infos
        final = {
            "final_obs": make.final_observation(last, self._t, where, self._context),
            "_final_obs": make.flags(ended),
        }
        final |= {"final_info": infos, "_final_info": make.flags(ended)}
        self._begin(where, None)
        return rewards, final | self._users_info(ended)

    def _users_info(self, mask: Bools) -> dict[str, Any]:
        """Return the users of the masked chains, for infos."""
        users = {"user": self._backend.ids(np.where(mask, self._users, 0))}
        if self.source_ids:
            where = np.flatnonzero(mask)  # (n,)
            own = self.problem.dataset.users_by_id.take(self._users[where])  # (n,)
            users["user_id"] = spread_ids(own, where, self.num_envs)
        return self._backend.info(users, mask)

    def _observation(self) -> dict[str, Any]:
        """Return the observation (N, ...)."""
        u = self._u
        if self.autoreset_mode == AutoresetMode.DISABLED:
            # A partial reset returns the vectors again, and the caller may write to these.
            u = self._backend.empty().copy_(u)
        out = {"t": self._backend.steps(self._t), "u": self._backend.vectors(u)}
        if self._context is None:
            return out
        history = self._backend.vectors(self._context.clone())
        return {"history": history} | out  # sorted, as the keys of the space

    def render(self) -> Any:
        """Return a tuple with each sub-environment's text or picture; None without a render mode."""
        if not self._renderers:
            return None
        if bool((self._users < 0).any()):
            raise ResetNeeded("reset the environments before their chains are rendered")
        return tuple(r.text() if self.render_mode == "ansi" else r.picture() for r in self._renderers)
