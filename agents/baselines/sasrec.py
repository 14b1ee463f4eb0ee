"""SASRec: self-attention over a history, each item attending to those before it.

Items and places have embeddings; blocks of causal attention and of a two-layer network, each on
normalised input and with a residual, give the state after each item (Kang and McAuley, ICDM 2018, arXiv
1808.09781, Eq. 1 to 6). The loss is cross-entropy among all items instead of one sampled negative, which
ranks better (Klenitskiy and Vasilev, RecSys 2023, arXiv 2309.07602).

Letters: B histories in a batch, L their length, I items, d size of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional

from agents.baselines.base import ROWS, BaselineConfig
from agents.baselines.histories import SequenceConfig, SequenceModel
from agents.baselines.learning import Learned
from refit_env.data.dataset import Dataset
from refit_env.errors import SettingError


@dataclass(frozen=True)
class SASRecConfig(SequenceConfig):
    """SASRec's settings."""

    blocks: Annotated[int, Meta(ge=1, le=20)] = 2
    """Blocks of attention."""
    heads: Annotated[int, Meta(ge=1, le=64)] = 1
    """Heads of an attention."""

    def check_together(self) -> None:
        """Raise an error for heads that do not divide the embedding."""
        if self.embedding % self.heads:
            raise SettingError("heads", f"must divide embedding={self.embedding}, found {self.heads}")


class Block(nn.Module):
    """Causal attention, then a two-layer network, each with a residual."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        """Initialise the layers."""
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(size), nn.LayerNorm(size)
        self.query, self.pair, self.out = (
            nn.Linear(size, size),
            nn.Linear(size, 2 * size),
            nn.Linear(size, size),
        )
        self.net = nn.Sequential(
            nn.Linear(size, size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(size, size), nn.Dropout(dropout)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return new states (B, L, d) for states (B, L, d)."""
        queries, (keys, values) = self.query(self.before(x)), self.pair(x).chunk(2, 2)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (queries, keys, values))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, heads, L, d / heads)
        x = x + self.drop(self.out(mixed.transpose(1, 2).flatten(2)))
        out: Tensor = x + self.net(self.between(x))
        return out


class AttentionModel(SequenceModel):
    """The item table, the places' and the blocks.

    Histories are padded after their last item, so no item attends to padding.
    """

    def __init__(self, data: Dataset, config: SASRecConfig) -> None:
        """Initialise the positions and the blocks."""
        super().__init__(data, config)
        size = config.embedding
        self.places = nn.Embedding(self.inputs.shape[1], size)
        nn.init.normal_(self.places.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(size, config.heads, config.dropout) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(size)

    def states(self, history: Tensor) -> Tensor:
        """(B, L, d)."""
        place = torch.arange(history.shape[1], device=history.device)
        x = self.drop(self.items(history) * self.config.embedding**0.5 + self.places(place))  # (B, L, d)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out

    config: SASRecConfig


class SASRec(Learned):
    """SASRec: causal self-attention over a history (Kang and McAuley, ICDM 2018, arXiv 1808.09781)."""

    name: ClassVar[str] = "sasrec"
    forms: ClassVar[tuple[str, ...]] = (ROWS,)
    ordered: ClassVar[bool] = True
    config_class: ClassVar[type[BaselineConfig]] = SASRecConfig
    config: SASRecConfig

    def build(self, data: Dataset) -> AttentionModel:
        """The network."""
        return AttentionModel(data, self.config)
