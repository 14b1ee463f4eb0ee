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

from msgspec import Meta
from torch import Tensor

from agents.baselines.base import ROWS, BaselineConfig
from agents.baselines.histories import SequenceConfig, SequenceModel
from agents.baselines.learning import Learned
from refit_env.backbones.causal_encoder import CausalEncoder
from refit_env.data.dataset import Dataset
from refit_env.settings import check_heads


@dataclass(frozen=True)
class SASRecConfig(SequenceConfig):
    """SASRec's settings."""

    blocks: Annotated[int, Meta(ge=1, le=20)] = 2
    """Blocks of attention."""
    heads: Annotated[int, Meta(ge=1, le=64)] = 1
    """Heads of an attention."""

    def check_together(self) -> None:
        """Raise an error for heads that do not divide the embedding."""
        check_heads(self.heads, self.embedding)


class AttentionModel(SequenceModel):
    """The item table and the encoder."""

    def __init__(self, data: Dataset, config: SASRecConfig) -> None:
        """Initialise the encoder."""
        super().__init__(data, config)
        length, size = self.inputs.shape[1], config.embedding
        self.encoder = CausalEncoder(length, size, config.blocks, config.heads, config.dropout)

    def states(self, history: Tensor) -> Tensor:
        """(B, L, d)."""
        out: Tensor = self.encoder(self.items(history))
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
