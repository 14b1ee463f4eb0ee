"""FPMC: a user's taste and the transition from the last item, both factorised.

The score of j for user u after item l is w_u h_j + a_l b_j (Rendle et al., WWW 2010, Eq. 10 with baskets
of one item); the loss is BPR of the item that came next against one drawn uniformly. A session that has
no train row has no w_u: its taste counts 0.

Letters: B rows in a batch, R train rows, U users that are scored, S sessions, I items, d size of an
embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from agents.baselines.base import ROWS, BaselineConfig
from agents.baselines.embeddings import bpr
from agents.baselines.learning import Learned, Learner, LearningConfig
from refit_env.backbones.training_histories import TrainingHistories
from refit_env.data.dataset import Dataset
from refit_env.settings import Nonnegative, Size


@dataclass(frozen=True)
class FPMCConfig(LearningConfig):
    """FPMC's settings."""

    embedding: Size = 64
    """Size d of each of the four tables."""
    l2: Nonnegative = 1e-4
    """Weight of half the squared embeddings of a row, its target and its negative."""
    batch: Size = 2048
    """Rows in a training step."""


class Factors(Learner):
    """The four tables."""

    def __init__(self, data: Dataset, config: FPMCConfig) -> None:
        """Initialise the tables with N(0, 0.1^2), and read the last item of each row."""
        super().__init__()
        self.config, self.num_items = config, data.num_items
        known = TrainingHistories.of(data, 1)
        sessions = known.sessions.unique()
        place = torch.searchsorted(sessions, known.owners).clamp(max=sessions.numel() - 1)
        owners = torch.where(sessions[place] == known.owners, place, sessions.numel())  # (U,) S: no train row
        rows = torch.stack([torch.searchsorted(sessions, known.sessions), known.history[:, 0], known.targets])
        self.register_buffer("rows", rows, persistent=False)  # (3, R) user, last item, target
        self.register_buffer("shown", torch.stack([owners, known.shown[:, 0]]), persistent=False)  # (2, U)
        size = config.embedding
        self.users = nn.Embedding(sessions.numel() + 1, size, padding_idx=sessions.numel())
        self.lasts = nn.Embedding(data.num_items + 1, size, padding_idx=data.num_items)
        self.items = nn.Embedding(data.num_items, 2 * size)  # h and b side by side
        with torch.no_grad():
            self.users.weight[:-1].normal_(std=0.1)
            self.lasts.weight[:-1].normal_(std=0.1)
            self.items.weight.normal_(std=0.1)

    rows: Tensor
    shown: Tensor

    @property
    def num_examples(self) -> int:
        """R."""
        return int(self.rows.shape[1])

    def states(self, users: Tensor, lasts: Tensor) -> Tensor:
        """Return w_u and a_l concatenated, (B, 2 d)."""
        return torch.cat([self.users(users), self.lasts(lasts)], 1)

    def loss(self, ids: Tensor, phase: str) -> Tensor:
        """Return BPR with l2."""
        users, lasts, targets = self.rows[:, ids]
        others = torch.randint(self.num_items - 1, targets.shape, device=targets.device)
        others = others + (others >= targets).long()  # uniform among the items but the target
        vectors = self.states(users, lasts), self.items(targets), self.items(others)
        size = torch.stack([vector.square().sum() for vector in vectors]).sum() / (2 * len(ids))
        return bpr(*vectors) + self.config.l2 * size

    def scores(self, users: Tensor) -> Tensor:
        """(B, I)."""
        out: Tensor = self.states(*self.shown[:, users]) @ self.items.weight.T
        return out


class FPMC(Learned):
    """FPMC: factorised tastes and transitions (Rendle et al., WWW 2010)."""

    name: ClassVar[str] = "fpmc"
    forms: ClassVar[tuple[str, ...]] = (ROWS,)
    ordered: ClassVar[bool] = True
    config_class: ClassVar[type[BaselineConfig]] = FPMCConfig
    config: FPMCConfig

    def build(self, data: Dataset) -> Factors:
        """The tables."""
        return Factors(data, self.config)
