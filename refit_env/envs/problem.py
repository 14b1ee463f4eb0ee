"""The MDP without Gymnasium: who starts where, and what a denoised vector earns.

Letters: B episodes, C size of a context, D size of the diffused vector, I items, K list length, T steps,
U users.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from refit_env.backbones import Backbone, backbone_class, backbone_config, check_task
from refit_env.data import Dataset, RowDataset, load_dataset
from refit_env.data.rows import SparseRows
from refit_env.envs.config import USUAL_K, ProblemConfig, check, relevance_settings
from refit_env.envs.keys import files_of, frozen
from refit_env.envs.score_model import load_judge
from refit_env.rewards import Relevance, Reward, make_relevance, make_reward

BOUND = 6.0
"""Box bound where u holds scores: data lie in 0..1; five deviations of the unit Gaussian that long chains
start from, on top. In an embedding space: the largest number of an item's embedding in place of the 1."""

SHARED = 8
"""Problems that are kept for the next environment of the same arguments."""


class DenoisingProblem:
    """The pure core that the single and the vector environment share; it holds no episode.

    Environments of one process share what is costly to make, however many there are. What changes is an
    environment's own: the lists that a reward was given (``with_own_lists``), and the weights that score u_0
    where an agent trains them (``with_own_scores``). It pickles as its configuration.

    Attributes:
        config: the arguments.
        dataset: the data; of a sequential set its rows, each of which counts as a user here.
        relevance: what is shown, counted and kept out of lists.
        seen: the data, its train split what is shown.
        reward_fn: the terminal reward.
        users: (n,) int64, those that episodes are about.
        num_steps: T.
        num_items: I.
        dim: D.
        start: where chains start.
        bound: limit of the spaces.
        device: where batches live.
    """

    def __init__(self, config: ProblemConfig) -> None:
        """Load the data and make the reward; use ``make_problem``, which shares them between environments."""
        self.config = config
        check(config)
        whole = config.data if isinstance(config.data, Dataset) else load_dataset(config.data)
        kind = backbone_class(config.backbone)
        check_task(kind, whole)
        self.dataset: Dataset = whole.episodes
        mode = config.relevance or _natural_relevance(self.dataset)
        self.relevance: Relevance = make_relevance(mode, self.dataset, **relevance_settings(config))
        self.device = torch.device(config.device)
        self.reward_fn: Reward = make_reward(
            config.reward,
            self.dataset,
            self.relevance,
            k=min(config.k, self.dataset.num_items) if config.k == USUAL_K else config.k,
            device=self.device,
            model=config.checkpoint,
            other_data=config.other_data,
            **(config.reward_kwargs or {}),
        )
        self.users: npt.NDArray[np.int64] = self.relevance.users
        self.num_steps, self.num_items = config.num_steps, self.dataset.num_items
        self.start = config.start or kind.start
        self._may_start = np.zeros(self.dataset.num_users, dtype=np.bool_)
        self._may_start[self.users] = True
        self._judge = (
            load_judge(config.backbone, config.checkpoint, whole, config.data, config.other_data)
            if kind.embedding
            else None
        )
        self.dim, self.bound = self.num_items, BOUND
        settings = backbone_config(config.backbone, self.dataset.name, config.backbone_options)
        self._chain, self._kind = settings.diffusion(), kind
        self._scores_move = False
        self.seen = seen = self.dataset.showing(self.relevance.visible)
        if self._judge is None:
            self._rows = kind.rows(seen, settings)
            self._visible = SparseRows(self._rows, self.device)
        else:
            self.dim, self._chain = self._judge.dim, self._judge.diffusion
            self.bound = max(BOUND, BOUND - 1 + self._judge.largest())
            self._judge.to(self.device)
            self._shown = self._judge.shown(seen, self.device)
        self.bound = self.bound if config.bound is None else config.bound
        longest = self._chain.num_steps
        if config.num_steps > longest:
            raise ValueError(
                f"num_steps={config.num_steps} must lie in 1..{longest}, "
                f"the steps that {config.backbone!r} has on {self.dataset.name!r}"
            )

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the reward's terms."""
        return self.reward_fn.term_names

    @property
    def selecting(self) -> npt.NDArray[np.int64] | None:
        """(m,) users whose validation items no reward sees, so that they can select; None: all can."""
        return self.reward_fn.selecting

    @property
    def needs_noise(self) -> bool:
        """Whether starting states are drawn, so that ``initial_state`` wants noise."""
        return self.start != "history"

    def initial_state(self, users: Tensor, noise: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """u_T (B, D) float32 of ``users`` (B,) int64.

        Args:
            users: ids.
            noise: (B, D) standard normal, for ``"diffused"`` and ``"noise"``; without it the state is the
                mean one.
            out: (B, D) float32, contiguous, to write to.

        Returns:
            ``out`` if given; within the bound.
        """
        if out is None:
            out = torch.empty(users.numel(), self.dim, device=self.device)
        if self._judge is not None:
            out.copy_(self._judge.initial_state(users, self._shown(users)))
        elif self.device.type == "cpu":  # NumPy's scatter is twice as fast as torch's there
            self._scatter_rows(users.numpy(), out)
        else:
            out.copy_(self._visible.dense(users))
        if self.needs_noise:
            noise = torch.zeros_like(out) if noise is None else noise
            pure = self.start == "noise"
            noisy = noise if pure else self._chain.q_sample(out, self._chain.num_steps - 1, noise)  # (B, D)
            out.copy_(noisy.clamp(-self.bound, self.bound))
        return out

    def _scatter_rows(self, users: npt.NDArray[np.int64], out: Tensor) -> None:
        """Write the visible rows of ``users`` (B,) to ``out`` (B, I)."""
        out.zero_()
        matrix = self._rows
        first, ends = matrix.indptr[users], matrix.indptr[users + 1]  # (B,)
        counts = ends - first  # (B,)
        stored = np.repeat(first - np.cumsum(counts) + counts, counts)  # (n,)
        stored += np.arange(stored.size, dtype=stored.dtype)  # (n,) where the matrix stores each value
        place = np.repeat(np.arange(len(users)) * out.shape[1], counts)  # (n,)
        place += matrix.indices[stored]
        out.numpy().reshape(-1)[place] = matrix.data[stored]

    def context(self, users: Tensor) -> Tensor | None:
        """What a policy is conditioned on besides u, (B, C) float32; None where u_T says it all."""
        if self._judge is None:
            return self._visible.dense(users) if self._kind.shows_rows else None
        context = self._judge.context(users, self._shown(users))
        return None if context is None else context.float()

    def context_box(self) -> tuple[float, float, int] | None:
        """Lowest and highest value and size C of a context; None if there is none."""
        if self._judge is None:
            return (0.0, 1.0, self.num_items) if self._kind.shows_rows else None
        return self._judge.context_box()

    @torch.no_grad()
    def scores(self, u0: Tensor, users: Tensor) -> Tensor:
        """(B, I) item scores of vectors ``u0`` (B, D): the vectors themselves, or the pretrained model's.

        Those are computed in float64, so that an episode's list does not depend on the batch that it is in.
        """
        if self._judge is None:
            return u0
        context = self._context_of_each(users) if self._kind.scores_by_context else None
        return self._judge.scores(u0.double(), users, context).float()

    def _context_of_each(self, users: Tensor) -> Tensor | None:
        """Contexts (B, C) float64; users who stand in ``users`` (B,) many times are read once."""
        assert self._judge is not None
        some, place = torch.unique(users, return_inverse=True)  # (n,), (B,)
        context = self._judge.context(some, self._shown(some))
        return None if context is None else context.double()[place]

    @cached_property
    def score_table(self) -> Tensor | None:
        """The slope (I, D) float32 of scores affine in an embedding u_0; None elsewhere."""
        table = None if self._judge is None else self._judge.score_table()
        return None if table is None else table.float()

    def with_own_scores(self) -> DenoisingProblem:
        """The same problem, shared with nobody, for an agent that trains what scores u_0 (``score_by``).

        Raises:
            ValueError: where u_0 holds the scores itself.
        """
        if self._judge is None:
            raise ValueError(f"backbone {self.config.backbone!r} has no weights that score u_0")
        own = copy.copy(self)
        own._judge = copy.deepcopy(self._judge)
        own._shown = own._judge.shown(self.seen, self.device)  # what is shown may come from its weights
        own._scores_move = True
        return own

    def with_own_lists(self) -> DenoisingProblem:
        """The same problem with a table of all users' lists of its own; itself if its reward needs none."""
        if not self.reward_fn.uses_lists:
            return self
        own = copy.copy(self)
        own.reward_fn = self.reward_fn.with_own_lists()
        return own

    def __copy__(self) -> DenoisingProblem:
        """A problem on the same data and rewards."""
        own = object.__new__(type(self))
        own.__dict__ |= self.__dict__
        return own

    def score_by(self, backbone: Backbone) -> None:
        """From now on, score u_0 by the weights of ``backbone``; only for what ``with_own_scores`` gave."""
        assert self._judge is not None
        with torch.no_grad():  # buffers are data, which training leaves alone
            for own, other in zip(self._judge.parameters(), backbone.parameters(), strict=True):
                own.copy_(other)
        self.__dict__.pop("score_table", None)

    def score(self, u0: Tensor, users: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Judge denoised vectors.

        Args:
            u0: (B, D).
            users: (B,) int64.

        Returns:
            The reward (B,) float32, its terms by name (B,), and the top-K lists (B, K) int64.
        """
        scores = self.scores(u0, users)  # (B, I)
        lists = self.reward_fn.top_k(scores, users)  # (B, K)
        reward, terms = self.reward_fn.pay(scores, users, lists)
        return reward, terms, lists

    def draw_users(self, generators: Sequence[np.random.Generator]) -> npt.NDArray[np.int64]:
        """(B,) one of ``users`` by each generator; ``random`` is ten times faster than ``integers``."""
        places = np.array([generator.random() for generator in generators]) * len(self.users)  # (B,)
        return self.users[places.astype(np.int64)]

    def check_user(self, user: Any) -> int:
        """Return the id if episodes may be about this user.

        Raises:
            ValueError: if it is out of range, or nothing of the user is visible or relevant.
        """
        count = self.dataset.num_users
        if isinstance(user, bool) or not isinstance(user, int | np.integer) or not 0 <= user < count:
            raise ValueError(
                f"user {user!r} must be a whole number in 0..{count - 1}, the users of "
                f"{self.dataset.name!r}; the option 'user_id' takes the source's id"
            )
        if not self._may_start[user]:
            kept = self.relevance.selecting
            if kept is not None and user in kept:
                raise ValueError(
                    f"{self.dataset.users_by_id.named(int(user))} is kept to select models under relevance "
                    f"{self.relevance.mode!r}; {len(self.users)} of {count} users start episodes "
                    "(problem.users)"
                )
            raise ValueError(
                f"{self.dataset.users_by_id.named(int(user))} has nothing visible or nothing relevant under "
                f"relevance {self.relevance.mode!r}; {len(self.users)} of {count} users start episodes "
                "(problem.users)"
            )
        return int(user)

    def user_of_id(self, given: Any) -> int:
        """Return the number of the user with the source's id, if episodes may be about this user.

        Raises:
            ValueError: if there is no such id, several rows have it, or ``check_user`` refuses the user.
        """
        return self.check_user(self.dataset.users_by_id.number(given))

    def check_users(self, users: Tensor) -> None:
        """``check_user`` for many at once (N,)."""
        ids = users.cpu().numpy()
        wrong = (ids < 0) | (ids >= self.dataset.num_users)
        wrong[~wrong] = ~self._may_start[ids[~wrong]]
        if wrong.any():
            self.check_user(int(ids[np.flatnonzero(wrong)[0]]))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the configuration, not the data."""
        return make_problem, (self.config,)

    def __deepcopy__(self, memo: dict[int, Any]) -> DenoisingProblem:
        """A copied environment shares all but what changes."""
        own = self.with_own_lists()
        return own.with_own_scores() if self._scores_move else own


_PROBLEMS: dict[Hashable, DenoisingProblem] = {}


def make_problem(config: ProblemConfig) -> DenoisingProblem:
    """Make a problem; environments of one process with the same arguments share the newest few.

    Nothing that changes is shared: whatever others did with theirs, a new environment pays what its arguments
    say. Files that the arguments name are read again once they have been written anew.

    Example:
        >>> problem = make_problem(ProblemConfig("synthetic"))
        >>> problem is make_problem(ProblemConfig("synthetic"))
        True
        >>> problem.initial_state(torch.tensor([0, 1])).shape == (2, problem.dim)
        True
    """
    check(config)
    dataset = config.data if isinstance(config.data, Dataset) else load_dataset(config.data)
    rest = {name: value for name, value in vars(config).items() if name != "data"}
    # The data set in the dictionary is alive (a problem keeps it or its rows), so its id is its own.
    key = (id(dataset.episodes), files_of(rest), frozen(rest))
    try:
        known = _PROBLEMS.pop(key, None)
    except TypeError:  # an argument without a hash, such as a reward function's closure over an array
        return DenoisingProblem(config)
    if known is None:
        known = DenoisingProblem(config)
    _PROBLEMS[key] = known  # the newest stand last
    while len(_PROBLEMS) > SHARED:
        _PROBLEMS.pop(next(iter(_PROBLEMS)))
    return known.with_own_lists()


def _natural_relevance(dataset: Dataset) -> str:
    """The mode for a data set of which nothing is said."""
    if isinstance(dataset, RowDataset):
        return "train"
    return "recent" if dataset.time_ordered else "holdout"
