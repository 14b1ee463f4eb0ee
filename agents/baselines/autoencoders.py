"""Common parts of the autoencoders of interaction rows: batches of rows, layers, the multinomial likelihood.

Letters: B users in a batch, U users, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from agents.baselines.learning import Learner, LearningConfig, tensor_of
from refit_env.data.dataset import Dataset
from refit_env.data.rows import SparseRows
from refit_env.settings import PartialShare, Size


@dataclass(frozen=True)
class AutoencoderConfig(LearningConfig):
    """Settings of autoencoders."""

    hidden: tuple[Size, ...] = (600,)
    """Sizes of the encoder's layers; the decoder has them in reverse order."""
    latent: Size = 200
    """Size of a user's code."""
    dropout: PartialShare = 0.5
    """Dropout of the input."""
    batch: Size = 500
    """Users in a training step."""
    eval_every: Size = 2
    """Epochs between validations."""
    patience: Size = 5
    """Validations without a better NDCG@20 after which training stops."""


class RowModel(Learner):
    """A network of train rows; an example is a user with train items."""

    def __init__(self, data: Dataset, config: AutoencoderConfig) -> None:
        """Store the rows."""
        super().__init__()
        self.config = config
        self.num_items = data.num_items
        self._matrix = data.train.csr
        self._rows: SparseRows | None = None
        some = torch.nonzero(tensor_of(data.train.counts)).flatten()
        self.register_buffer("some", some, persistent=False)

    some: Tensor

    @property
    def num_examples(self) -> int:
        """The users with train items."""
        return self.some.numel()

    def rows(self, users: Tensor) -> Tensor:
        """Return the train rows (B, I) of ``users`` (B,)."""
        if self._rows is None:
            self._rows = SparseRows(self._matrix, users.device)
        return self._rows.dense(users)


def dropped_out(rows: Tensor, dropout: float, training: bool) -> Tensor:
    """Return rows (B, I) of length 1, with dropout of items in training."""
    return functional.dropout(functional.normalize(rows, dim=1), dropout, training)


def layers(sizes: Sequence[int]) -> nn.Sequential:
    """Return linear layers of these sizes with tanh between them, initialised as in Mult-VAE's code."""
    out: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(sizes)):
        linear = nn.Linear(before, after)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.trunc_normal_(linear.bias, std=0.001)
        out += [nn.Tanh(), linear] if number else [linear]
    return nn.Sequential(*out)


def multinomial(logits: Tensor, rows: Tensor) -> Tensor:
    """Return the negative log-likelihood (B,) of the rows' items under softmax(logits), both (B, I).

    Example:
        >>> multinomial(torch.zeros(1, 2), torch.tensor([[1.0, 1.0]])).round(decimals=4)
        tensor([1.3863])
    """
    return -(functional.log_softmax(logits, 1) * rows).sum(1)
