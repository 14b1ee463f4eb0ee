"""GRU4Rec: a recurrent network of a history.

The state after each item comes from gated recurrent units; a score is its product with the item (Hidasi
et al., ICLR 2016, arXiv 1511.06939, with the constrained embedding of Hidasi and Karatzoglou, CIKM 2018).
The loss is cross-entropy among all items instead of TOP1 or BPR-max among those of the batch.

Letters: B histories in a batch, L their length, I items, d size of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta
from torch import Tensor, nn

from agents.baselines.base import ROWS, BaselineConfig
from agents.baselines.histories import SequenceConfig, SequenceModel
from agents.baselines.learning import Learned
from refit_env.data.dataset import Dataset


@dataclass(frozen=True)
class GRU4RecConfig(SequenceConfig):
    """GRU4Rec's settings."""

    layers: Annotated[int, Meta(ge=1, le=10)] = 1
    """Layers of gated recurrent units."""


class RecurrentModel(SequenceModel):
    """The item table and the recurrent units."""

    def __init__(self, data: Dataset, config: GRU4RecConfig) -> None:
        """Draw the units."""
        super().__init__(data, config)
        size = config.embedding
        self.units = nn.GRU(size, size, config.layers, batch_first=True)
        self.out = nn.Linear(size, size)

    def states(self, history: Tensor) -> Tensor:
        """(B, L, d)."""
        states, _ = self.units(self.drop(self.items(history)))
        out: Tensor = self.out(self.drop(states))
        return out


class GRU4Rec(Learned):
    """GRU4Rec: a recurrent network of a history (Hidasi et al., ICLR 2016, arXiv 1511.06939)."""

    name: ClassVar[str] = "gru4rec"
    forms: ClassVar[tuple[str, ...]] = (ROWS,)
    ordered: ClassVar[bool] = True
    config_class: ClassVar[type[BaselineConfig]] = GRU4RecConfig
    config: GRU4RecConfig

    def build(self, data: Dataset) -> RecurrentModel:
        """The network."""
        return RecurrentModel(data, self.config)
