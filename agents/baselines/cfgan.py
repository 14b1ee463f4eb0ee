"""CFGAN: a generator of items' interaction vectors, trained against a discriminator.

G(c) predicts the whole vector c_i in {0, 1}^U of an item's users from itself, D(x, c) separates vectors x = c
from generated ones x = G(c) * (c + k), k a random share of the other users (partial masking). D minimises
-log D(c, c) - log(1 - D(x, c)); G minimises -log D(x, c) + w sum_{u in z} G(c)_u^2 + l2 |W|^2 / 2, z another
random share (zero reconstruction). A user's score of an item is G(c_i)_u. This is iCFGAN with both, ZP (Chae
et al., CIKM 2018), after the authors' code, https://github.com/Bigdasgit/CFGAN.

Deviations: one pass of D and one of G an epoch (there up to two and four), one batch size and one learning
rate for both, ten times as large (with a tenth of the l2) to train in minutes, k and z drawn for each batch
instead of each epoch, and early stopping on validation instead of a number of epochs from a list ("quite
sensitive to this value", says the code).

Letters: B items in a batch (users, when scored), U users, I items, H size of G's hidden layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional

from agents.baselines.base import BaselineConfig
from agents.baselines.learning import Learned, Learner, LearningConfig, tensor_of
from refit_env.data.dataset import Dataset
from refit_env.data.rows import SparseRows
from refit_env.settings import Nonnegative, Share, Size


@dataclass(frozen=True)
class CFGANConfig(LearningConfig):
    """CFGAN's settings."""

    hidden: Size = 300
    """Size of the generator's hidden layer."""
    critic: Size = 250
    """Size of the discriminator's hidden layers."""
    depth: Annotated[int, Meta(ge=1, le=20)] = 1
    """Hidden layers of the discriminator."""
    zeros: Share = 0.7
    """Share of an item's other users whose values are pulled to 0 (z)."""
    masked: Share = 0.7
    """Share of an item's other users that the discriminator reads (k)."""
    zero_weight: Nonnegative = 0.03
    """Weight of the squares of the values in z (w)."""
    l2: Nonnegative = 1e-4
    """Weight of the generator's squared weights."""
    learning_rate: Annotated[float, Meta(gt=0, le=10)] = 1e-3
    """Learning rate of Adam, of both networks."""
    batch: Size = 64
    """Items in a training step."""
    epochs: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Most epochs; without validation items, the exact number."""
    eval_every: Annotated[int, Meta(ge=1, le=100_000)] = 10
    """Epochs between validations."""
    patience: Annotated[int, Meta(ge=1, le=100_000)] = 10
    """Validations without a better NDCG@20 after which training stops; the best weights are used."""


class AdversarialVectors(Learner):
    """Generator and discriminator of items' vectors; an example is an item with train users."""

    phases: ClassVar[tuple[str, ...]] = ("discriminator", "generator")
    some: Tensor
    known: Tensor

    def __init__(self, data: Dataset, config: CFGANConfig) -> None:
        """Initialise the layers, and store the vectors."""
        super().__init__()
        self.config = config
        self._matrix = data.train.csr.T.tocsr()
        self._rows: SparseRows | None = None
        self.into, self.out = (
            nn.Linear(data.num_users, config.hidden),
            nn.Linear(config.hidden, data.num_users),
        )
        sizes = [2 * data.num_users, *[config.critic] * config.depth]
        inner = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Sigmoid())]
        self.critic = nn.Sequential(*inner, nn.Linear(sizes[-1], 1))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.uniform_(layer.bias, -0.01, 0.01)
        counts = tensor_of(data.train.csr.getnnz(0))  # (I,)
        self.register_buffer("some", torch.nonzero(counts).flatten(), persistent=False)
        self.register_buffer("known", torch.zeros(data.num_items, config.hidden), persistent=False)

    @property
    def num_examples(self) -> int:
        """The items with train users."""
        return self.some.numel()

    def vectors(self, items: Tensor) -> Tensor:
        """Return the users (B, U) of ``items`` (B,)."""
        if self._rows is None:
            self._rows = SparseRows(self._matrix, items.device)
        return self._rows.dense(items)

    def trained_in(self, phase: str) -> Iterable[nn.Parameter]:
        """Return the discriminator's or the generator's weights."""
        return self.critic.parameters() if phase == "discriminator" else self._generator()

    def _generator(self) -> list[nn.Parameter]:
        return [*self.into.parameters(), *self.out.parameters()]

    def loss(self, ids: Tensor, phase: str) -> Tensor:
        """Return the loss of one of the networks."""
        config = self.config
        vectors = self.vectors(self.some[ids])  # (B, U)
        made = self.out(torch.sigmoid(self.into(vectors)))  # (B, U)
        fake = made * torch.maximum(vectors, self._others(vectors, config.masked))  # (B, U)
        if phase == "discriminator":
            real, false = self._logit(vectors, vectors), self._logit(fake.detach(), vectors)  # (B, 1)
            return (functional.softplus(-real) + functional.softplus(false)).mean()
        zeros = (made.square() * self._others(vectors, config.zeros)).sum(1).mean()
        size = sum(weight.square().sum() for weight in self._generator())
        fooled = functional.softplus(-self._logit(fake, vectors)).mean()
        out: Tensor = fooled + config.zero_weight * zeros + 0.5 * config.l2 * size
        return out

    def _logit(self, values: Tensor, condition: Tensor) -> Tensor:
        """Return the discriminator's logits (B, 1) of values (B, U) for vectors (B, U)."""
        out: Tensor = self.critic(torch.cat([condition, values], 1))
        return out

    @staticmethod
    def _others(vectors: Tensor, share: float) -> Tensor:
        """Return a random share of the entries (B, U) that are 0, as ones."""
        return ((torch.rand_like(vectors) < share) & (vectors == 0)).to(vectors.dtype)

    def prepare(self) -> None:
        """Compute the hidden layer (I, H) of every item."""
        for items in torch.arange(len(self.known), device=self.known.device).split(1024):
            self.known[items] = torch.sigmoid(self.into(self.vectors(items)))

    def scores(self, users: Tensor) -> Tensor:
        """Return the users' entries (B, I) of the generated vectors."""
        return self.out.weight[users] @ self.known.T + self.out.bias[users, None]


class CFGAN(Learned):
    """CFGAN: a generator of items' users, trained against a discriminator (Chae et al., CIKM 2018)."""

    name: ClassVar[str] = "cfgan"
    config_class: ClassVar[type[BaselineConfig]] = CFGANConfig
    config: CFGANConfig

    def build(self, data: Dataset) -> AdversarialVectors:
        """Generator and discriminator."""
        return AdversarialVectors(data, self.config)
