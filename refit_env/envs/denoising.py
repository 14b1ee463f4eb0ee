"""The Gymnasium environment whose episode is one user's denoising chain.

Letters: D size of the diffused vector, I items (= D for the CF backbones), K list length, L history length,
T steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.error import ResetNeeded

from refit_env.data.dataset import Dataset
from refit_env.envs.config import read_config
from refit_env.envs.problem import DenoisingProblem, make_problem
from refit_env.envs.render import Renderer
from refit_env.envs.surroundings import check_maker, check_single_wrappers
from refit_env.errors import unknown_name
from refit_env.settings import check_setting

FloatArray = npt.NDArray[np.float32]
Observation = dict[str, FloatArray]

RENDER_MODES = ["ansi", "rgb_array"]
METADATA: dict[str, Any] = {"render_modes": RENDER_MODES, "render_fps": 2}
"""See ``gymnasium.Env``."""

USER_OPTIONS = ("user", "user_id")
"""Options of ``reset`` that choose the user: by number, or by the source's id."""


class DenoisingEnv(gym.Env[Observation, FloatArray]):
    """The denoising chain of a diffusion recommender, one user an episode.

    ## Description

    A diffusion recommender turns a user's noisy interaction vector u_T into a clean one, u_0, in T small
    Gaussian steps, and ranks items by u_0. Here each step is an action: the agent chooses the next vector.
    The transition is deterministic (u <- action, t <- t + 1). The only reward is paid at the end, for the
    top-K list of u_0. This is the MDP of ReFiT (arXiv 2511.06937) and, for images, of DDPO (arXiv
    2305.13301). Any policy may act; ``refit_env.policy.DiffusionPolicy`` makes one of a pretrained
    recommender.

    In a sequential data set an episode is one *row*: a history of up to ten items and the item that came
    next, the only relevant one. There u is an embedding (DreamRec), and a pretrained model scores u_0:
    ``gym.make(id, checkpoint=RUN)``, with the folder that ``refit pretrain`` wrote. Below, *user* includes
    rows.

    ## Action Space

    ``Box(-6, 6, (D,), float32)``: the next vector u_{T-t-1} itself. D = I, one number for each item, or the
    size of an embedding. Actions are not clipped. The bound is the largest number in the data (1, or that of
    the item embeddings) plus five unit standard deviations; it is finite because Stable-Baselines3 requires
    that. NaN, infinity or another shape raises ``ValueError``.

    ## Observation Space

    ``Dict``:

    | key | space | meaning |
    |---|---|---|
    | ``t`` | ``Box(0, T, (1,), float32)`` | steps taken |
    | ``u`` | ``Box(-6, 6, (D,), float32)`` | the vector u_{T-t} |
    | ``history`` | ``Box(0, I, (L,), float32)`` | sequential data: item ids, oldest first, padded with I |

    ``t`` is a Box, not Discrete, because Stable-Baselines3 would one-hot encode it.

    ## Rewards

    0.0 at every step but the last, where it is r(u_0). The default is RACS,

        r = alpha * N_K + (1 - alpha) * N_sim-K    in 0..1,

    with N_K the share of the K recommended items that are relevant to the user, and N_sim-K the mean of that
    share over the user's nearest neighbours. ``refit_env.rewards.reward_names()`` lists all rewards.
    ``relevance`` defines the relevant items. Items of the visible history are masked from the list, except
    under ``"train"``. Rewards never read test items.

    ## Starting State

    The environment's generator draws a user uniformly among those with a visible item and (unless
    ``relevance="none"``) a relevant item. ``start="history"`` (default): u_T is the user's visible history,
    0 or 1, as in DiffRec. ``"diffused"``: the history with the noise of the last step of the backbone's
    schedule. ``"noise"``: N(0, I), as in DreamRec; only where ``history`` identifies the user.

    ## Episode End

    After exactly T steps ``terminated`` is true. ``truncated`` is never true, because T is a real end. A
    ``max_episode_steps`` below T raises an error, because the chain would end without its reward. ``info``
    holds ``user`` at reset, and at the end the reward's terms by name, ``user`` and ``top_k`` (K item ids,
    best first); between them it is empty.

    ## Rendering

    ``"ansi"``: one line a step, with the range of u and the first items of its list, hits marked.
    ``"rgb_array"``: a 450 x 800 heat map of the chain in three groups of items (shown, relevant, others), and
    the list with its hits. Items have their names where the data set holds them, else the source's ids.

    ## Arguments

    | argument | default | meaning |
    |---|---|---|
    | ``data`` | the id's | catalogue name, canonical folder (``ReFiT-Custom-v0``), or a ``Dataset`` |
    | ``num_steps`` | 4 | T |
    | ``reward`` | ``"racs"`` | name, mix ``{"racs": 1.0, "coverage": 0.1}``, or function (scores, users) |
    | ``relevance`` | the id's | ``"train"``, ``"holdout"``, ``"recent"``, ``"validation"``, ``"none"`` |
    | ``checkpoint`` | None | folder of the pretrained model that scores u_0; embeddings only |
    | ``other_data`` | False | whether that model may have been trained on another data set |
    | ``k`` | 20 | list length K |
    | ``start`` | the backbone's | ``"history"``, ``"diffused"``, ``"noise"`` |
    | ``reward_kwargs`` | None | settings of the reward, ``{"alpha": 0.3}`` |
    | ``relevance_kwargs`` | None | ``{"fraction": 0.2, "seed": 0}`` |
    | ``backbone`` | ``"diffrec"`` | the diffusion recommender that defines the chain |
    | ``backbone_options`` | None | changes to its configuration, ``{"recency": "rising"}`` |
    | ``bound`` | see above | limit of the boxes |
    | ``render_mode`` | None | ``"ansi"`` or ``"rgb_array"`` |
    | ``source_ids`` | False | whether ``info`` also holds the source's ids: ``user_id``, ``top_k_ids`` |

    ``reset(options={"user": 3})`` chooses the user by number, ``{"user_id": "user-7"}`` by the source's id.
    Environments of one process with equal arguments share the data, the neighbours and the reward. With a
    function as reward, the environment's spec cannot be serialised to JSON. Under ``AsyncVectorEnv`` on Linux
    pass ``context="spawn"`` if PyTorch has run in the parent process: its threads do not survive a fork.

    >>> import gymnasium as gym
    >>> import refit_env
    >>> env = gym.make("ReFiT-Synthetic-v0", reward="ndcg")
    >>> observation, info = env.reset(seed=0, options={"user": 3})
    >>> for _ in range(4):
    ...     observation, reward, terminated, truncated, info = env.step(observation["u"])
    >>> terminated, truncated, info["user"], info["top_k"].shape
    (True, False, 3, (20,))

    ## Version History

    * v0: initial version.
    """

    metadata = METADATA

    def __init__(
        self,
        data: str | Path | Dataset | None = None,
        *,
        render_mode: str | None = None,
        source_ids: bool = False,
        **settings: Any,
    ) -> None:
        """Make the environment; the class's docstring describes the arguments.

        ``settings`` are fields of ``ProblemConfig``.

        Raises:
            ValueError: for a wrong name, user, T or setting; the message states the right one.
            DataError: if the data set is missing or breaks a rule.
        """
        config = read_config(type(self), data, settings, without=["device"])
        check_setting("source_ids", source_ids, bool)
        check_maker(config.num_steps)
        self.problem = make_problem(config)
        observation_space, action_space = make_spaces(self.problem)
        self.observation_space = cast("gym.Space[Observation]", observation_space)
        self.action_space = cast("gym.Space[FloatArray]", action_space)
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self._renderer = Renderer(self.problem) if render_mode is not None else None
        self.source_ids = source_ids
        self._user, self._t = -1, config.num_steps
        self._context: FloatArray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a chain.

        Args:
            seed: of the environment's generator.
            options: ``{"user": number}`` or ``{"user_id": id of the source}`` chooses the user.

        Returns:
            The observation and ``{"user": number}``; with ``source_ids`` also ``user_id``.

        Raises:
            ValueError: for a user without episodes, an unknown option, or a ``TimeLimit`` below T around the
                environment.
        """
        check_single_wrappers(self, self.problem.num_steps)
        super().reset(seed=seed)
        self._user = choose_user(self.problem, self.np_random, options)
        noise = None
        if self.problem.needs_noise:
            noise = torch.from_numpy(self.np_random.standard_normal((1, self.problem.dim), dtype=np.float32))
        users = torch.tensor([self._user])
        u = self.problem.initial_state(users, noise)[0].numpy()
        context = self.problem.context(users)  # (1, L) or None
        self._context = None if context is None else context[0].numpy()
        self._t = 0
        if self._renderer is not None:
            self._renderer.begin(self._user, u)
        return self._observe(u), self._user_info()

    def step(self, action: FloatArray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Make the action the next vector.

        Args:
            action: (D,) float32.

        Returns:
            Observation, reward (0.0 until the end), terminated, truncated (always false), info.

        Raises:
            ValueError: for NaN, infinity or a wrong shape; the episode does not change.
            gymnasium.error.ResetNeeded: before the first reset and after the episode's end.
        """
        if self._t >= self.problem.num_steps:
            raise ResetNeeded("no episode is running: call reset() before step()")
        u = as_numbers(action, (self.problem.dim,)).copy()  # the caller may change the action later
        if not np.isfinite(u).all():
            refuse_nonfinite(torch.from_numpy(u))
        self._t += 1
        if self._renderer is not None:
            self._renderer.add(u)
        if self._t < self.problem.num_steps:
            return self._observe(u), 0.0, False, False, {}
        users = torch.tensor([self._user])
        reward, terms, lists = self.problem.score(torch.from_numpy(u)[None], users, finite=True)
        info: dict[str, Any] = {name: float(value[0]) for name, value in terms.items()}
        info |= self._user_info() | {"top_k": lists[0].numpy().copy()}
        if self.source_ids:
            info["top_k_ids"] = self.problem.dataset.items_by_id.take(info["top_k"])
        return self._observe(u), float(reward[0]), True, False, info

    def render(self) -> Any:
        """Return the chain so far: text (``ansi``) or a picture (``rgb_array``, uint8 H x W x 3)."""
        if self._renderer is None:
            gym.logger.warn(
                "render() without render_mode: pass render_mode='ansi' or 'rgb_array' to gym.make"
            )
            return None
        if self._user < 0:
            raise ResetNeeded("reset the environment before its chain is rendered")
        return self._renderer.text() if self.render_mode == "ansi" else self._renderer.picture()

    def _user_info(self) -> dict[str, Any]:
        """Return the user of the episode, for ``info``."""
        info: dict[str, Any] = {"user": self._user}
        if self.source_ids:
            info["user_id"] = self.problem.dataset.users_by_id.of(self._user)
        return info

    def _observe(self, u: FloatArray) -> Observation:
        """Return the observation, which holds ``u`` itself, not a copy."""
        out = {"t": np.array([self._t], dtype=np.float32), "u": u}
        return out if self._context is None else {"history": self._context.copy()} | out


def make_spaces(problem: DenoisingProblem) -> tuple[gym.spaces.Dict, gym.spaces.Box]:
    """Observation and action space."""
    bound, shape, total = problem.bound, (problem.dim,), float(problem.num_steps)
    parts: dict[str, gym.Space[Any]] = {
        "t": gym.spaces.Box(0.0, total, (1,), np.float32),
        "u": gym.spaces.Box(-bound, bound, shape, np.float32),
    }
    context = problem.context_box()
    if context is not None:
        low, high, size = context
        parts["history"] = gym.spaces.Box(low, high, (size,), np.float32)
    return gym.spaces.Dict(parts), gym.spaces.Box(-bound, bound, shape, np.float32)


def choose_user(
    problem: DenoisingProblem, rng: np.random.Generator, options: Mapping[str, Any] | None
) -> int:
    """Return the user that the options name, or a drawn one."""
    options = as_options(options)
    for name in options:
        if name not in USER_OPTIONS:
            raise unknown_name("reset option", name, USER_OPTIONS)
    check_one_user(options)
    if options.get("user_id") is not None:
        return problem.user_of_id(options["user_id"])
    if options.get("user") is not None:
        return problem.check_user(options["user"])
    return int(problem.draw_users([rng])[0])


def as_options(options: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the options of ``reset`` as a mapping; raise a TypeError where they are none."""
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"reset options must be a mapping such as {{'user': 3}}, found {options!r}")
    return options or {}


def check_one_user(options: Mapping[str, Any]) -> None:
    """Raise an error for options that name the user twice."""
    if all(options.get(name) is not None for name in USER_OPTIONS):
        raise ValueError("options name the user twice, by 'user' and by 'user_id'; leave one of them out")


def check_render_mode(mode: str | None) -> None:
    """Raise an error for an unknown render mode."""
    if mode is not None and mode not in RENDER_MODES:
        raise ValueError(f"render_mode={mode!r} must be one of {', '.join(RENDER_MODES)}, or None")


def as_numbers(action: Any, shape: tuple[int, ...]) -> FloatArray:
    """Return the action as a float32 array of ``shape``, without a copy where it is one.

    Raises:
        ValueError: if it is none.
    """
    try:
        array = np.asarray(action)
        if array.dtype.kind == "c":
            raise TypeError("complex numbers")
        array = array.astype(np.float32, copy=False)
    except (TypeError, ValueError) as error:
        text = " ".join(repr(action).split())
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        raise ValueError(f"action {shown} is not an array of shape {shape}: {error}") from error
    if array.shape != shape:
        raise ValueError(f"action of shape {array.shape}, expected {shape}: the next vector")
    return array


def refuse_nonfinite(action: torch.Tensor) -> None:
    """Raise a ValueError that names the first NaN or infinite entry, if there is one."""
    wrong = (~torch.isfinite(action)).nonzero()
    if len(wrong):
        where = tuple(wrong[0].tolist())
        value, index = float(action[where]), ", ".join(map(str, where))
        raise ValueError(f"action[{index}] is {value}; every number of an action must be finite")
