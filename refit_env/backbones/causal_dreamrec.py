"""DreamRec with SASRec's encoder, which learns from each place of a history; also for ordered CF data.

Letters: B histories in a batch, L history length, D embedding size, I items, U users, n places of a batch
that hold an item.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional

from refit_env.backbones.base import Condition, Lookup, check_task
from refit_env.backbones.causal_encoder import CausalEncoder
from refit_env.backbones.dreamrec import DreamRec, DreamRecConfig
from refit_env.backbones.softmax_loss import softmax_loss
from refit_env.backbones.training_histories import TrainingHistories, latest_histories
from refit_env.backbones.whole_batch import whole_batch
from refit_env.data.dataset import Dataset, RowDataset
from refit_env.errors import DataError
from refit_env.settings import PartialShare, Steps, check_heads


@dataclass(frozen=True)
class CausalDreamRecConfig(DreamRecConfig):
    """Settings: DreamRec's, with SASRec's for the encoder; ``guidance`` is 0 unless it is set."""

    history: Annotated[int, Meta(ge=1, le=1000)] = 50
    """L, length of a history; where episodes are rows (sequential, check-ins), at most the rows' length."""
    num_steps: Steps = 100
    """T of the training chain."""
    guidance: Annotated[float, Meta(ge=-1, le=1000)] = 0.0
    """w: the prediction is (1 + w) f(u, history) - w f(u, nothing)."""
    dropout: PartialShare = 0.2
    """Dropout of embeddings and within the encoder."""
    blocks: Annotated[int, Meta(ge=1, le=20)] = 2
    """Blocks of attention."""
    heads: Annotated[int, Meta(ge=1, le=64)] = 1
    """Heads of an attention; they divide the size of the embeddings."""

    def check_together(self) -> None:
        """Raise an error for heads that do not divide the embedding."""
        check_heads(self.heads, self.embedding)


class CausalDreamRec(DreamRec):
    """DreamRec whose histories are encoded by SASRec's causal Transformer.

    The prediction is x0 = h + f(u, h, k): the encoder's state after the latest item, and DreamRec's denoiser,
    whose last layer starts at 0. So before training the denoiser adds nothing, and a one-step chain is SASRec
    (Kang and McAuley, ICDM 2018, arXiv 1808.09781) with the noise-free start u_T = 0.

    Both losses are computed at each place of a history, since no state depends on later items: one pass
    through the encoder has up to L targets, where DreamRec's has one. The ranking loss is cross-entropy among
    all items (Klenitskiy and Vasilev, RecSys 2023, arXiv 2309.07602). Item embeddings are drawn from
    N(0, 0.02^2), those of SASRec, instead of N(0, 1).

    Besides sequential and check-in sets it accepts CF sets whose items are in order of time (with times, or
    prepared with ``--time-ordered``): a user's history are the latest visible items, and the target of a
    place is the item that came next. Training is to rank unless ``--objective elbo`` is given. On ML-1M::

        refit pretrain --env ReFiT-ML1M-v0 --backbone causal-dreamrec --num-steps 1 --out runs/ordered
        refit finetune --env ReFiT-ML1M-v0 --init runs/ordered --reward ndcg --relevance recent --out runs/rl
    """

    name: ClassVar[str] = "causal-dreamrec"
    config_class: ClassVar[type] = CausalDreamRecConfig
    tasks: ClassVar[tuple[str, ...]] = ("cf", "sequential", "poi")

    config: CausalDreamRecConfig

    def __init__(self, num_items: int, config: CausalDreamRecConfig | None = None) -> None:
        """Build an untrained network.

        Args:
            num_items: I.
            config: settings.

        Raises:
            ValueError: for an unknown predictor or schedule.
        """
        config = config if config is not None else CausalDreamRecConfig()
        super().__init__(num_items, config)
        size = config.embedding
        self.encoder = CausalEncoder(config.history, size, config.blocks, config.heads, config.dropout)
        nn.init.normal_(self.items.weight, std=0.02)
        nn.init.normal_(self.nothing, std=0.02)
        nn.init.zeros_(self.output_layer.weight)
        nn.init.zeros_(self.output_layer.bias)

    @classmethod
    def for_dataset(cls, dataset: Dataset, config: Any = None) -> Self:
        """Build an untrained backbone; histories are at most as long as those of a data set's rows.

        Raises:
            ValueError: if the backbone does not support the data set's task.
            DataError: if the order of the data set's items is not known.
        """
        config = config if config is not None else CausalDreamRecConfig()
        _check_order(cls, dataset)
        if isinstance(rows := dataset.episodes, RowDataset):
            config = replace(config, history=min(config.history, rows.history.shape[1]))
        return super().for_dataset(dataset, config)

    @property
    def output_layer(self) -> nn.Linear:
        """The denoiser's last layer."""
        last = (
            self.predictor if isinstance(self.predictor, nn.Linear) else list(self.predictor.children())[-1]
        )
        if not isinstance(last, nn.Linear):
            raise TypeError("the denoiser's last layer is not linear")
        return last

    @property
    def denoisers(self) -> list[nn.Module]:
        """The encoder, which does nearly all of the work: a history counts as a row, whatever its length."""
        return [self.encoder]

    def shown(self, dataset: Dataset, device: torch.device | str) -> Lookup:
        """Return the function users or rows (B,) -> histories (B, L) int64, oldest first, padded with I."""
        check_task(type(self), dataset)
        _check_order(type(self), dataset)
        episodes = dataset.episodes
        if isinstance(episodes, RowDataset):
            return super().shown(dataset, device)
        table = latest_histories(episodes, self.config.history).to(device)  # (U, L)
        return lambda users: table[users]

    def encode(self, context: Tensor) -> Condition:
        """Encode histories (B, L) of item ids as states (B, D); an empty history is ``nothing``."""
        history = context.long()  # (B, L)
        lengths = (history < self.num_items).sum(1)  # (B,)
        states = self._states(history)  # (B, L, D)
        last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, self.dim)  # (B, 1, D)
        state = states.gather(1, last).squeeze(1)  # (B, D)
        return Condition(torch.where(lengths[:, None] > 0, state, self.nothing))

    def forward(self, u: Tensor, state: Tensor, timestep: int | Tensor) -> Tensor:
        """Return x0 (B, D) of ``u`` (B, D), history ``state`` (B, D) or (1, D), and a step."""
        out: Tensor = state + super().forward(u, state, timestep)
        return out

    # ------------------------------------------------------------------ training

    def examples(self, dataset: Dataset, device: torch.device | str) -> tuple[Lookup, Lookup, Tensor]:
        """Return windows of histories (B, L), the items that follow each place (B, L), and all ids (n,)."""
        inputs, nexts = TrainingHistories.of(dataset, self.config.history).windows()
        inputs, nexts = inputs.to(device), nexts.to(device)
        return lambda ids: inputs[ids], lambda ids: nexts[ids], torch.arange(len(inputs), device=device)

    def elbo_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return DreamRec's loss, Eq. 12, at each place: squared error of the predicted embedding.

        Args:
            shown: (B, L) int64 histories.
            target: (B, L) int64 the item that follows each place.
            generator: random generator of the steps, the noise and the dropped histories.

        Returns:
            a scalar, the mean over places and dimensions.
        """
        there, device = shown < self.num_items, target.device  # (B, L)
        k = self._steps(target, generator)[there]  # (n,)
        noise = self._noise(target, generator)[there]  # (n, D)
        chance = torch.rand(target.shape, generator=generator, device=device)[there][:, None]  # (n, 1)
        state = torch.where(chance < self.config.drop_condition, self.nothing, self._states(shown)[there])
        x0 = self.items(target[there])  # (n, D)
        loss = functional.mse_loss(self(self.diffusion.q_sample(x0, k, noise), state, k), x0)
        return loss * _share_of_places(there)

    def ranking_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the cross-entropy among all items at each place, by the x0 prediction from pure noise.

        The step is drawn, so that the prediction is trained for each step of a respaced chain; a chain of one
        step has step 0.

        Args:
            shown: (B, L) int64 histories.
            target: (B, L) int64 the item that follows each place.
            generator: random generator of the steps and the noise.

        Returns:
            a scalar, the mean over places.
        """
        there = shown < self.num_items  # (B, L)
        k = self._steps(target, generator)[there]  # (n,)
        noise = self._noise(target, generator)[there]  # (n, D)
        x0 = self.predict_x0(noise, k, Condition(self._states(shown)[there]))  # (n, D)
        table = self.score_table()  # (I, D)
        if (offset := self.score_offset(table)) is not None:  # as one more coordinate
            x0 = torch.cat([x0, x0.new_ones(len(x0), 1)], 1)  # (n, D + 1)
            table = torch.cat([table, offset[:, None]], 1)  # (I, D + 1)
        return softmax_loss(x0, table, target[there]) * _share_of_places(there)

    def _steps(self, target: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw training steps (B, L), whose first axis is that of the rows of a batch."""
        return torch.randint(self.config.num_steps, target.shape, generator=generator, device=target.device)

    def _noise(self, target: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw standard normal numbers (B, L, D), whose first axis is that of the rows of a batch."""
        return torch.randn(*target.shape, self.dim, generator=generator, device=target.device)

    def _states(self, history: Tensor) -> Tensor:
        """Return the state (B, L, D) after each item of histories (B, L)."""
        states: Tensor = self.encoder(self.items(history))
        return states


def _share_of_places(there: Tensor) -> Tensor:
    """Return the factor with which a mean over places becomes a mean over rows; 1 of a whole batch.

    A training may divide a batch among processes: the mean over rows of the result must be the mean over all
    places of the whole batch.

    Args:
        there: (B, L) bool, the places of the loss.
    """
    counts = there.sum(1).float()  # (B,)
    return counts.mean() / whole_batch(counts).mean()


def _check_order(backbone: type[CausalDreamRec], dataset: Dataset) -> None:
    """Refuse a data set whose items have no known order."""
    if not dataset.time_ordered:
        raise DataError(
            f"backbone {backbone.name!r} reads histories in order of time, which data set {dataset.name!r} "
            "does not have: prepare it from a file with times (or with --time-ordered), or use another "
            "backbone"
        )


PUBLISHED: dict[str, CausalDreamRecConfig] = {"": CausalDreamRecConfig()}
"""Settings of this project: nobody published the combination."""
