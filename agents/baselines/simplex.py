"""SimpleX: a user's vector mixed with the mean of their items, and a loss over many negatives.

u = g w_u + (1 - g) V mean_{i in X_u} h_i; a score is the cosine of u and h_i; the loss of a pair is 1 -
cos(u, i) + (w / n) sum_j max(0, cos(u, j) - m) over n negatives j (CCL; Mao et al., CIKM 2021, arXiv
2109.12613, Eq. 2 to 5). The mean is over all of a user's items, where the authors' code uses the latest
ones; there is no dropout of vectors.

Letters: B pairs in a batch, n negatives, N interactions, U users, I items, d size of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional

from agents.baselines.base import BaselineConfig
from agents.baselines.embeddings import EmbeddingConfig, EmbeddingModel, mean_over
from agents.baselines.learning import Learned
from refit_env.backbones.graphs import Operator
from refit_env.data.dataset import Dataset
from refit_env.settings import Nonnegative, Share, Size


@dataclass(frozen=True)
class SimpleXConfig(EmbeddingConfig):
    """SimpleX's settings."""

    own: Share = 0.5
    """g, the share of a user's own vector."""
    negatives: Size = 100
    """n, negatives of a pair."""
    negative_weight: Nonnegative = 150.0
    """w."""
    margin: Annotated[float, Meta(ge=-1, le=1)] = 0.4
    """m: a negative below it costs nothing."""
    l2: Nonnegative = 0.0
    """Weight of half the squared embeddings of a pair and a negative."""
    batch: Size = 1024
    """Pairs in a training step."""


class MixedUsers(EmbeddingModel):
    """The tables and V."""

    config: SimpleXConfig

    def __init__(self, data: Dataset, config: SimpleXConfig) -> None:
        """Draw V."""
        super().__init__(data, config)
        self.mix = nn.Linear(config.embedding, config.embedding, bias=False)
        self._mean: Operator | None = None

    def embed(self) -> tuple[Tensor, Tensor]:
        """Return the mixed users (U, d) and the items (I, d), of length 1."""
        own = self.config.own
        users = own * self.users.weight + (1 - own) * self.mix(self.mean(self.items.weight))
        return functional.normalize(users, dim=1), functional.normalize(self.items.weight, dim=1)

    @property
    def mean(self) -> Operator:
        """From items to the mean of each user's."""
        if self._mean is None:
            self._mean = mean_over(self.pairs, self.users.num_embeddings, self.items.num_embeddings)
        return self._mean

    def loss(self, ids: Tensor, phase: str) -> Tensor:
        """Return CCL with l2."""
        users, items = self.pairs[:, ids]
        count, config = self.config.negatives, self.config
        others = self.negatives(users.repeat_interleave(count)).view(-1, count)  # (B, n)
        of_users, of_items = self.embed()
        mine = of_users[users]  # (B, d)
        near = (mine * of_items[items]).sum(1)  # (B,)
        far = (of_items[others] @ mine[:, :, None]).squeeze(2)  # (B, n)
        loss = (1 - near + config.negative_weight * functional.relu(far - config.margin).mean(1)).mean()
        return loss + config.l2 * self.size(users, items, others[:, 0])


class SimpleX(Learned):
    """SimpleX: cosines, and a loss over many negatives (Mao et al., CIKM 2021, arXiv 2109.12613)."""

    name: ClassVar[str] = "simplex"
    config_class: ClassVar[type[BaselineConfig]] = SimpleXConfig
    config: SimpleXConfig

    def build(self, data: Dataset) -> MixedUsers:
        """The tables."""
        return MixedUsers(data, self.config)
