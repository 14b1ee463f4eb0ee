"""The MDP without Gymnasium: starting states, contexts, and rewards of denoised vectors.

Letters: B episodes, C size of a context, D size of the diffused vector, I items, K list length, U users.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from refit_env.backbones import Backbone, backbone_class, backbone_config, check_task
from refit_env.data import Dataset, RowDataset, load_dataset
from refit_env.envs.config import USUAL_K, ProblemConfig, check, relevance_settings
from refit_env.envs.keys import files_of, frozen
from refit_env.envs.score_model import IdentityScorer, Scorer, make_scorer
from refit_env.errors import settings_in
from refit_env.rewards import Relevance, Reward, RewardContext, RewardResult, make_relevance
from refit_env.rewards.registry import reward_in

SHARED = 8
"""Problems that are cached for the next environment with the same arguments."""
COMPARED = 256
"""Users whose starting states are compared with those that a policy was made for."""


@dataclass(eq=False)
class DenoisingProblem:
    """The part of an environment without episodes, for single and vector environments; see ``make_problem``.

    Environments of one process share everything that is slow to compute. Each has its own copy of what
    changes: the lists of a reward (``with_own_lists``), and the weights that score u_0 where an agent trains
    them (``with_own_scores``). A problem pickles as its configuration.

    Attributes:
        config: the arguments.
        dataset: the data set; for a sequential set its rows, each of which is a user here.
        relevance: the visible, relevant and masked items.
        seen: the data set, its visible part as the train split.
        reward_fn: the terminal reward.
        scorer: computes starting states and item scores.
    """

    config: ProblemConfig
    dataset: Dataset
    relevance: Relevance
    seen: Dataset
    reward_fn: Reward
    scorer: Scorer

    @property
    def users(self) -> npt.NDArray[np.int64]:
        """(n,) the users of episodes."""
        return self.relevance.users

    @property
    def num_steps(self) -> int:
        """T."""
        return self.config.num_steps

    @property
    def num_items(self) -> int:
        """I."""
        return self.dataset.num_items

    @property
    def dim(self) -> int:
        """D."""
        return self.scorer.dim

    @property
    def device(self) -> torch.device:
        """Device of batches."""
        return torch.device(self.config.device)

    @property
    def start(self) -> str:
        """The kind of starting state: ``history``, ``diffused`` or ``noise``."""
        return self.config.start or backbone_class(self.config.backbone).start

    @property
    def bound(self) -> float:
        """Limit of the spaces."""
        return self.scorer.bound if self.config.bound is None else self.config.bound

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the reward's terms."""
        return self.reward_fn.term_names

    @property
    def selecting(self) -> npt.NDArray[np.int64] | None:
        """(m,) users whose validation items no reward reads, so that they can select; None: all can."""
        return self.reward_fn.selecting

    @property
    def needs_noise(self) -> bool:
        """Whether starting states are drawn, so that ``initial_state`` needs noise."""
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
        self.scorer.write_start(users, out)
        if self.needs_noise:
            noise = torch.zeros_like(out) if noise is None else noise
            chain, pure = self.scorer.diffusion, self.start == "noise"
            noisy = noise if pure else chain.q_sample(out, chain.num_steps - 1, noise)  # (B, D)
            out.copy_(noisy.clamp(-self.bound, self.bound))
        return out

    def context(self, users: Tensor) -> Tensor | None:
        """Return the condition of policies besides u, (B, C) float32; None where u_T identifies the user."""
        return self.scorer.context(users)

    def context_box(self) -> tuple[float, float, int] | None:
        """Lowest and highest value and size C of a context; None if there is none."""
        return self.scorer.context_box()

    def scores(self, u0: Tensor, users: Tensor) -> Tensor:
        """(B, I) item scores of vectors ``u0`` (B, D): the vectors themselves, or a pretrained model's."""
        return self.scorer.scores(u0, users)

    @property
    def score_table(self) -> Tensor | None:
        """The slope (I, D) float32 of scores affine in an embedding u_0; None elsewhere."""
        return self.scorer.score_table

    def with_own_scores(self) -> DenoisingProblem:
        """Return the same problem, for an agent that trains the weights that score u_0 (``score_by``).

        Raises:
            ValueError: where u_0 holds the scores itself.
        """
        return replace(self, scorer=self.scorer.with_own_weights())

    def score_by(self, backbone: Backbone) -> None:
        """Set the weights that score u_0 to those of ``backbone``; only after ``with_own_scores``."""
        self.scorer.set_weights(backbone)

    def with_own_lists(self) -> DenoisingProblem:
        """Return the problem with its own table of all users' lists; itself if its reward needs none."""
        reward = self.reward_fn.with_own_lists()
        return self if reward is self.reward_fn else replace(self, reward_fn=reward)

    def score(self, u0: Tensor, users: Tensor, *, finite: bool = False) -> RewardResult:
        """Reward denoised vectors.

        Args:
            u0: (B, D).
            users: (B,) int64.
            finite: whether the caller has checked that every number of ``u0`` is finite.

        Returns:
            The reward (B,) float32, its terms by name (B,), and the top-K lists (B, K) int64.

        Raises:
            ValueError: if a score is NaN.
        """
        scores = self.scores(u0, users)  # (B, I)
        return self.reward_fn(scores, users, finite=finite and self.scorer.keeps_finite)

    def draw_users(self, generators: Sequence[np.random.Generator]) -> npt.NDArray[np.int64]:
        """Draw one of ``users`` (B,) by each generator; ``random`` is ten times as fast as ``integers``."""
        places = np.array([generator.random() for generator in generators]) * len(self.users)  # (B,)
        return self.users[places.astype(np.int64)]

    def check_starts(self, backbone: Backbone) -> None:
        """Refuse the backbone of a policy that was made for other starting states or contexts.

        What users are shown depends on settings of the backbone, such as the weights of a history. Those of
        the environment are ``backbone_options``.

        Raises:
            ValueError: if a few users are shown something else by the settings of ``backbone``.
        """
        config = self.config
        own = backbone_config(config.backbone, self.dataset.name, config.backbone_options)
        if backbone.embedding or backbone.config == own:
            return
        wanted = IdentityScorer(type(backbone), self.seen, backbone.config, self.device)
        users = torch.as_tensor(self.users[:COMPARED], device=self.device)  # (B,)
        starts, contexts = [], []
        for scorer in (self.scorer, wanted):
            starts.append(torch.empty(users.numel(), self.dim, device=self.device))  # (B, D)
            scorer.write_start(users, starts[-1])
            context = scorer.context(users)
            contexts.append(users[:0] if context is None else context)
        if not (torch.equal(*starts) and torch.equal(*contexts)):
            raise ValueError(
                f"the environment shows users by other settings of {config.backbone!r} than the policy has: "
                "make it with backbone_options=policy.backbone.config_dict()"
            )

    def check_user(self, user: Any) -> int:
        """Return the number of a user that may start episodes.

        Raises:
            ValueError: if it is out of range, or the user has no visible or no relevant item.
        """
        count, unit = self.dataset.num_users, self.dataset.unit
        if isinstance(user, bool) or not isinstance(user, int | np.integer) or not 0 <= user < count:
            raise ValueError(
                f"user {user!r} must be a whole number in 0..{count - 1}, the {unit} of "
                f"{self.dataset.name!r}; the option 'user_id' accepts the source's id"
            )
        if not self.relevance.starts[user]:
            kept = self.relevance.selecting
            selects = kept is not None and user in kept
            why = "is reserved to select models" if selects else "has no visible or no relevant item"
            raise ValueError(
                f"{self.dataset.users_by_id.named(int(user))} {why} under relevance {self.relevance.mode!r}; "
                f"{len(self.users)} of {count} {unit} start episodes (problem.users)"
            )
        return int(user)

    def user_of_id(self, given: Any) -> int:
        """Return the number of the user with the source's id, if this user may start episodes.

        Raises:
            ValueError: if the id is unknown or not unique, or ``check_user`` refuses the user.
        """
        return self.check_user(self.dataset.users_by_id.number(given))

    def check_users(self, users: Tensor) -> None:
        """``check_user`` for many at once (N,)."""
        ids = users.cpu().numpy()
        wrong = (ids < 0) | (ids >= self.dataset.num_users)
        wrong[~wrong] = ~self.relevance.starts[ids[~wrong]]
        if wrong.any():
            self.check_user(int(ids[np.flatnonzero(wrong)[0]]))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the configuration, not the data."""
        return make_problem, (self.config,)

    def __deepcopy__(self, memo: dict[int, Any]) -> DenoisingProblem:
        """Copy what changes; the rest is shared."""
        own, scorer = self.with_own_lists(), self.scorer.copied()
        return own if scorer is self.scorer else replace(own, scorer=scorer)


_PROBLEMS: dict[Hashable, DenoisingProblem] = {}


def make_problem(config: ProblemConfig) -> DenoisingProblem:
    """Make a problem, or return the cached one of the same arguments.

    What changes is not shared, so the rewards of a new environment do not depend on earlier ones. Files that
    the arguments name are read again after a change.

    Example:
        >>> problem = make_problem(ProblemConfig("synthetic"))
        >>> problem is make_problem(ProblemConfig("synthetic"))
        True
        >>> problem.initial_state(torch.tensor([0, 1])).shape == (2, problem.dim)
        True
    """
    check(config)
    whole = config.data if isinstance(config.data, Dataset) else load_dataset(config.data)
    rest = {name: value for name, value in vars(config).items() if name != "data"}
    # A cached problem references its data set or rows, so no other data set can have that id.
    key = (id(whole.episodes), files_of(rest), frozen(rest))
    try:
        known = _PROBLEMS.pop(key, None)
    except TypeError:  # an argument without a hash, for example a callable object
        return _new_problem(config, whole)
    if known is None:
        known = _new_problem(config, whole)
    _PROBLEMS[key] = known  # the newest is last
    while len(_PROBLEMS) > SHARED:
        _PROBLEMS.pop(next(iter(_PROBLEMS)))
    return known.with_own_lists()


def forget(problem: DenoisingProblem) -> None:
    """Remove the cached problems of a problem's data set, so that its memory is free when it is not used."""
    for key in [key for key, known in _PROBLEMS.items() if known.dataset is problem.dataset]:
        del _PROBLEMS[key]


def _new_problem(config: ProblemConfig, whole: Dataset) -> DenoisingProblem:
    """Make the relevance, the reward and the scorer of a data set."""
    check_task(backbone_class(config.backbone), whole)
    dataset, device = whole.episodes, torch.device(config.device)
    mode = config.relevance or _natural_relevance(dataset)
    with settings_in("relevance_kwargs", config.relevance_kwargs or ()):
        relevance = make_relevance(mode, dataset, **relevance_settings(config))
    kind = backbone_class(config.backbone)
    with settings_in("backbone_options", config.backbone_options or ()):
        own = backbone_config(config.backbone, dataset.name, config.backbone_options)
    relevance = relevance.of_users(kind.may_train_on(dataset, own))
    with settings_in("reward_kwargs", config.reward_kwargs or ()):
        k = min(config.k, dataset.num_items) if config.k == USUAL_K else config.k
        context = RewardContext(dataset, relevance, k, device, config.checkpoint, config.other_data)
        reward = reward_in(context, config.reward, config.reward_kwargs)
    seen = dataset.showing(relevance.visible)
    scorer = make_scorer(config, whole, seen, device)
    longest = scorer.diffusion.num_steps
    if config.num_steps > longest:
        raise ValueError(
            f"num_steps={config.num_steps} must lie in 1..{longest}, "
            f"the steps that {config.backbone!r} has on {dataset.name!r}"
        )
    return DenoisingProblem(config, dataset, relevance, seen, reward, scorer)


def _natural_relevance(dataset: Dataset) -> str:
    """Return the default mode of a data set."""
    if isinstance(dataset, RowDataset):
        return "train"
    return "recent" if dataset.time_ordered else "holdout"
