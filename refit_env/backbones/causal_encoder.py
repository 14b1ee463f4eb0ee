"""SASRec's causal Transformer, for histories that are padded after their last item.

Letters: B histories in a batch, L their length, d size of an embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class CausalEncoder(nn.Module):
    """Embeddings of places, then blocks of causal attention: the state after each item of a history.

    No item attends to a later one, so no item attends to padding that follows the last one (Kang and McAuley,
    ICDM 2018, arXiv 1808.09781, Eq. 1 to 6).
    """

    def __init__(self, length: int, size: int, blocks: int, heads: int, dropout: float) -> None:
        """Initialise the weights, the places with N(0, 0.02^2).

        Args:
            length: L, the longest history.
            size: d, a multiple of ``heads``.
            blocks: number of blocks.
            heads: heads of an attention.
            dropout: share of numbers that training sets to 0.
        """
        super().__init__()
        self.places = nn.Embedding(length, size)
        nn.init.normal_(self.places.weight, std=0.02)
        self.blocks = nn.ModuleList(CausalBlock(size, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(size)
        self.drop = nn.Dropout(dropout)

    def forward(self, embedded: Tensor) -> Tensor:
        """Return the states (B, L, d) of the items' embeddings (B, L, d)."""
        place = torch.arange(embedded.shape[1], device=embedded.device)
        x = self.drop(embedded * embedded.shape[2] ** 0.5 + self.places(place))  # (B, L, d)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out


class CausalBlock(nn.Module):
    """Causal attention, then a two-layer network, each on normalised input and with a residual."""

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
