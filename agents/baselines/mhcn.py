"""MHCN: three graphs of users, made of triangles of trust and purchase, beside the graph of interactions.

Yu et al., WWW 2021, arXiv 2101.06448: the social channel holds the triangles of trust (motifs 1 to 7), the
joint channel trust between users with common items (8, 9), the purchase channel other users with common items
(10). Each channel c has its own view of the users, gated from one table P (Eq. 1):

    P_c = P * sigmoid(P W_c + b_c),    layer k + 1 of a channel is H_c times its layer k (Eq. 6),

H_c with rows that sum to 1. Attention mixes the channels, and the interactions' own graph is added with the
weight 1/2 (Eq. 8); item vectors are the users' through the interactions. The loss is BPR, plus a contrast in
each channel between a user's gated vector, the sum over the user's neighbours and the mean over all users
(Eq. 9 to 11).

As in the authors' code: layers are normalised to length 1 before they are summed, the purchase channel keeps
pairs with at least two common items, and the contrast draws its negatives by shuffling rows and columns.

Letters: U users, I items, S social edges, d size of an embedding, K layers, C = 3 channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional

from agents.baselines.base import BaselineConfig
from agents.baselines.embeddings import EmbeddingConfig, EmbeddingModel, user_item_graph
from agents.baselines.learning import Learned
from refit_env.backbones.graphs import Operator
from refit_env.data.dataset import Dataset
from refit_env.settings import Nonnegative

CHANNELS = ("social", "joint", "purchase")
"""Names of the channels."""
LEAST_COMMON = 2
"""Common items of two users in the purchase channel, at least."""


@dataclass(frozen=True)
class MHCNConfig(EmbeddingConfig):
    """MHCN's settings."""

    layers: Annotated[int, Meta(ge=1, le=10)] = 2
    """K."""
    contrast: Nonnegative = 0.01
    """Weight of the contrast beside BPR."""


def motif_channels(social: sp.csr_matrix, rows: sp.csr_matrix) -> dict[str, sp.csr_matrix]:
    """Return the channels (U, U), each row divided by its sum.

    Motifs 1 to 7 are the triangles of trust by the directions of their edges, so together they count each
    triangle of users with an edge in either direction once; motifs 8 and 9 likewise.

    Args:
        social: (U, U) ones where the row's user trusts the column's.
        rows: (U, I) ones.
    """
    linked = sp.csr_matrix(social + social.T)
    linked.data[:] = 1.0
    common = sp.csr_matrix(rows @ rows.T)  # (U, U) number of common items
    joint = sp.csr_matrix(common.multiply(linked))
    purchase = sp.csr_matrix(common - joint)
    purchase.data[purchase.data < LEAST_COMMON] = 0.0
    found = {"social": (linked @ linked).multiply(linked), "joint": joint, "purchase": purchase}
    return {name: _over_its_sum(matrix) for name, matrix in found.items()}


def _over_its_sum(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Return the matrix without its diagonal, each row divided by its sum; rows of zeros stay."""
    matrix = sp.csr_matrix(matrix, dtype=np.float64)
    matrix.setdiag(0)
    matrix.eliminate_zeros()
    total = np.asarray(matrix.sum(1)).ravel()
    return sp.csr_matrix(sp.diags(np.divide(1.0, total, where=total > 0, out=np.zeros_like(total))) @ matrix)


class Channels(EmbeddingModel):
    """The tables, the gates, the attention, and the graphs."""

    config: MHCNConfig

    def __init__(self, data: Dataset, config: MHCNConfig) -> None:
        """Build the channels."""
        super().__init__(data, config)
        assert data.social is not None
        size, d = data.num_users, config.embedding
        edges = (np.ones(len(data.social)), (data.social[:, 0], data.social[:, 1]))
        social = sp.csr_matrix(edges, (size, size))
        social.data[:] = 1.0  # repeated edges count once
        social.setdiag(0)
        social.eliminate_zeros()
        rows = sp.csr_matrix(data.train.csr, dtype=np.float64, copy=True)
        self._channels = motif_channels(social, rows)
        self.gates = nn.ModuleList(nn.Linear(d, d) for _ in range(len(CHANNELS) + 1))
        self.contrasted = nn.ModuleList(nn.Linear(d, d) for _ in CHANNELS)
        self.mix = nn.Linear(d, d, bias=False)
        self.query = nn.Parameter(torch.randn(d) * d**-0.5)
        self._graphs: tuple[list[Operator], Operator] | None = None

    @property
    def graphs(self) -> tuple[list[Operator], Operator]:
        """The channels, and the graph of interactions."""
        if self._graphs is None:
            device = self.users.weight.device
            channels = [Operator.of(self._channels[name], device) for name in CHANNELS]
            users, items = self.users.num_embeddings, self.items.num_embeddings
            self._graphs = channels, user_item_graph(self.pairs, users, items)
        return self._graphs

    def embed(self) -> tuple[Tensor, Tensor]:
        """Return the users' (U, d) and the items' vectors (I, d)."""
        channels, graph = self.graphs
        *views, simple = (_gated(gate, self.users.weight) for gate in self.gates)
        items = self.items.weight
        sums, simple_sum, item_sum = list(views), simple, items
        for _ in range(self.config.layers):
            mixed = self._mixed(views) + simple / 2
            views = [channel(view) for channel, view in zip(channels, views, strict=True)]
            items, simple = graph.T(mixed), graph(items)
            sums = [total + _unit(view) for total, view in zip(sums, views, strict=True)]
            simple_sum, item_sum = simple_sum + _unit(simple), item_sum + _unit(items)
        return self._mixed(sums) + simple_sum / 2, item_sum

    def _mixed(self, views: list[Tensor]) -> Tensor:
        """Return the views' mean (U, d), weighted by attention."""
        stacked = torch.stack(views)  # (C, U, d)
        weights = torch.softmax(self.mix(stacked) @ self.query, 0)  # (C, U)
        return (weights[..., None] * stacked).sum(0)

    def loss(self, ids: Tensor, phase: str) -> Tensor:
        """Return BPR and l2, plus the contrast of all channels."""
        channels = self.graphs[0]
        pull = [
            _contrast(channel, _gated(gate, self.users.weight))
            for channel, gate in zip(channels, self.contrasted, strict=True)
        ]
        return super().loss(ids, phase) + self.config.contrast * torch.stack(pull).sum()


def _gated(gate: nn.Module, table: Tensor) -> Tensor:
    """Return a table (U, d) times its gate."""
    out: Tensor = table * torch.sigmoid(gate(table))
    return out


def _unit(vectors: Tensor) -> Tensor:
    """Return rows of length 1."""
    return functional.normalize(vectors, dim=1)


def _contrast(channel: Operator, users: Tensor) -> Tensor:
    """Return the contrast of users (U, d), their neighbours' sums, and the mean of these; a scalar."""
    near = channel(users)  # (U, d)
    rows, columns = (torch.randperm(size, device=users.device) for size in near.shape)
    own = (users * near).sum(1)  # (U,)
    shuffled = (users[rows] * near).sum(1)
    wrong = (near[:, columns][rows] * users).sum(1)
    local = functional.logsigmoid(own - shuffled) + functional.logsigmoid(shuffled - wrong)
    whole = near.mean(0)  # (d,)
    apart = functional.logsigmoid(near @ whole - near[:, columns][rows] @ whole)
    return -(local + apart).mean()


class MHCN(Learned):
    """MHCN: hypergraphs of social triangles in three channels (Yu et al., WWW 2021, arXiv 2101.06448)."""

    name: ClassVar[str] = "mhcn"
    needs: ClassVar[str] = "social"
    config_class: ClassVar[type[BaselineConfig]] = MHCNConfig
    config: MHCNConfig

    def build(self, data: Dataset) -> Channels:
        """The tables and the graphs."""
        return Channels(data, self.config)
