"""CF-Diff (Hou et al., SIGIR 2024, arXiv 2404.14240): DiffRec's chain with attention over multi-hop rows.

Letters: B users in a batch, U users, I items (= D), N interactions, L tokens of a row, E size of the time
embedding, M = L + E tokens with the step's, W width of a token, T steps of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional

from refit_env.backbones.base import Backbone, Condition, check_task
from refit_env.backbones.diffrec import time_embedding
from refit_env.backbones.elbo import StepLoss
from refit_env.backbones.graphs import Operator, check_edges, count_edges
from refit_env.backbones.latest import Latest
from refit_env.backbones.noise_schedule import NoiseSchedule
from refit_env.data.dataset import Dataset
from refit_env.settings import Known, Nonnegative, PartialShare, Share, Size, Steps


@dataclass(frozen=True)
class CFDiffConfig(NoiseSchedule):
    """CF-Diff's settings; the defaults are those published for ML-1M."""

    hops: Annotated[int, Meta(ge=2, le=3)] = 3
    """2: the network uses the 2-hop row; 3: the 2-hop and the 3-hop row."""
    tokens: Size = 512
    """L, size of a compressed row; the cost of attention grows with its square."""
    width: Size = 16
    """W, size of a token."""
    heads: Size = 4
    """Attention heads."""
    layers: Annotated[int, Meta(ge=0, le=1000)] = 2
    """Attention layers."""
    num_steps: Steps = 5
    noise_scale: Nonnegative = 0.01
    noise_min: Share = 0.001
    embedding: Size = 10
    """E, size of the time embedding; each of its numbers is a token."""
    dropout: PartialShare = 0.5
    """Dropout of the compressed row and of each layer's tokens."""
    attention_dropout: PartialShare = 0.5
    """Dropout of attention weights."""
    attended_dropout: PartialShare = 0.5
    """Dropout of the attention's output (0.8 in the published 2-hop network)."""
    second_hop: Nonnegative = 0.15
    """With 3 hops: weight of the attention with the 2-hop row."""
    third_hop: Nonnegative = 0.5
    """With 3 hops: weight of the attention with the 3-hop row."""
    mix: Share = 0.9
    """With 3 hops: share of the 2-hop branch in the output."""
    sharpness: Nonnegative = 1.0
    """Exponent of the user similarity in the 3-hop row."""
    num_users: Known = 0
    """U of the graph; set from the data."""
    num_interactions: Known = 0
    """N of the graph; set from the data."""


class CFDiff(Backbone):
    """An attention network whose queries are a user's multi-hop neighbours (CAM-AE).

    A row is compressed to L numbers, each of which becomes a token of size W; the tokens of the noisy row are
    keys and values, those of the hops are queries. The hops are functions of the user's visible row, which is
    therefore the context:

    - 2-hop: x_i * deg(i) / U, the share of users who also have item i.
    - 3-hop: the other items of these users, sum_v like(x, x_v)^sharpness x_v without the items of x, divided
      by its largest value; like is the cosine.

    Users who have *all* visible items are not counted in the 3-hop row: the user is one of them, and the
    hidden part of the user's row must not reach the network through the graph.

    Deviations from the reference code: there the 3-hop rows are only provided as a file, without the code
    that made it; here they are defined as above and computed from the sparse graph, a batch at a time. The
    3-hop network's scaling to length 1 along the tokens is kept, and so are the weights of its branches.
    Layers that the reference never uses are removed, batches of size one work, and training rows are
    shuffled.
    """

    name: ClassVar[str] = "cf-diff"
    config_class: ClassVar[type] = CFDiffConfig
    shows_rows: ClassVar[bool] = True

    interactions: Tensor

    def __init__(self, num_items: int, config: CFDiffConfig | None = None) -> None:
        """Build an untrained network over an empty graph; ``for_dataset`` fills it.

        Args:
            num_items: I.
            config: settings; None uses those for ML-1M.

        Raises:
            ValueError: for an invalid schedule.
        """
        super().__init__()
        self.config: CFDiffConfig = config if config is not None else CFDiffConfig()
        self.num_items = self.dim = num_items
        self.diffusion = self.config.diffusion()
        self.loss = StepLoss(self.diffusion)
        self.register_buffer("interactions", torch.zeros(2, self.config.num_interactions, dtype=torch.int32))
        self._graph: Latest[tuple[Operator, Tensor, Tensor]] = Latest()
        width, total = self.config.width, self.config.tokens + self.config.embedding
        self.compress = nn.Linear(num_items, self.config.tokens)
        self.time = nn.Linear(self.config.embedding, self.config.embedding)
        self.lift = nn.Linear(1, width)
        self.lift_hops = nn.ModuleList(nn.Linear(1, width) for _ in range(self.config.hops - 1))
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(width, self.config.heads, self.config.attention_dropout, batch_first=True)
            for _ in range(self.config.layers)
        )
        self.mixers = nn.ModuleList(nn.Linear(width, width) for _ in range(self.config.layers))
        self.drop = nn.Linear(width, 1)
        self.decompress = nn.Linear(total, num_items)

    @classmethod
    def for_dataset(cls, dataset: Dataset, config: Any = None) -> Self:
        """Build an untrained network over the graph of the train split."""
        check_task(cls, dataset)
        config = config if config is not None else CFDiffConfig()
        train = dataset.train.csr.tocoo()
        sizes = {"num_users": dataset.num_users, "num_interactions": train.nnz}
        out = cls(dataset.num_items, replace(config, **sizes))
        out.interactions.copy_(torch.from_numpy(np.stack([train.row, train.col])))
        return out

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Raise an error for a graph with ids out of range."""
        check_edges("interactions", state["interactions"], (self.config.num_users, self.num_items))

    # ------------------------------------------------------------------ the hops

    def _links(self, dtype: torch.dtype) -> tuple[Operator, Tensor, Tensor]:
        """Return the binary matrix (U, I), and the degrees of users (U,) and items (I,)."""
        shape, edges = (self.config.num_users, self.num_items), self.interactions

        def make() -> tuple[Operator, Tensor, Tensor]:
            one = tuple(torch.ones(size, device=edges.device) for size in shape)
            degrees = [count_edges(edges[side], shape[side]).to(dtype) for side in (0, 1)]
            return Operator.symmetric(edges, shape, (one[0], one[1]), dtype), degrees[0], degrees[1]

        return self._graph.get([edges], make, dtype)

    @torch.no_grad()
    def hops(self, row: Tensor) -> list[Tensor]:
        """Return the 2-hop and, with 3 hops, the 3-hop row, each (B, I), of visible rows (B, I)."""
        owned = (row > 0).to(row.dtype)  # (B, I)
        _, of_users, of_items = self._links(row.dtype)
        second = owned * (of_items / max(self.config.num_users, 1))
        if self.config.hops == 2:
            return [second]
        common = self._spread(owned, 1)  # (U, B) items in common
        own = owned.sum(1)  # (B,)
        lengths = of_users.clamp(min=1)[:, None] * own.clamp(min=1)  # (U, B)
        like = (common / lengths.sqrt()) ** self.config.sharpness
        like = like.masked_fill(common >= own - 0.5, 0.0)  # users who have all visible items
        third = self._spread(like.T, 0).T * (1 - owned)  # (B, I)
        return [second, third / third.amax(1, keepdim=True).clamp(min=torch.finfo(row.dtype).tiny)]

    def _spread(self, values: Tensor, side: int) -> Tensor:
        """Return the sums over neighbours, (U, B) of items' ``values`` (B, I), or (I, B) of users' (B, U).

        Args:
            values: (B, I) or (B, U).
            side: 1: from items to users; 0: from users to items.
        """
        if not torch.compiler.is_exporting():
            to_users, _, _ = self._links(values.dtype)
            return (to_users if side else to_users.T)(values.T)
        source, target = self.interactions[side].long(), self.interactions[1 - side].long()  # (N,)
        count = self.config.num_users if side else self.num_items
        out = values.new_zeros(values.shape[0], count)  # sparse matrices cannot be exported
        return out.index_add(1, target, values[:, source]).T

    @property
    def condition_size(self) -> int:
        """L for each hop beyond the first."""
        return self.config.tokens * (self.config.hops - 1)

    def encode(self, context: Tensor) -> Condition:
        """Encode visible rows (B, I) as compressed hops (B, L) or (B, 2 L)."""
        return Condition(torch.cat([self.compress(hop) for hop in self.hops(context)], 1))

    # ------------------------------------------------------------------ the network

    def forward(self, u: Tensor, timestep: int | Tensor, hops: Tensor) -> Tensor:
        """Predict clean rows (B, I) from ``u`` (B, I), given compressed ``hops`` (B, (hops - 1) L)."""
        step = self.time(time_embedding(timestep, self.config.embedding, u)).expand(u.shape[0], -1)  # (B, E)
        compressed = self._dropped(self.compress(u), self.config.dropout)  # (B, L)
        tokens = self.lift(torch.cat([compressed, step], 1).unsqueeze(2))  # (B, M, W)
        queries = [
            lift(torch.cat([hop, step], 1).unsqueeze(2))  # (B, M, W)
            for lift, hop in zip(self.lift_hops, hops.split(self.config.tokens, 1), strict=True)
        ]
        if self.config.hops == 2:
            mixed = self._branch(tokens, queries[0], 1.0, along_tokens=False)
        else:
            by_second = self._branch(tokens, queries[0], self.config.second_hop, along_tokens=True)
            by_third = self._branch(tokens, queries[1], self.config.third_hop, along_tokens=True)
            mixed = self.config.mix * by_second + (1 - self.config.mix) * by_third  # (B, M, W)
        out: Tensor = self.decompress(torch.tanh(self.drop(mixed).squeeze(2)))  # (B, I)
        return out

    def _branch(self, tokens: Tensor, query: Tensor, weight: float, along_tokens: bool) -> Tensor:
        """Apply the attention layers to ``tokens`` (B, M, W) with one hop's ``query`` (B, M, W)."""
        last = len(self.mixers) - 1
        for number, (attention, mixer) in enumerate(zip(self.attention, self.mixers, strict=True)):
            found, _ = attention(query, tokens, tokens, need_weights=False)  # (B, M, W)
            if along_tokens:
                found = functional.normalize(found, dim=1)
            tokens = tokens + weight * self._dropped(found, self.config.attended_dropout)
            tokens = mixer(self._dropped(tokens, self.config.dropout))
            tokens = tokens if number == last else torch.tanh(tokens)
        return tokens

    def _dropped(self, x: Tensor, share: float) -> Tensor:
        return functional.dropout(x, share, self.training)

    def predict_x0(self, u: Tensor, timestep: int | Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the clean rows (B, I).

        Raises:
            ValueError: without a condition, because the noisy row does not determine the visible one.
        """
        if condition is None:
            raise ValueError(
                "backbone 'cf-diff' uses neighbours of the visible row: pass that row (B, I) as context"
            )
        out: Tensor = self(u, timestep, condition.value)
        return out

    def elbo_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return DiffRec's reweighted ELBO, conditioned on the hops of ``shown``; see ``Backbone``."""
        hops = self.encode(shown).value
        loss: Tensor = self.loss(shown, target, lambda u, k: self(u, k, hops), generator)[0]
        return loss

    @property
    def output_layer(self) -> nn.Linear:
        """The layer from the tokens to the items."""
        return self.decompress


PUBLISHED: dict[str, CFDiffConfig] = {
    "ml-1m": CFDiffConfig(),
    "anime": CFDiffConfig(
        hops=2,
        tokens=650,
        heads=2,
        attended_dropout=0.8,
        num_steps=10,
        noise_scale=0.003,
        noise_min=1e-4,
    ),
    "yelp": CFDiffConfig(hops=2, tokens=650, heads=2, attended_dropout=0.8, num_steps=20),
}
"""The configurations of the authors' checkpoints, by data set."""

_SMALL = replace(
    PUBLISHED["ml-1m"],
    tokens=128,
    heads=1,
    dropout=0.2,
    attention_dropout=0.0,
    attended_dropout=0.1,
    sharpness=4.0,
)
SMALL: dict[str, CFDiffConfig] = {"ml-1m": _SMALL, "": _SMALL}
"""Configurations that train in minutes on one core: fewer tokens and one head, as attention costs most."""
