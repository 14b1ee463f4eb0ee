"""Common parts of sequential baselines that are networks.

Letters: B rows in a batch, W windows, L history length, I items, d size.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from agents.baselines.learning import Learner, LearningConfig
from refit_env.backbones.softmax_loss import softmax_loss
from refit_env.backbones.training_histories import TrainingHistories
from refit_env.data import Dataset
from refit_env.settings import PartialShare, Size


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
        known = TrainingHistories.of(data, config.history)
        inputs, nexts = known.windows()
        self.register_buffer("inputs", inputs, persistent=False)
        self.register_buffer("nexts", nexts, persistent=False)
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
