"""DreamRec (Yang et al., NeurIPS 2023, arXiv 2310.20453): diffusion on the embedding of the next item.

Letters: B rows in a batch, L history length, D embedding size, I items, T steps of training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional

from refit_env.backbones.base import Backbone, Condition, Lookup, check_task
from refit_env.backbones.row_weights import latest_items
from refit_env.data.dataset import Dataset, RowDataset
from refit_env.diffusion import Diffusion, betas
from refit_env.diffusion.schedule import SCHEDULES
from refit_env.settings import Bounded, OneOf, PartialShare, Share, Size, Steps

PREDICTORS = ("linear", "mlp")
"""Names for ``DreamRecConfig.predictor``."""
SIMILARITIES = ("inner-product", "distance")
"""Names for ``DreamRecConfig.similarity``."""


@dataclass(frozen=True)
class DreamRecConfig(Bounded):
    """DreamRec's settings; the defaults are those published for YooChoose."""

    embedding: Size = 64
    """D, size of the item embeddings and of all layers."""
    history: Size = 10
    """L, length of a history."""
    num_steps: Steps = 500
    """T of the training chain."""
    schedule: Annotated[str, OneOf(SCHEDULES)] = "exp"
    """Noise schedule, see ``refit_env.diffusion.betas``."""
    noise_min: Share = 1e-4
    """Lower end of the schedule ``linear``."""
    noise_max: Share = 0.02
    """Upper end of the schedule ``linear``."""
    guidance: Annotated[float, Meta(ge=-1, le=1000)] = 2.0
    """w: the prediction is (1 + w) f(u, history) - w f(u, nothing)."""
    drop_condition: Share = 0.1
    """Share of training rows whose history is dropped, so that the denoiser also learns without one."""
    dropout: PartialShare = 0.1
    """Dropout of the encoder."""
    predictor: Annotated[str, OneOf(PREDICTORS)] = "linear"
    """The denoiser on [u | history | step]: ``linear``, one layer (the published ``mlp1``), or ``mlp``, two
    with a GELU between (``mlp2``)."""
    similarity: Annotated[str, OneOf(SIMILARITIES)] = "inner-product"
    """How u_0 scores items: ``inner-product``, as published, or ``distance``: u_0 . e - |e|^2 / 2 for an item
    with the embedding e, which ranks the nearest items first. The squared-error loss shortens the embeddings
    of frequent items and hardly those of rare ones: inner products then rank rare items first."""

    def diffusion(self) -> Diffusion:
        """Return the training chain."""
        table = betas(
            self.schedule,
            self.num_steps,
            noise_min=self.noise_min,
            noise_max=self.noise_max,
            beta_fixed=False,
        )
        return Diffusion.from_betas(table)


class DreamRec(Backbone):
    """A Transformer that encodes the history, and a small denoiser from noise to the next item's embedding.

    The chain starts from N(0, I); each step predicts x0 with classifier-free guidance,
    (1 + w) f(u, h, k) - w f(u, none, k), and scores are inner products of u_0 with all item embeddings.
    The published chain has 500 or 2000 steps; ``DiffusionPolicy(backbone, num_steps=10)`` respaces it, with
    the Gaussian posterior of the remaining steps, so each step has an exact density.

    Deviations from the reference code that correct its bugs: dropout is off in evaluation; the padding item
    cannot be recommended; batches of size one work. Other deviations: only the last position's state is
    computed (the other positions do not affect it, with one block); an empty history is the unconditional
    embedding; the cosine schedule's betas end at 0.999 (0.9999 there); evaluation runs the noise-free chain
    from u_T = 0, the mean of the noise, instead of one draw.
    """

    name: ClassVar[str] = "dreamrec"
    config_class: ClassVar[type] = DreamRecConfig
    conditional: ClassVar[bool] = True
    embedding: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = ("sequential", "poi")
    start: ClassVar[str] = "noise"

    def __init__(self, num_items: int, config: DreamRecConfig | None = None) -> None:
        """Build an untrained network.

        Args:
            num_items: I.
            config: settings; None uses those for YooChoose.

        Raises:
            ValueError: for an unknown predictor or schedule.
        """
        super().__init__()
        self.config: DreamRecConfig = config if config is not None else DreamRecConfig()
        size = self.config.embedding
        self.num_items, self.dim = num_items, size
        self.diffusion = self.config.diffusion()
        self.items = nn.Embedding(num_items + 1, size)  # the last one is padding; N(0, 1), as published
        self.nothing = nn.Parameter(torch.randn(1, size))
        self.encoder: nn.Module = HistoryEncoder(size, self.config.history, self.config.dropout)
        self.time = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))
        self.predictor: nn.Module = nn.Linear(3 * size, size)
        if self.config.predictor == "mlp":
            self.predictor = nn.Sequential(
                nn.Linear(3 * size, 2 * size), nn.GELU(), nn.Linear(2 * size, size)
            )

    # ------------------------------------------------------------------ what is shown

    def shown(self, dataset: Dataset, device: torch.device | str) -> Lookup:
        """Return the function rows (B,) -> histories (B, L) int64, oldest item first, padded with I."""
        check_task(type(self), dataset)
        rows = dataset.episodes
        if not isinstance(rows, RowDataset):
            raise ValueError(f"backbone 'dreamrec' reads histories; {dataset.name!r} is not sorted by time")
        items, _ = rows.latest(self.config.history)
        table = torch.as_tensor(items, dtype=torch.int64, device=device)  # (R, L)
        return lambda users: table[users]

    def show(self, histories: Tensor) -> Tensor:
        """Return the latest items (B, L) of histories, oldest first, padded with I."""
        return latest_items(histories, self.num_items, self.config.history)

    def initial_state(self, users: Tensor, shown: Tensor) -> Tensor:
        """Return zeros (B, D), the mean of the noise from which chains start."""
        return torch.zeros(users.numel(), self.dim, device=users.device)

    def context(self, users: Tensor, shown: Tensor) -> Tensor | None:
        """Return the history (B, L) as float32, which represents item ids exactly."""
        return shown.float()

    def context_box(self) -> tuple[float, float, int] | None:
        """Return the bounds of item ids with I as padding, and L."""
        return 0.0, float(self.num_items), self.config.history

    @property
    def context_size(self) -> int:
        """L, the length of a history."""
        return self.config.history

    @property
    def condition_size(self) -> int:
        """D, the size of a history's state."""
        return self.dim

    def encode(self, context: Tensor) -> Condition:
        """Encode histories (B, L) of item ids as states (B, D); an empty history is ``nothing``."""
        history = context.long()  # (B, L)
        lengths = (history < self.num_items).sum(1)  # (B,)
        state = self.encoder(self.items(history), lengths)  # (B, D)
        return Condition(torch.where(lengths[:, None] > 0, state, self.nothing))

    # ------------------------------------------------------------------ the denoiser

    def forward(self, u: Tensor, state: Tensor, timestep: int | Tensor) -> Tensor:
        """Return the denoiser's f (B, D) of ``u`` (B, D), history ``state`` (B, D) or (1, D), and a step."""
        step = self.time(step_embedding(timestep, self.dim, u))  # (B, D) or (1, D)
        if isinstance(self.predictor, nn.Linear):  # [u | h | e] W without concatenating the three
            by_u, by_state, by_step = self.predictor.weight.split(self.dim, 1)
            rest = functional.linear(state, by_state) + functional.linear(step, by_step, self.predictor.bias)
            return functional.linear(u, by_u) + rest
        out: Tensor = self.predictor(torch.cat([u, state.expand_as(u), step.expand_as(u)], 1))
        return out

    def predict_x0(self, u: Tensor, timestep: int | Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the next item's embedding (B, D) with guidance; without a condition, unconditionally."""
        if condition is None:
            unguided: Tensor = self(u, self.nothing, timestep)
            return unguided
        weight = self.config.guidance
        if not weight:
            plain: Tensor = self(u, condition.value, timestep)
            return plain
        if isinstance(self.predictor, nn.Linear):  # affine in the state: guidance can mix the states
            mixed: Tensor = self(u, (1 + weight) * condition.value - weight * self.nothing, timestep)
            return mixed
        conditional: Tensor = self(u, condition.value, timestep)  # (B, D)
        unconditional: Tensor = self(u, self.nothing, timestep)  # (B, D)
        return (1 + weight) * conditional - weight * unconditional

    def scores(self, u0: Tensor, users: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the scores (B, I) by the items' embeddings, without the padding item."""
        table = self.score_table()  # (I, D)
        offset = self.score_offset(table)
        return u0 @ table.T if offset is None else torch.addmm(offset, u0, table.T)

    def score_table(self) -> Tensor:
        """Return the items' embeddings (I, D), without the padding item."""
        return self.items.weight[: self.num_items]

    def score_offset(self, table: Tensor) -> Tensor | None:
        """Return -|e|^2 / 2 (I,) of the embeddings e where distances rank, else None."""
        return table.square().sum(1) / -2 if self.config.similarity == "distance" else None

    def largest(self) -> float:
        """Return the largest absolute value in the items' embeddings."""
        return float(self.items.weight.detach().abs().max())

    @property
    def item_axes(self) -> dict[str, tuple[int, ...]]:
        """The rows of the embeddings, after which that of the padding comes."""
        return {"items.weight": (0,)}

    def freeze_scores(self) -> None:
        """Freeze the item embeddings, for the encoder and the scores."""
        self.items.requires_grad_(False)

    def thaw_scores(self) -> list[nn.Parameter]:
        """Unfreeze the item embeddings, for the encoder and the scores."""
        self.items.requires_grad_(True)
        return list(self.items.parameters())

    # ------------------------------------------------------------------ training

    def elbo_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return DreamRec's loss, Eq. 12: squared error of the predicted embedding.

        Both the prediction and the target embedding have a gradient.

        Args:
            shown: (B, L) int64 histories.
            target: (B,) int64 next items.
            generator: random generator of the steps, the noise and the dropped histories.

        Returns:
            a scalar, the mean over rows and dimensions.
        """
        count, device = target.numel(), target.device
        x0 = self.items(target)  # (B, D)
        k = torch.randint(self.config.num_steps, (count,), generator=generator, device=device)  # (B,)
        noise = torch.randn(x0.shape, generator=generator, device=device)  # (B, D)
        # (B, 1)
        dropped = torch.rand(count, 1, generator=generator, device=device) < self.config.drop_condition
        state = torch.where(dropped, self.nothing, self.encode(shown).value)  # (B, D)
        return functional.mse_loss(self(self.diffusion.q_sample(x0, k, noise), state, k), x0)

    def ranking_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the cross-entropy of the target, scored by the guided x0 prediction from pure noise.

        This is the prediction at the first step of a chain; all steps share the denoiser. The loss is not
        DreamRec's: it is the supervised baseline for fine-tuning, with the same information.

        Args:
            shown: (B, L) int64 histories.
            target: (B,) int64 next items.
            generator: random generator of the noise.

        Returns:
            a scalar.
        """
        noise = torch.randn(target.numel(), self.dim, generator=generator, device=target.device)  # (B, D)
        x0 = self.predict_x0(noise, self.config.num_steps - 1, self.encode(shown))  # (B, D)
        return functional.cross_entropy(self.scores(x0, target), target)


class HistoryEncoder(nn.Module):
    """DreamRec's Transformer, one block with one head; returns the state of a history's last position."""

    def __init__(self, size: int, length: int, dropout: float) -> None:
        """Build it for histories of ``length`` embeddings of ``size`` numbers."""
        super().__init__()
        self.positions = nn.Embedding(length, size)
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.widen, self.narrow = nn.Linear(size, size), nn.Linear(size, size)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        """Return states (B, D) of histories (B, L, D), whose first ``lengths`` (B,) positions are items."""
        before, between, inside, after = self.norms
        there = torch.arange(embedded.shape[1], device=lengths.device) < lengths[:, None]  # (B, L)
        sequence = self.dropout(embedded + self.positions.weight) * there[:, :, None]  # (B, L, D)
        last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, embedded.shape[2])  # (B, 1, D)
        newest = before(sequence.gather(1, last).squeeze(1))  # (B, D)
        logits = torch.einsum("bd,bld->bl", self.query(newest), self.key(sequence))  # (B, L)
        logits = logits / math.sqrt(embedded.shape[2])
        share = logits.masked_fill(~there, torch.finfo(logits.dtype).min).softmax(1)  # (B, L)
        mixed = torch.einsum("bl,bld->bd", self.dropout(share), self.value(sequence))  # (B, D)
        x = between(mixed + newest)  # (B, D) the residual is the normalised query, as published
        x = inside(x + self.dropout(self.narrow(functional.relu(self.dropout(self.widen(x))))))
        out: Tensor = after(x)
        return out


def step_embedding(timestep: int | Tensor, size: int, like: Tensor) -> Tensor:
    """Return DreamRec's sinusoids [sin | cos] with frequencies 10000^(-j / (size / 2 - 1)).

    Args:
        timestep: one step for all, or (B,) int64.
        size: D, even and at least 4.
        like: tensor with the dtype and device of the result.

    Returns:
        (1, D) or (B, D).
    """
    half = size // 2
    place = torch.arange(half, device=like.device, dtype=like.dtype)
    frequency = torch.exp(-math.log(10_000.0) / (half - 1) * place)
    steps = torch.as_tensor(timestep, device=like.device).reshape(-1, 1).to(like.dtype)
    angle = steps * frequency  # (B, D / 2)
    return torch.cat([angle.sin(), angle.cos()], 1)


PUBLISHED: dict[str, DreamRecConfig] = {
    "yoochoose": DreamRecConfig(),
    "kuairec": DreamRecConfig(num_steps=2000, schedule="cosine", guidance=2.0),
    "zhihu": DreamRecConfig(num_steps=500, schedule="linear", guidance=4.0),
}
"""The configurations of DreamRec's README, by data set."""
