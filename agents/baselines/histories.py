"""Common parts of sequential baselines: histories of rows, or of sets whose items are sorted by time.

Letters: B rows in a batch, R rows, W windows, L history length, U users or rows that are scored, I items,
d size.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn

from agents.baselines.learning import Learner, LearningConfig, tensor_of
from agents.baselines.softmax_loss import softmax_loss
from refit_env.data import Dataset, Interactions, RowDataset, as_rows
from refit_env.data.dataset import next_rows
from refit_env.settings import PartialShare, Size


@dataclass(frozen=True)
class Histories:
    """Training data and inputs of a sequential model.

    Attributes:
        history: (R, L) int64 items before each train target, oldest first, padded with I.
        targets: (R,) int64.
        sessions: (R,) int64 the session (user) of each train row.
        shown: (U, L) int64 the history of each user that is scored.
        owners: (U,) int64 the session of each user that is scored.
    """

    history: Tensor
    targets: Tensor
    sessions: Tensor
    shown: Tensor
    owners: Tensor

    @classmethod
    def of(cls, data: Dataset, length: int) -> Histories:
        """Read a data set of rows, or of sets sorted by time; histories hold at most ``length`` items.

        For sets, each train item except a user's first is a target, and all train items are the input.
        """
        if isinstance(data, RowDataset):
            history = tensor_of(data.latest(min(length, data.history.shape[1]))[0])
            train, sessions = tensor_of(data.rows_of("train")), tensor_of(data.sessions)
            return cls(history[train], tensor_of(data.targets.items), sessions[train], history, sessions)
        none = Interactions.from_pairs([], [], data.num_users, data.num_items)
        known = replace(data, valid=none, test=none)
        rows, latest = as_rows(known, length), next_rows(known, length)
        parts = rows.history, rows.targets.items, rows.sessions, latest.history, latest.sessions
        return cls(*(tensor_of(part) for part in parts))

    def windows(self) -> Tensor:
        """(W,) train rows whose histories hold each item of a session as a target or as its first one.

        They are the latest row of a session and each L-th before it, so a network that predicts the next
        item at each place of them learns from every train event once, or twice at a seam.
        """
        length, count = self.history.shape[1], self.sessions.numel()
        order = np.lexsort((np.arange(count), self.sessions.numpy()))  # rows of a session in order of time
        sessions = self.sessions.numpy()[order]
        ends = np.searchsorted(sessions, sessions, side="right")
        from_end = ends - 1 - np.arange(count)
        return tensor_of(np.sort(order[from_end % length == 0]))


@dataclass(frozen=True)
class SequenceConfig(LearningConfig):
    """Settings of networks of histories."""

    history: Annotated[int, Meta(ge=1, le=1000)] = 50
    """L, length of a history; for a data set of rows, at most their length."""
    embedding: Size = 64
    """d."""
    dropout: PartialShare = 0.2
    """Dropout of embeddings and within the network."""
    batch: Size = 128
    """Histories in a training step."""
    eval_every: Size = 1
    """Epochs between validations."""
    patience: Size = 5
    """Validations without a better NDCG@20 after which training stops."""


class SequenceModel(Learner):
    """A network that returns a state after each item of a history; a score is its product with the item."""

    def __init__(self, data: Dataset, config: SequenceConfig) -> None:
        """Initialise the item table with N(0, 0.02^2), and store the histories."""
        super().__init__()
        self.config, self.num_items = config, data.num_items
        known = Histories.of(data, config.history)
        chosen = known.windows()
        targets = torch.cat([known.history[chosen], torch.zeros(len(chosen), 1, dtype=torch.int64)], 1)[:, 1:]
        last = (known.history[chosen] < data.num_items).sum(1, keepdim=True) - 1  # (W, 1)
        targets = targets.scatter(1, last, known.targets[chosen][:, None])  # (W, L) the next of each place
        self.register_buffer("inputs", known.history[chosen], persistent=False)
        self.register_buffer("nexts", targets, persistent=False)
        self.register_buffer("shown", known.shown, persistent=False)
        self.items = nn.Embedding(data.num_items + 1, config.embedding, padding_idx=data.num_items)
        with torch.no_grad():
            self.items.weight[:-1].normal_(std=0.02)
        self.drop = nn.Dropout(config.dropout)

    inputs: Tensor
    nexts: Tensor
    shown: Tensor

    @property
    def num_examples(self) -> int:
        """W."""
        return int(self.inputs.shape[0])

    @abstractmethod
    def states(self, history: Tensor) -> Tensor:
        """Return states (B, L, d) after each item of the histories (B, L), independent of later items."""

    def loss(self, ids: Tensor, phase: str) -> Tensor:
        """Return the cross-entropy of the next item among all, at each position of the histories."""
        history = self.inputs[ids]  # (B, L)
        there = history < self.num_items
        states = self.states(history)[there]  # (n, d)
        return softmax_loss(states, self.items.weight[:-1], self.nexts[ids][there])

    def scores(self, users: Tensor) -> Tensor:
        """Return scores (B, I) of the state after the last item."""
        history = self.shown[users]  # (B, L)
        last = ((history < self.num_items).sum(1) - 1).clamp(min=0)  # (B,)
        state = self.states(history)[torch.arange(len(users), device=users.device), last]  # (B, d)
        return state @ self.items.weight[:-1].T
