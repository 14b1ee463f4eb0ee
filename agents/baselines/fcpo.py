"""FCPO: constrained policy optimisation, hits within a limit on the recommendations of popular items.

Items have vectors e_i of a matrix factorisation. The state is the user's last L items and the user's vector;
an actor, gated recurrent units over the items' vectors and a network with a tanh layer, gives the mean of a
Gaussian over weights w in R^d; the item shown is the one with the largest w e_i that was not shown. Reward is
1 for an item that the user has, and it then enters the state; cost is 1 for a popular item. The policy
maximises the discounted reward so that the discounted cost stays under its limit, by the trust-region step of
``agents.baselines.constrained`` and a line search; a critic gives the generalised advantages of both (Ge et
al., WSDM 2021, arXiv 2101.03584; the popular items are the first fifth by train interactions, as there).

Deviations, for this suite's protocol: the factorisation is iALS, its items scaled to mean squared length 1
and its users to length 1. A session knows a part of the user's train items and its rewards are the others
(``agents.baselines.sessions``); its user vector is solved from the known ones alone, since iALS's own knows
the hidden ones, too. One item is shown at a step, no action is random besides w, and the popular items stay
the same. The mean is the network's output plus the user's vector, whose scores are those of iALS
(``from_user``; False: the output alone, as in the paper). The critic is one network with two outputs, trained
by Adam; the Fisher matrix has a larger diagonal. At test the mean of w ranks all items. Early stopping keeps
weights under which the sessions met the limit, so the limit has a price in accuracy; 1 is no limit.

Letters: B sessions (users, when scored), T steps of a session, n = B T, I items, L length of a window, d size
of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional

from agents.baselines.base import BaselineConfig
from agents.baselines.constrained import improve
from agents.baselines.learning import Learned, Learner, LearningConfig
from agents.baselines.matrices import known_sets
from agents.baselines.sessions import TrainItems
from refit_env.data.dataset import Dataset
from refit_env.settings import PartialShare, Positive, Share, Size
from refit_env.utils.least_squares import LeastSquares, alternate
from refit_env.utils.least_squares import solve as least_squares

State = tuple[Tensor, Tensor]
"""The last items (n, L), padded with I in front, and the users' vectors (n, d)."""
FIT = 12
"""Iterations of iALS."""


@dataclass(frozen=True)
class FCPOConfig(LearningConfig):
    """FCPO's settings."""

    history: Annotated[int, Meta(ge=1, le=1000)] = 5
    """L."""
    embedding: Size = 64
    """d."""
    unobserved: Positive = 0.1
    """Weight of every pair in iALS."""
    l2: Positive = 0.1
    """Weight of the squared embeddings in iALS."""
    hidden: Size = 32
    """Size of the recurrent units and of the tanh layer, of actor and critic."""
    from_user: bool = True
    """Whether the mean of w is the network's output plus the user's vector; otherwise the output alone."""
    std: Positive = 0.1
    """Standard deviation of each entry of w before training, which learns it."""
    popular: Share = 0.2
    """Share of the items that count as popular."""
    limit: Share = 0.8
    """Most share of a session's items, discounted, that may be popular."""
    radius: Positive = 0.05
    """Trust region: most KL divergence of a step."""
    damping: Positive = 10.0
    """Number added to the Fisher matrix's diagonal, against the noise of directions of less curvature."""
    gamma: PartialShare = 0.99
    """Discount of later rewards and costs."""
    trace: Share = 0.5
    """lambda of the generalised advantage: 0 is one error of the critic, 1 the sum of a whole session."""
    latest: bool = True
    """Whether a session hides the latest items where they are sorted by time; otherwise random ones."""
    horizon: Annotated[int, Meta(ge=1, le=1000)] = 10
    """T."""
    sessions: Size = 1024
    """B, sessions of an epoch, after which the policy makes one step."""
    fisher: Size = 512
    """States that the Fisher matrix is computed from."""
    learning_rate: Annotated[float, Meta(gt=0, le=10)] = 1e-3
    """Learning rate of Adam, of the critic."""
    batch: Size = 256
    """States in a training step of the critic."""
    epochs: Annotated[int, Meta(ge=1, le=100_000)] = 100
    """Most epochs, steps of the policy; without validation items, the exact number."""
    eval_every: Annotated[int, Meta(ge=1, le=100_000)] = 5
    """Epochs between validations."""
    patience: Annotated[int, Meta(ge=1, le=100_000)] = 5
    """Validations without a better NDCG@20 after which training stops; the best weights are used."""


class StateNetwork(nn.Module):
    """Recurrent units over the last items, joined with the user's vector, and a network with a tanh layer."""

    def __init__(self, size: int, hidden: int, outputs: int) -> None:
        """Initialise the layers, the last one with a tenth of the usual size."""
        super().__init__()
        self.units = nn.GRU(size, hidden, batch_first=True)
        self.net = nn.Sequential(nn.Linear(hidden + size, hidden), nn.Tanh(), nn.Linear(hidden, outputs))
        with torch.no_grad():
            for weight in self.net[2].parameters():
                weight.mul_(0.1)

    def forward(self, recent: Tensor, user: Tensor) -> Tensor:
        """Return the outputs (n, outputs) of the items' vectors (n, L, d) and the users' (n, d)."""
        with torch.backends.cudnn.flags(enabled=False):  # its units have no second derivative
            last = self.units(recent)[1][0]  # (n, hidden)
        out: Tensor = self.net(torch.cat([last, user], 1))
        return out


class ConstrainedPolicy(Learner):
    """Actor and critic; an epoch runs sessions, makes a step of the actor, and trains the critic on them."""

    vectors: Tensor
    popular: Tensor
    users: Tensor

    def __init__(self, data: Dataset, config: FCPOConfig) -> None:
        """Factorise the train items, and initialise the networks."""
        super().__init__()
        self.config, self.num_items = config, data.num_items
        self.train_items = TrainItems(data, config.latest)
        self.problem = LeastSquares(config.unobserved, config.l2)
        rows = known_sets(data)
        first = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        items = alternate(rows, config.embedding, self.problem, FIT, first)[1]  # (I, d)
        items = items / items.square().sum(1).mean().sqrt().clamp(min=1e-12)
        self.register_buffer("vectors", functional.pad(items, (0, 0, 0, 1)), persistent=False)  # I: zeros
        self.register_buffer("users", self.folded(rows), persistent=False)  # (U, d)
        order = np.argsort(-np.bincount(data.train.items, minlength=data.num_items), kind="stable")
        popular = torch.zeros(data.num_items + 1, dtype=torch.bool)
        popular[torch.as_tensor(order[: round(config.popular * data.num_items)])] = True
        self.register_buffer("popular", popular, persistent=False)
        self.actor = StateNetwork(config.embedding, config.hidden, config.embedding)
        self.critic = StateNetwork(config.embedding, config.hidden, 2)
        self.log_std = nn.Parameter(torch.full((config.embedding,), config.std).log())

    @property
    def num_examples(self) -> int:
        """The states of an epoch."""
        return self.config.sessions * self.config.horizon

    def folded(self, rows: sp.csr_matrix) -> Tensor:
        """Return the least-squares vectors (N, d) of sets of items (N, I), of length 1; of empty sets 0."""
        out = self.vectors.new_zeros(rows.shape[0], self.vectors.shape[1])
        some = np.flatnonzero(np.diff(rows.indptr))
        if some.size:
            made = least_squares(rows[some], self.vectors[:-1], self.problem)
            out[torch.as_tensor(some, device=out.device)] = functional.normalize(made, dim=1)
        return out

    def policy(self, state: State) -> Normal:
        """Return the distribution of w, (n, d)."""
        recent, user = state
        mean = self.actor(self.vectors[recent], user) + (user if self.config.from_user else 0.0)
        std = self.log_std.exp().expand_as(mean)
        return Normal(mean, std, validate_args=False)  # the line search rejects a std of 0 or infinity

    def begin(self, phase: str) -> None:
        """Run the epoch's sessions, and make the step of the policy."""
        with torch.no_grad():
            self.state, actions, paid = self._run()
            self.returns = discounted(paid, self.config.gamma).flatten(0, 1)  # (n, 2)
            values = self.critic(self.vectors[self.state[0]], self.state[1]).view_as(paid)  # (T, B, 2)
            later = torch.cat([values[1:], torch.zeros_like(values[:1])])
            errors = paid + self.config.gamma * later - values
            gains = discounted(errors, self.config.gamma * self.config.trace).flatten(0, 1)  # (n, 2)
            whole = float(discounted(torch.ones_like(paid), self.config.gamma)[0, 0, 1])
            cost = float(discounted(paid, self.config.gamma)[0, :, 1].mean())
        # The surrogate is a mean over states: both costs are divided by the number of steps.
        self.excess = (cost - self.config.limit * whole) / self.config.horizon
        weights, region = [*self.actor.parameters(), self.log_std], (self.config.radius, self.config.damping)
        few = torch.randperm(len(actions), device=actions.device)[: self.config.fisher]
        improve(weights, self._policy_at, actions, gains, self.excess, few, *region)

    def _policy_at(self, states: Tensor | slice) -> Normal:
        """Return the distribution of w at some of the epoch's states."""
        recent, user = self.state
        return self.policy((recent[states], user[states]))

    def _run(self) -> tuple[State, Tensor, Tensor]:
        """Return the states (n), the w (n, d), and reward and cost (T, B, 2) of new sessions."""
        config = self.config
        session = self.train_items.draw(config.sessions, config.history)
        user = self.folded(sp.csr_matrix(session.known.cpu().numpy(), dtype=np.float64))  # (B, d)
        recent, states, actions, paid = session.window, [], [], []
        for _ in range(config.horizon):
            weights = self.policy((recent, user)).sample()  # (B, d)
            item = session.best(weights @ self.vectors[:-1].T)  # (B,)
            hit = session.show(item)
            states.append(recent)
            actions.append(weights)
            paid.append(torch.stack([hit, self.popular[item]], 1).float())
            recent = torch.where(hit[:, None], torch.cat([recent[:, 1:], item[:, None]], 1), recent)
        return (torch.cat(states), user.repeat(config.horizon, 1)), torch.cat(actions), torch.stack(paid)

    def within_limits(self) -> bool:
        """Return whether the cost of the epoch's sessions was at most 1 % above its limit."""
        return self.excess <= 0.01 * self.config.limit

    def trained_in(self, phase: str) -> Iterable[nn.Parameter]:
        """Return the critic's weights: Adam does not train the actor."""
        return self.critic.parameters()

    def loss(self, ids: Tensor, phase: str) -> Tensor:
        """Return the critic's mean squared error at the epoch's states ``ids`` (B,)."""
        recent, user = self.state
        return functional.mse_loss(self.critic(self.vectors[recent[ids]], user[ids]), self.returns[ids])

    def scores(self, users: Tensor) -> Tensor:
        """Return the scores (B, I) of the mean of w."""
        recent = self.train_items.window(users, self.config.history)
        out: Tensor = self.policy((recent, self.users[users])).mean @ self.vectors[:-1].T
        return out


def discounted(paid: Tensor, gamma: float) -> Tensor:
    """Return the discounted sums (T, B, K) of what is paid (T, B, K) from each step on.

    Example:
        >>> discounted(torch.tensor([[[1.0]], [[0.0]], [[1.0]]]), 0.5).flatten()
        tensor([1.2500, 0.5000, 1.0000])
    """
    out = paid.clone()
    for step in reversed(range(len(paid) - 1)):
        out[step] += gamma * out[step + 1]
    return out


class FCPO(Learned):
    """FCPO: policy optimisation under a limit on popular items (Ge et al., WSDM 2021, arXiv 2101.03584)."""

    name: ClassVar[str] = "fcpo"
    config_class: ClassVar[type[BaselineConfig]] = FCPOConfig
    config: FCPOConfig

    def build(self, data: Dataset) -> ConstrainedPolicy:
        """The factorisation, actor and critic."""
        return ConstrainedPolicy(data, self.config)
