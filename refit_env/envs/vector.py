"""Many denoising chains at once: one batched state, no Python loop over environments.

Letters: N sub-environments, D size of the diffused vector, K list length, T steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from refit_env.data.dataset import Dataset
from refit_env.envs.buffers import ArrayPool, copy_checked
from refit_env.envs.denoising import RENDER_MODES, check_action, make_spaces
from refit_env.envs.problem import BOUND, ProblemConfig, make_problem
from refit_env.envs.render import Renderer
from refit_env.rewards.registry import RewardSpec

BACKENDS = ("numpy", "torch")
"""Names for ``backend``."""

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class DenoisingVectorEnv(VectorEnv[Any, Any, Any]):
    """``DenoisingEnv`` in a batch; what ``gym.make_vec`` makes.

    ## Description

    N chains step at once. With the same seeds and actions it gives exactly what
    ``SyncVectorEnv([DenoisingEnv] * N, autoreset_mode=SAME_STEP)`` gives, bit for bit: sub-environment i is
    seeded ``seed + i`` and draws from a generator of its own.

    ## Action Space and Observation Space

    Those of ``DenoisingEnv``, batched: actions (N, D); observations ``t`` (N, 1) and ``u`` (N, D), float32.
    With ``backend="torch"`` actions, observations, rewards and infos are tensors on ``device``; nothing
    passes through the host. Returned arrays never share memory with earlier ones that are still held.

    ## Rewards

    Those of ``DenoisingEnv``: float64 (N,) with NumPy, float32 (N,) tensors with torch.

    ## Episode End

    ``autoreset_mode="SameStep"`` (default): at an end the returned observation is the next chain's first one;
    ``info["final_obs"]`` (object array of dicts) and ``info["final_info"]`` hold the end's. With the torch backend
    ``final_obs`` is one dict of tensors. ``"Disabled"``: the end's observation is returned, terms are in ``info``, and
    ``reset(options={"reset_mask": bools})`` begins new chains where the mask says so.

    ## Arguments

    Those of ``DenoisingEnv``, and ``num_envs``, ``backend``, ``device``, ``autoreset_mode``.
    ``reset(options={"user": ids})`` takes one id for all, or N of them.

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

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": RENDER_MODES,
        "render_fps": 2,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        data: str | Path | Dataset | None = None,
        *,
        num_envs: int = 1,
        num_steps: int = 4,
        reward: RewardSpec = "racs",
        relevance: str | None = None,
        k: int = 20,
        start: str = "history",
        reward_kwargs: Mapping[str, Any] | None = None,
        relevance_kwargs: Mapping[str, Any] | None = None,
        backbone: str = "diffrec",
        bound: float = BOUND,
        render_mode: str | None = None,
        backend: str = "numpy",
        device: str = "cpu",
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        max_episode_steps: int | None = None,
    ) -> None:
        """Make the environments; the class's docstring explains the arguments.

        Raises:
            ValueError: for a wrong name or setting, with what would be right.
            DataError: if the data are not there or break a rule.
        """
        config = ProblemConfig(
            data=data,
            backbone=backbone,
            num_steps=num_steps,
            reward=reward,
            relevance=relevance,
            k=k,
            start=start,
            reward_kwargs=reward_kwargs,
            relevance_kwargs=relevance_kwargs,
            bound=bound,
            device=device,
        )
        if backend not in BACKENDS:
            raise ValueError(f"backend={backend!r} must be one of {', '.join(BACKENDS)}")
        if backend == "numpy" and torch.device(device).type != "cpu":
            raise ValueError(f"device={device!r} needs backend='torch'; NumPy arrays live on the CPU")
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs} must be at least 1")
        if max_episode_steps is not None and max_episode_steps < num_steps:
            raise ValueError(f"max_episode_steps={max_episode_steps}: a chain ends by itself after T={num_steps} steps")
        self.problem = make_problem(config)
        self.num_envs, self.backend, self.device = num_envs, backend, torch.device(device)
        self.single_observation_space, self.single_action_space = make_spaces(self.problem.dim, num_steps, bound)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = type(self).metadata | {"autoreset_mode": self.autoreset_mode}  # type: ignore[misc]
        self.render_mode = render_mode
        self._renderers = [Renderer(self.problem) for _ in range(num_envs)] if render_mode is not None else []
        self._pool = ArrayPool((num_envs, self.problem.dim))
        self._generators: list[np.random.Generator] | None = None
        self._seeds: tuple[int, ...] = (-1,) * num_envs
        self._t = np.full(num_envs, num_steps, dtype=np.int64)
        self._users = np.full(num_envs, -1, dtype=np.int64)
        self._u: Any = None  # what was returned last: where a masked reset leaves the others

    # ------------------------------------------------------------------ reset

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin new chains, in all sub-environments or where a mask says so.

        Args:
            seed: an int (sub-environment i takes ``seed + i``), one for each, or None to go on drawing.
            options: ``"user"``: an id for all, or N ids (list, array or tensor); ``"reset_mask"``: (N,) bool.

        Raises:
            ValueError: for wrong users, options or lengths.
        """
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        wanted = options.pop("user", None)
        if options:
            raise ValueError(f"unknown reset option {sorted(options)[0]!r}; known: reset_mask, user")
        chosen = np.ones(self.num_envs, np.bool_) if mask is None else self._check_mask(mask)
        if seed is not None:
            self._seed(seed, chosen)
        where = np.flatnonzero(chosen)
        self._begin(where, self._named_users(wanted, where))
        return self._observe(self._u), self._info({"user": self._users}, chosen)

    def _begin(self, where: Ints, users: Ints | None) -> None:
        """Put new chains at the places ``where``; users are drawn unless given."""
        if users is None:
            users = np.array([self.problem.draw_user(self._rng(i)) for i in where], dtype=np.int64)
        noise = None
        if self.problem.needs_noise:
            rows = [self._rng(i).standard_normal(self.problem.dim, dtype=np.float32) for i in where]
            noise = torch.from_numpy(np.stack(rows)).to(self.device)
        ids = torch.from_numpy(users).to(self.device)
        start = self.problem.initial_state(ids, noise)  # (n, D)
        self._t[where], self._users[where] = 0, users
        if where.size == self.num_envs:
            self._u = start if self.backend == "torch" else start.numpy()
        else:
            whole = self._u.clone() if self.backend == "torch" else self._u.copy()
            whole[torch.from_numpy(where) if self.backend == "torch" else where] = start if self.backend == "torch" else start.numpy()
            self._u = whole
        for i, row in zip(where, start if self._renderers else [], strict=False):
            self._renderers[i].begin(int(self._users[i]), row.cpu().numpy())

    def _named_users(self, wanted: Any, where: Ints) -> Ints | None:
        """The users that the options name for the places ``where``, checked; None if they name none."""
        if wanted is None:
            return None
        if isinstance(wanted, int | np.integer):
            return np.full(where.size, self.problem.check_user(int(wanted)), dtype=np.int64)
        users = torch.as_tensor(wanted)
        if users.shape != (self.num_envs,) or users.is_floating_point() or users.dtype == torch.bool:
            raise ValueError(
                f"options['user'] must be one whole number or {self.num_envs} of them, got shape {tuple(users.shape)} of {users.dtype}"
            )
        ids = users.cpu().numpy().astype(np.int64)[where]
        self.problem.check_users(torch.from_numpy(ids))
        return cast("Ints", ids)

    def _check_mask(self, mask: Any) -> Bools:
        """A reset mask as a NumPy array."""
        array = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask)
        if array.shape != (self.num_envs,) or array.dtype != np.bool_:
            raise ValueError(
                f"options['reset_mask'] must be {self.num_envs} booleans, got shape {array.shape} of {array.dtype}"
            )
        if not array.any():
            raise ValueError("options['reset_mask'] must be true somewhere")
        if self._u is None and not array.all():
            raise ValueError("the first reset() must begin every chain: leave out options['reset_mask']")
        return array

    # ------------------------------------------------------------------ randomness

    def _rng(self, index: int) -> np.random.Generator:
        """The generator of one sub-environment; randomly seeded if ``reset`` never was."""
        if self._generators is None:
            self._seed([None] * self.num_envs, np.ones(self.num_envs, np.bool_))
        assert self._generators is not None
        return self._generators[index]

    def _seed(self, seed: int | Sequence[int | None], chosen: Bools) -> None:
        """Seed the chosen sub-environments, as SyncVectorEnv would."""
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed: {len(seeds)} seeds for num_envs={self.num_envs}")
        if self._generators is None:
            made = [seeding.np_random(s) for s in seeds]
            self._generators = [generator for generator, _ in made]
            self._seeds = tuple(int(s) for _, s in made)
            return
        for i in np.flatnonzero(chosen):
            if seeds[i] is not None:
                self._generators[i], number = seeding.np_random(seeds[i])
                self._seeds = (*self._seeds[:i], int(number), *self._seeds[i + 1 :])

    @property
    def np_random(self) -> Any:
        """The sub-environments' generators."""
        return tuple(self._rng(i) for i in range(self.num_envs))

    @property
    def np_random_seed(self) -> Any:
        """The sub-environments' seeds."""
        self._rng(0)
        return self._seeds

    # ------------------------------------------------------------------ step

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take the next vectors.

        Args:
            actions: (N, D), an array or (torch backend) a tensor on the environment's device.

        Returns:
            Observations, rewards, terminated, truncated, infos; see the class's docstring.

        Raises:
            ValueError: for NaN, infinity or a wrong shape, or a chain that is over and was not reset.
        """
        if self._u is None or (self._t >= self.problem.num_steps).any():
            raise ValueError("a chain is over or was never begun: call reset() (with options['reset_mask']) before step()")
        self._u = self._take(actions)
        self._t += 1
        for i, renderer in enumerate(self._renderers):
            renderer.add(np.asarray(self._u[i]))
        ended = self._t == self.problem.num_steps  # (N,)
        if not ended.any():
            return self._observe(self._u), self._zeros(), *self._flags(ended), {}
        rewards, info = self._end(ended)
        return self._observe(self._u), rewards, *self._flags(ended), info

    def _take(self, actions: Any) -> Any:
        """A checked copy of the actions (N, D)."""
        shape = (self.num_envs, self.problem.dim)
        if self.backend == "torch" and self.device.type != "cpu":
            tensor = torch.as_tensor(actions, dtype=torch.float32, device=self.device)
            if tuple(tensor.shape) != shape:
                raise ValueError(f"actions of shape {tuple(tensor.shape)}, expected {shape}: the next vectors")
            if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
                raise ValueError("actions hold NaN or infinity; every number must be finite")
            return tensor.detach().clone()
        source = actions.detach().numpy() if isinstance(actions, Tensor) else np.asarray(actions, dtype=np.float32)
        if source.dtype != np.float32 or source.shape != shape:
            source = check_action(source, shape)
        out = self._pool.take()
        if not copy_checked(source, out):
            check_action(source, shape)  # says where, or finds that only the sum overflowed
        return torch.from_numpy(out) if self.backend == "torch" else out

    def _end(self, ended: Bools) -> tuple[Any, dict[str, Any]]:
        """Pay the chains that ended, tell how, and (SAME_STEP) begin new ones in their place."""
        where = np.flatnonzero(ended)
        last = self._u
        u0 = torch.from_numpy(last) if self.backend == "numpy" else last
        if where.size < self.num_envs:
            u0 = u0[torch.from_numpy(where).to(self.device)]
        paid, terms, lists = self.problem.score(u0, torch.from_numpy(self._users[where]).to(self.device))
        rewards = self._scatter(paid, where)
        told: dict[str, Any] = {name: self._scatter(value, where) for name, value in terms.items()}
        told |= {"user": self._users.copy(), "top_k": self._scatter(lists, where)}
        told["user"][~ended] = 0
        if self.autoreset_mode == AutoresetMode.DISABLED:
            return rewards, self._info(told, ended)
        info: dict[str, Any] = {"final_obs": self._final_observations(last, where)}
        info["_final_obs"] = self._mask(ended)
        info["final_info"], info["_final_info"] = self._info(told, ended), self._mask(ended)
        self._begin(where, None)
        return rewards, info | self._info({"user": np.where(ended, self._users, 0)}, ended)

    def _final_observations(self, last: Any, where: Ints) -> Any:
        """The ended chains' last observations: Gymnasium's array of dicts, or one dict of tensors."""
        end = np.float32(self.problem.num_steps)
        if self.backend == "torch":
            t = torch.from_numpy(self._t.astype(np.float32)).to(self.device)[:, None]
            return {"t": t, "u": last}
        out = np.full(self.num_envs, None, dtype=object)
        for i in where:
            out[i] = {"t": np.array([end]), "u": last[i]}
        return out

    # ------------------------------------------------------------------ what is returned

    def _observe(self, u: Any) -> dict[str, Any]:
        t = self._t.astype(np.float32)[:, None]  # (N, 1), fresh
        return {"t": torch.from_numpy(t).to(self.device) if self.backend == "torch" else t, "u": u}

    def _flags(self, ended: Bools) -> tuple[Any, Any]:
        return self._mask(ended), self._mask(np.zeros(self.num_envs, np.bool_))

    def _mask(self, values: Bools) -> Any:
        return torch.from_numpy(values.copy()).to(self.device) if self.backend == "torch" else values.copy()

    def _zeros(self) -> Any:
        if self.backend == "torch":
            return torch.zeros(self.num_envs, device=self.device)
        return np.zeros(self.num_envs, dtype=np.float64)

    def _scatter(self, values: Tensor, where: Ints) -> Any:
        """Values (n, ...) of the places ``where`` as (N, ...), zeros elsewhere, in the backend's types."""
        if self.backend == "torch":
            if where.size == self.num_envs:
                return values
            whole = torch.zeros((self.num_envs, *values.shape[1:]), dtype=values.dtype, device=self.device)
            whole[torch.from_numpy(where).to(self.device)] = values
            return whole
        dtype = np.float64 if values.is_floating_point() else np.int64
        out = np.zeros((self.num_envs, *values.shape[1:]), dtype=dtype)
        out[where] = values.numpy()
        return out

    def _info(self, values: Mapping[str, Any], mask: Bools) -> dict[str, Any]:
        """Each value beside the mask of the sub-environments that it belongs to."""
        out: dict[str, Any] = {}
        for name, value in values.items():
            array = value.copy() if isinstance(value, np.ndarray) else value
            if self.backend == "torch" and isinstance(array, np.ndarray):
                array = torch.from_numpy(array).to(self.device)
            out |= {name: array, f"_{name}": self._mask(mask)}
        return out

    def render(self) -> Any:
        """A tuple with each sub-environment's text or picture."""
        if not self._renderers:
            return None
        return tuple(r.text() if self.render_mode == "ansi" else r.picture() for r in self._renderers)


def _autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """SAME_STEP or DISABLED; NEXT_STEP would put a bogus transition after every T real ones."""
    try:
        found = AutoresetMode(mode)
    except ValueError:
        found = AutoresetMode.NEXT_STEP
    if found == AutoresetMode.NEXT_STEP:
        raise ValueError(
            f"autoreset_mode={mode!r} must be 'SameStep' or 'Disabled'; NextStep would add a bogus transition to "
            "every chain of T steps"
        )
    return found
