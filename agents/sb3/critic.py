"""The value network of an SB3 policy: the expected reward of a chain in state (t, u, context).

Letters: B rows in a batch, C size of an encoded context, D size of the diffused vector, T steps, H width,
F summaries of u.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD = 20
"""Number of highest entries of u in the summaries: the list length of the reward."""


class ChainValue(nn.Module):
    """V(t, u, context) from a projection of u, summaries of u, an embedding of t, and an optional context.

    u identifies the user: at t = 0 it is the user's history, later the policy's transformation of it. The
    projection D -> H reads u scaled to length 1, because histories are long and scores small. The summaries
    hold what the scaling removes, which predicts the reward of a user best: length, mean, standard deviation,
    highest entry and mean of the twenty highest. Where chains start from noise, only the context identifies
    the user; the critic reads the actor's encoding of it, also scaled to length 1. H is far below the actor's
    width, so the critic costs little compared with the actor.
    """

    def __init__(
        self,
        dim: int,
        num_steps: int,
        width: int = 64,
        activation: type[nn.Module] = nn.Tanh,
        *,
        context: int = 0,
    ) -> None:
        """Build an untrained critic for D = ``dim``, T = ``num_steps``, H = ``width`` and C = ``context``."""
        super().__init__()
        self.activation = activation()
        self.head = min(HEAD, dim)
        self.project = nn.Linear(dim, width)
        self.summary = nn.Linear(5, width, bias=False)
        self.time = nn.Embedding(num_steps + 1, width)  # T, the end of a chain, has a value but no action
        self.context = nn.Linear(context, width, bias=False) if context else None
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.out.weight)  # all values are equal before the first update
        nn.init.zeros_(self.out.bias)

    def forward(self, u: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """Return values (B, 1) of vectors ``u`` (B, D) at steps ``t`` (B,) in 0..T, with contexts (B, C)."""
        joined = self.project(functional.normalize(u)) + self.time(t)  # (B, H)
        joined = joined + self.summary(self.summaries(u))  # (B, H)
        if self.context is not None and context is not None:
            joined = joined + self.context(functional.normalize(context))  # (B, H)
        value: Tensor = self.out(self.activation(self.hidden(self.activation(joined))))  # (B, 1)
        return value

    def summaries(self, u: Tensor) -> Tensor:
        """Return summaries (B, F) that do not depend on the order of the items."""
        top = u.topk(self.head, dim=1).values  # (B, 20)
        size = u.square().sum(1)  # (B,)
        columns = [size.log1p(), u.mean(1), u.std(1), top[:, 0], top.mean(1)]
        return torch.stack(columns, 1)  # (B, F)
