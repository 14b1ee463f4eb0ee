"""NICF: Q-learning of what to show next in a session, by self-attention over what was shown.

State s_t is what the user was shown so far, one sequence for each kind of feedback (liked, not liked). Each
has its own item table and blocks of causal self-attention; the states after the last items, joined, go
through a two-layer network to Q(s_t, .) in R^I. Actions are epsilon-greedy among the items that were not
shown; the reward r_t is 1 for an item that the user has, otherwise 0. Weights minimise

    (r_t + gamma max_a Q(s_{t+1}, a) - Q(s_t, a_t))^2

over sessions drawn from a replay memory, with r_t alone as the target at a session's last step (Zou et al.,
SIGIR 2020, arXiv 2007.02095; https://github.com/zoulixin93/NICF).

Deviations, for this suite's protocol: feedback has two values, there are no ratings. A session does not
always begin without any known item but with a part of the user's train items, as liked ones, and its rewards
are the others (``agents.baselines.sessions``), so that training knows states like the one at test: all train
items of a user, the last L of them. Q of that state ranks all items. A gradient step reads all steps of a
session in one pass. Epsilon falls linearly; gamma is not annealed; max Q is clipped to what a session can
pay. The defaults are for minutes on a processor: one block (there two), 20 steps (40), no dropout (.1), gamma
.5 (.8), and 256 sessions in each of at most 300 epochs (50 in each of 3,000). On ML-100K 110 epochs, 560,000
steps in 100 processor seconds, reach the level of popularity; the authors' code runs 6 million steps.

Letters: B sessions in a batch (users, when scored), I items, L known items of a session, T its steps, S
sessions in the memory, d size of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional

from agents.baselines.base import BaselineConfig
from agents.baselines.learning import Learned, Learner, LearningConfig
from agents.baselines.sessions import TrainItems
from refit_env.backbones.causal_encoder import CausalEncoder
from refit_env.data.dataset import Dataset
from refit_env.settings import PartialShare, Share, Size, check_heads


@dataclass(frozen=True)
class NICFConfig(LearningConfig):
    """NICF's settings."""

    history: Annotated[int, Meta(ge=1, le=1000)] = 20
    """L, the last known items that a session begins with."""
    embedding: Size = 50
    """d."""
    blocks: Annotated[int, Meta(ge=1, le=20)] = 1
    """Blocks of attention."""
    heads: Annotated[int, Meta(ge=1, le=64)] = 1
    """Heads of an attention."""
    dropout: PartialShare = 0.0
    """Dropout of embeddings and within the network."""
    latest: bool = True
    """Whether a session hides the latest items where they are sorted by time; otherwise random ones."""
    horizon: Annotated[int, Meta(ge=1, le=1000)] = 20
    """T."""
    gamma: PartialShare = 0.5
    """Discount of later rewards."""
    sessions: Size = 256
    """New sessions in an epoch."""
    updates: Size = 30
    """Gradient steps in an epoch."""
    memory: Size = 2048
    """S, sessions in the replay memory."""
    epsilon: Share = 0.1
    """Share of random actions after the first epochs."""
    exploring: Size = 10
    """Epochs in which the share of random actions falls from 1 to ``epsilon``."""
    learning_rate: Annotated[float, Meta(gt=0, le=10)] = 3e-3
    """Learning rate of Adam."""
    batch: Size = 32
    """Sessions of the memory in a gradient step, all their steps together."""
    epochs: Annotated[int, Meta(ge=1, le=100_000)] = 300
    """Most epochs; without validation items, the exact number."""
    eval_every: Annotated[int, Meta(ge=1, le=100_000)] = 10
    """Epochs between validations."""
    patience: Annotated[int, Meta(ge=1, le=100_000)] = 5
    """Validations without a better NDCG@20 after which training stops; the best weights are used."""

    def check_together(self) -> None:
        """Raise an error for heads that do not divide the embedding."""
        check_heads(self.heads, self.embedding)


class SessionValues(Learner):
    """Q, and the memory of sessions; an example is a session that is drawn from the memory."""

    items: Tensor
    liked: Tensor
    known: Tensor

    def __init__(self, data: Dataset, config: NICFConfig) -> None:
        """Initialise the layers and an empty memory."""
        super().__init__()
        self.config, self.num_items = config, data.num_items
        self.train_items = TrainItems(data, config.latest)
        size, count = config.embedding, data.num_items
        length = config.history + config.horizon  # the known items, then those of the steps
        tables = [nn.Embedding(count + 1, size, padding_idx=count) for _ in range(2)]
        self.encoders = nn.ModuleList(
            CausalEncoder(length, size, config.blocks, config.heads, config.dropout) for _ in range(2)
        )
        self.head = nn.Sequential(nn.Linear(2 * size, size), nn.ReLU(), nn.Linear(size, count))
        with torch.no_grad():
            for table in tables:
                table.weight[:-1].normal_(std=0.02)
            for weight in self.head[-1].parameters():
                weight.mul_(0.01)  # no item begins with a Q above that of a good one
        self.tables = nn.ModuleList(tables)
        self.register_buffer("items", torch.full((config.memory, length), count), persistent=False)
        self.register_buffer("liked", torch.zeros(config.memory, length, dtype=torch.bool), persistent=False)
        self.register_buffer("known", torch.zeros(config.memory, count, dtype=torch.bool), persistent=False)
        self.epoch, self.written = 0, 0

    @property
    def num_examples(self) -> int:
        """The sessions that an epoch draws."""
        return self.config.updates * self.config.batch

    def values(self, items: Tensor, liked: Tensor, first: int) -> Tensor:
        """Return Q at all steps of sessions, by one pass: attention is causal.

        Args:
            items: (B, n) that were shown, in order, I for none.
            liked: (B, n) bool.
            first: f, the items before the first step.

        Returns:
            (B, n - f + 1, I) Q of the first f items, of the first f + 1, ..., of all.
        """
        parts = []
        for kind, (table, encoder) in enumerate(zip(self.tables, self.encoders, strict=True)):
            mine = (items < self.num_items) & (liked if kind == 0 else ~liked)
            states = encoder(table(packed(items, mine, self.num_items)))  # (B, l, d)
            count = functional.pad(mine.cumsum(1), (1, 0))[:, first:, None]  # (B, m, 1) so far
            last = (count - 1).clamp(min=0).expand(-1, -1, states.shape[2])
            parts.append(states.gather(1, last) * (count > 0))
        out: Tensor = self.head(torch.cat(parts, 2))
        return out

    @torch.no_grad()
    def begin(self, phase: str) -> None:
        """Run the epoch's sessions, and write them over the oldest of the memory."""
        config = self.config
        self.eval()  # actions are those of the whole network
        past = min(self.epoch / config.exploring, 1.0)
        epsilon = 1.0 - (1.0 - config.epsilon) * past
        self.epoch += 1
        session = self.train_items.draw(config.sessions, config.history)
        blank = session.window.new_full((config.sessions, config.horizon), self.num_items)
        items = torch.cat([session.window, blank], 1)  # (B, L + T)
        liked = items < self.num_items
        for at in range(config.history, items.shape[1]):
            values = self.values(items[:, :at], liked[:, :at], at)[:, 0]  # (B, I)
            explores = torch.rand(config.sessions, 1, device=items.device) < epsilon
            items[:, at] = session.best(torch.where(explores, torch.rand_like(values), values))
            liked[:, at] = session.show(items[:, at])
        place = (self.written + torch.arange(config.sessions, device=items.device)) % config.memory
        self.items[place], self.liked[place], self.known[place] = items, liked, session.known
        self.written += config.sessions
        self.train()

    def loss(self, ids: Tensor, phase: str) -> Tensor:
        """Return the mean squared error of Q at all steps of random sessions, as many as ``ids`` (B,)."""
        first = self.config.history
        drawn = torch.randint(min(self.written, self.config.memory), ids.shape, device=ids.device)
        items, liked = self.items[drawn], self.liked[drawn]  # (B, L + T)
        values = self.values(items, liked, first)  # (B, T + 1, I)
        actions, rewards = items[:, first:, None], liked[:, first:].float()  # (B, T, 1), (B, T)
        there = actions[:, :, 0] < self.num_items
        with torch.no_grad():
            steps = torch.arange(rewards.shape[1], device=ids.device)  # (T,)
            shown = actions.mT.where(steps <= steps[:, None], self.num_items)  # (B, T, T) up to each step
            known = functional.pad(self.known[drawn], (0, 1))[:, None].repeat(1, len(steps), 1)
            closed, last = known.scatter(2, shown, True)[:, :, :-1], steps == steps[-1]  # (B, T, I), (T,)
            target = bellman(rewards, values[:, 1:].detach(), closed, last, self.config.gamma)
        chosen = values[:, :-1].gather(2, actions.clamp(max=self.num_items - 1))[:, :, 0]
        return ((chosen - target).square() * there).sum() / there.sum().clamp(min=1)

    def scores(self, users: Tensor) -> Tensor:
        """Return Q (B, I) of the users' last train items, all liked."""
        shown = self.train_items.window(users, self.config.history)
        return self.values(shown, shown < self.num_items, shown.shape[1])[:, 0]


def bellman(reward: Tensor, later: Tensor, closed: Tensor, last: Tensor, gamma: float) -> Tensor:
    """Return the targets r + gamma max Q (B, T) of Q-learning.

    Args:
        reward: (B, T).
        later: (B, T, I) Q of the next states.
        closed: (B, T, I) bool the items that the next step cannot show.
        last: (T,) bool whether the session ends.
        gamma: discount, below 1.

    Example:
        >>> later, closed = torch.tensor([[[0.5, 0.9, 0.1]]]), torch.tensor([[[False, True, False]]])
        >>> bellman(torch.ones(1, 1), later, closed, torch.tensor([False]), gamma=0.5)
        tensor([[1.2500]])
    """
    best = later.masked_fill(closed, 0.0).amax(-1).clamp(0.0, 1.0 / (1.0 - gamma))
    return reward + gamma * best.where(~last, 0.0)


def packed(items: Tensor, mine: Tensor, none: int) -> Tensor:
    """Return the items of each row that are ``mine``, in order, padded behind.

    Args:
        items: (B, n) int64.
        mine: (B, n) bool.
        none: the padding.

    Returns:
        (B, l), l the most of a row, at least 1.

    Example:
        >>> packed(torch.tensor([[4, 5, 6], [7, 8, 9]]), torch.tensor([[1, 0, 1], [0, 1, 0]]).bool(), 0)
        tensor([[4, 6],
                [8, 0]])
    """
    rank = mine.cumsum(1)  # (B, n)
    width = int(rank[:, -1].max().clamp(min=1))
    out = items.new_full((len(items), width + 1), none)
    return out.scatter(1, (rank - 1).where(mine, width), items)[:, :-1]


class NICF(Learned):
    """NICF: Q-learning of what to show next in a session (Zou et al., SIGIR 2020, arXiv 2007.02095)."""

    name: ClassVar[str] = "nicf"
    config_class: ClassVar[type[BaselineConfig]] = NICFConfig
    config: NICFConfig

    def build(self, data: Dataset) -> SessionValues:
        """The network and its memory."""
        return SessionValues(data, self.config)
