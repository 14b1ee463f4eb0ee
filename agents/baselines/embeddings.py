"""Common parts of baselines with an embedding of each user and item: pairs, the BPR loss, inner products.

Letters: B pairs in a batch (users, when scored), N interactions, U users, I items, d size of an embedding.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional

from agents.baselines.learning import Learner, LearningConfig, tensor_of
from refit_env.backbones.graphs import Operator, count_edges
from refit_env.backbones.negatives import Negatives
from refit_env.data.dataset import Dataset
from refit_env.settings import Nonnegative, Size


@dataclass(frozen=True)
class EmbeddingConfig(LearningConfig):
    """Settings of models with embeddings."""

    embedding: Size = 64
    """d."""
    l2: Nonnegative = 1e-4
    """Weight of half the squared embeddings of a pair and its negative."""
    batch: Size = 2048
    """Pairs in a training step."""
    initial_std: Annotated[float, Meta(gt=0, le=10)] = 0.1
    """Standard deviation of the embeddings that training begins with; .1 is that of LightGCN's code."""
    by_user: bool = False
    """Whether the pairs of an epoch are drawn by user, all users alike, and then one of the user's items, as
    the code of NGCF and LightGCN draws them; else each interaction is taken once."""


class EmbeddingModel(Learner):
    """Users and items as vectors; a score is their inner product.

    An example is an interaction; its negative is drawn uniformly from the items that the user does not have.
    """

    def __init__(self, data: Dataset, config: EmbeddingConfig) -> None:
        """Initialise the embeddings with N(0, initial_std^2)."""
        super().__init__()
        self.config = config
        self.users = nn.Embedding(data.num_users, config.embedding)
        self.items = nn.Embedding(data.num_items, config.embedding)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=config.initial_std)
        self.register_buffer(
            "pairs", tensor_of(np.stack([data.train.users, data.train.items])), persistent=False
        )
        self._rows = data.train.csr
        self._negatives: Negatives | None = None
        self._by_user: tuple[Tensor, Tensor, Tensor] | None = None
        self._scored: tuple[Tensor, Tensor] | None = None

    pairs: Tensor

    @property
    def num_examples(self) -> int:
        """N, the interactions."""
        return int(self.pairs.shape[1])

    def examples(self, device: torch.device) -> Tensor:
        """Draw the pairs of a pass (N,): each once, or those of users who are all drawn alike."""
        if not self.config.by_user:
            return super().examples(device)
        if self._by_user is None:
            order = self.pairs[0].argsort(stable=True)  # (N,) pairs by user
            _, counts = self.pairs[0][order].unique_consecutive(return_counts=True)  # of users with items
            self._by_user = order, counts.cumsum(0) - counts, counts
        order, first, counts = self._by_user
        users = torch.randint(counts.numel(), order.shape, device=device)  # (N,)
        nth = (torch.rand(order.shape, dtype=torch.float64, device=device) * counts[users]).long()  # (N,)
        return order[first[users] + nth]

    def negatives(self, users: Tensor) -> Tensor:
        """Draw an item (B,) that each of ``users`` (B,) does not have."""
        if self._negatives is None:
            self._negatives = Negatives(self._rows, users.device)
        return self._negatives.draw(users)

    @abstractmethod
    def embed(self) -> tuple[Tensor, Tensor]:
        """Return the vectors of all users (U, e) and items (I, e), whose inner products are scores."""

    def loss(self, ids: Tensor, phase: str) -> Tensor:
        """Return BPR, -log sigmoid of the pair's score minus the negative's, with l2 on their embeddings."""
        users, items = self.pairs[:, ids]
        others = self.negatives(users)
        all_users, all_items = self.embed()
        vectors = all_users[users], all_items[items], all_items[others]
        return bpr(*vectors) + self.config.l2 * self.size(users, items, others)

    def size(self, users: Tensor, items: Tensor, others: Tensor) -> Tensor:
        """Return half the squared embeddings of the triples (B,), divided by B."""
        tables = self.users(users), self.items(items), self.items(others)
        return torch.stack([table.square().sum() for table in tables]).sum() / (2 * users.numel())

    def prepare(self) -> None:
        """Compute the embeddings once for all users."""
        self._scored = self.embed()

    def scores(self, users: Tensor) -> Tensor:
        """Return the inner products (B, I)."""
        assert self._scored is not None, "prepare comes first"
        return self._scored[0][users] @ self._scored[1].T


def bpr(users: Tensor, items: Tensor, others: Tensor) -> Tensor:
    """Return the mean of -log sigmoid(u i - u j) over triples of vectors (B, d) (Rendle et al., UAI 2009).

    Example:
        >>> u = torch.tensor([[1.0, 0.0]])
        >>> round(float(bpr(u, u, torch.zeros(1, 2))), 4)
        0.3133
    """
    gap = ((items - others) * users).sum(1)  # (B,)
    return -functional.logsigmoid(gap).mean()


def contrast(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE of two views (B, d): each row of one against all of the other, by cosine.

    Example:
        >>> a = torch.eye(2)
        >>> round(float(contrast(a, a, 1.0)), 4)
        0.3133
    """
    logits = functional.normalize(one, dim=1) @ functional.normalize(other, dim=1).T / temperature  # (B, B)
    return functional.cross_entropy(logits, torch.arange(one.shape[0], device=one.device))


def user_item_graph(pairs: Tensor, num_users: int, num_items: int) -> Operator:
    """Return the normalised graph D_U^-1/2 X D_I^-1/2 of ``pairs`` (2, N), from items to users."""
    return Operator.symmetric(pairs, (num_users, num_items))


def mean_over(edges: Tensor, rows: int, columns: int) -> Operator:
    """Return the mean over the neighbours of each row; ``edges`` (2, n) are pairs (row, neighbour)."""
    counts = count_edges(edges[0], rows)
    return Operator.symmetric(edges, (rows, columns), (counts.square(), counts.new_ones(columns)))
