"""The value network of an SB3 policy: what a chain in state (t, u, context) may expect to be paid.

Letters: B rows in a batch, C size of an encoded context, D size of the diffused vector, T steps, H width,
F summaries of u.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD = 20
"""How many of the highest entries of u the summaries look at: the length of the lists that are paid."""


class ChainValue(nn.Module):
    """V(t, u, context) from a projection of u, summaries of it, an embedding of t, and the context if any.

    u says whose chain it is: at t = 0 it is the user's history, later it is what the policy made of it. The
    projection D -> H looks at the row scaled to length 1, since histories are long and scores small; what
    the scaling loses, and what tells best how well a user can be served, are the summaries: length, mean,
    spread, highest entry and mean of the twenty highest. Where chains start from noise only the context says
    whose chain it is; it enters as the actor encodes it, scaled to length 1, too. H is far below the actor's
    width, so the critic costs a small part of the actor.
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
        """Make an untrained critic for D = ``dim``, T = ``num_steps``, H = ``width`` and C = ``context``."""
        super().__init__()
        self.activation = activation()
        self.head = min(HEAD, dim)
        self.project = nn.Linear(dim, width)
        self.summary = nn.Linear(5, width, bias=False)
        self.time = nn.Embedding(num_steps + 1, width)  # T is the end: it may be asked for, not acted in
        self.context = nn.Linear(context, width, bias=False) if context else None
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.out.weight)  # before the first update nobody's value is said to differ
        nn.init.zeros_(self.out.bias)

    def forward(self, u: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, 1) values of vectors ``u`` (B, D) at steps ``t`` (B,) int64 in 0..T, contexts (B, C) if any."""
        joined = self.project(functional.normalize(u)) + self.time(t)  # (B, H)
        joined = joined + self.summary(self.summaries(u))  # (B, H)
        if self.context is not None and context is not None:
            joined = joined + self.context(functional.normalize(context))  # (B, H)
        value: Tensor = self.out(self.activation(self.hidden(self.activation(joined))))  # (B, 1)
        return value

    def summaries(self, u: Tensor) -> Tensor:
        """(B, F) numbers that do not depend on which item is which."""
        top = u.topk(self.head, dim=1).values  # (B, 20)
        size = u.square().sum(1)  # (B,)
        columns = [size.log1p(), u.mean(1), u.std(1), top[:, 0], top.mean(1)]
        return torch.stack(columns, 1)  # (B, F)
