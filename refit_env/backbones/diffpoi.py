"""Diff-POI (Qin et al., TOIS 2023, arXiv 2304.07041): the next place, from the sequence and from geography.

Letters: B histories in a batch, L visits of each, D embedding size, I places, T steps of training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional

from refit_env.backbones.base import Backbone, Condition, Lookup, check_task
from refit_env.backbones.diffrec import time_embedding
from refit_env.backbones.geography import GeoEncoder, PlaceGraph, coordinates_of
from refit_env.backbones.latest import Latest
from refit_env.backbones.row_weights import latest_items
from refit_env.backbones.visits import (
    TargetAttention,
    VisitEncoder,
    first_places,
    norm_bound,
    relative_buckets,
)
from refit_env.backbones.whole_batch import whole_batch
from refit_env.data.dataset import Dataset, RowDataset
from refit_env.diffusion import Diffusion, vp_betas
from refit_env.settings import Bounded, Nonnegative, OneOf, PartialShare, Size, Steps, check_heads

PREDICTS = ("x0", "noise")
"""Names for ``DiffPoiConfig.predicts``."""


@dataclass(frozen=True)
class DiffPoiConfig(Bounded):
    """Diff-POI's settings; the defaults are the published ones except ``history`` and ``predicts``."""

    embedding: Size = 64
    """D, size of all embeddings and layers."""
    history: Size = 50
    """L, visits that the encoders read; the published value is 100, but rows hold 50 here."""
    num_steps: Steps = 100
    """T of the training chain: steps of the SDE on [0, 1]."""
    beta_min: Annotated[float, Meta(gt=0, le=1000)] = 0.1
    """The SDE's beta(0)."""
    beta_max: Annotated[float, Meta(gt=0, le=1000)] = 20.0
    """The SDE's beta(1)."""
    predicts: Annotated[str, OneOf(PREDICTS)] = "x0"
    """Output of the denoiser: ``noise`` (as published) or ``x0``."""
    chain_steps: Steps = 10
    """Steps of the respaced chain that the ranking loss runs in training."""
    chain_noise: bool = False
    """Whether that chain draws noise, as the published one does; without noise it is the evaluation chain."""
    denoising_weight: Nonnegative = 0.2
    """Weight of the denoising loss beside the ranking loss."""
    geo_layers: Annotated[int, Meta(ge=0, le=1000)] = 2
    """Convolutions over the graph of nearby places."""
    radius: Nonnegative = 1.0
    """Distance in kilometres within which places are nearby."""
    nearest: Annotated[int, Meta(ge=0, le=10**9, description="0: keep all")] = 0
    """Keep only pairs in which one place is among this many nearest of the other; 0 keeps all, as
    published."""
    heads: Size = 2
    """Heads of the self-attention."""
    buckets: Size = 256
    """Buckets of distances and of times."""
    dropout: PartialShare = 0.2
    """Dropout of the encoders."""

    def check_together(self) -> None:
        """Raise an error for heads that do not divide the embedding."""
        check_heads(self.heads, self.embedding)

    def diffusion(self) -> Diffusion:
        """Return the training chain."""
        return Diffusion.from_betas(vp_betas(self.num_steps, self.beta_min, self.beta_max))


class DiffPoi(Backbone):
    """Two encoders of a history of visits, and a diffusion that samples the spatial preference.

    - The sequence encoder returns seq (B, D): attention over moves with their distances and times,
      self-attention, mean over places (``refit_env.backbones.visits``). It is the context of the denoiser and
      of the scores.
    - The spatial encoder returns the start of the chain (B, D): attention with query seq over the visited
      places' geographic embeddings (``refit_env.backbones.geography``).
    - The denoiser transforms this to u_0, a prediction of the next place's geographic embedding; the score of
      a place is seq . place + u_0 . geo.

    The chain is the reverse of the VP-SDE with beta(t) = 0.1 + 19.9 t. The start is x(1); step k goes from
    t = (k + 1) / T to k / T by the SDE's exact Gaussian transitions. To first order in 1 / T, their means and
    variances are those of the Euler-Maruyama step, u + (beta u / 2 + beta score(u, t)) / T and beta / T
    (``vp_betas``). So each step has a density.

    Deviations from the reference code. Its bugs are not repeated: the chain's time is not reversed, and the
    score is evaluated at the initial vector at every step, which makes it a forward SDE with a constant
    drift; evaluation draws unseeded noise. By choice: the denoiser's input includes the step; it predicts x0
    (``predicts``: at t near 1, x0 computed from predicted noise multiplies the start, which is not noise, by
    up to 150); the denoising loss draws a step for each row, not one for a batch, and has no gradient in its
    target embedding; a place keeps its own embedding in move attention; encodings end in layer
    normalisations, which bound the spaces of an environment.
    """

    name: ClassVar[str] = "diff-poi"
    config_class: ClassVar[type] = DiffPoiConfig
    conditional: ClassVar[bool] = True
    embedding: ClassVar[bool] = True
    scores_by_context: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = ("poi",)
    start: ClassVar[str] = "history"

    reach: Tensor

    def __init__(self, num_items: int, config: DiffPoiConfig | None = None) -> None:
        """Build an untrained network of places without coordinates, which ``for_dataset`` sets.

        Args:
            num_items: I.
            config: settings; None uses the defaults.

        Raises:
            ValueError: for an invalid schedule.
        """
        super().__init__()
        self.config: DiffPoiConfig = config if config is not None else DiffPoiConfig()
        settings = self.config
        size = settings.embedding
        self.num_items, self.dim = num_items, size
        self.diffusion = settings.diffusion()
        self._chain = self.diffusion.respace(min(settings.chain_steps, settings.num_steps))
        self.places = nn.Embedding(num_items + 1, size, padding_idx=num_items)  # the last one is padding
        nn.init.xavier_normal_(self.places.weight.data[:num_items])
        self.graph = PlaceGraph(num_items, settings.radius, settings.nearest)
        self.geo = GeoEncoder(size, settings.geo_layers)
        self.visits = VisitEncoder(size, settings.heads, settings.buckets, settings.dropout)
        self.spatial = TargetAttention(size, settings.dropout)
        self.denoiser = Denoiser(size)
        self.register_buffer("reach", torch.zeros(()))
        self._geo_table: Latest[Tensor] = Latest()

    @classmethod
    def for_dataset(cls, dataset: Dataset, config: Any = None) -> Self:
        """Build an untrained network with the data set's coordinates, which become part of its state.

        Raises:
            ValueError: if the data set is not a check-in set that is sorted by time.
            DataError: if it has no coordinates.
        """
        _check_rows(cls, dataset)
        made = cls(dataset.num_items, config)
        made.graph.coordinates.copy_(coordinates_of(dataset))
        return made

    # ------------------------------------------------------------------ what is shown

    def shown(self, dataset: Dataset, device: torch.device | str) -> Lookup:
        """Return the function rows (B,) -> visits (B, L, 2) float32, oldest first: place and gap.

        The place is I where there is no visit; the gap is in seconds since the previous visit, 0 if unknown.
        """
        items, gaps = _check_rows(type(self), dataset).latest(self.config.history)
        places = torch.as_tensor(items, device=device)  # (R, L)
        waited = torch.as_tensor(gaps, device=device)  # (R, L)
        return lambda users: torch.stack([places[users].float(), waited[users]], 2)

    def show(self, histories: Tensor) -> Tensor:
        """Return the latest places of histories as visits (B, L, 2) whose gaps are unknown."""
        places = latest_items(histories, self.num_items, self.config.history).float()  # (B, L)
        return torch.stack([places, torch.zeros_like(places)], 2)

    def context(self, users: Tensor, shown: Tensor) -> Tensor | None:
        """Return the sequence encoding (B, D)."""
        return self.encode_visits(shown)

    @property
    def context_size(self) -> int:
        """D, the size of a sequence encoding."""
        return self.dim

    def context_box(self) -> tuple[float, float, int] | None:
        """Return the bounds of a mean of layer-normalised vectors, and D."""
        bound = norm_bound(self.visits.last)
        return -bound, bound, self.dim

    def initial_state(self, users: Tensor, shown: Tensor) -> Tensor:
        """Return the spatial encoding (B, D), the SDE's x(1)."""
        return self.encode_places(shown, self.encode_visits(shown), self.geo_table())

    def encode_visits(self, shown: Tensor) -> Tensor:
        """Return the sequence encodings (B, D) of visits (B, L, 2)."""
        items = shown[..., 0].long()  # (B, L)
        there = items < self.num_items
        ways = relative_buckets(self.graph.kilometres(items), self.config.buckets)  # (B, L)
        times = relative_buckets(shown[..., 1].double() * there, self.config.buckets)  # (B, L)
        return self._visits(items, there, ways, times)

    def _visits(self, items: Tensor, there: Tensor, ways: Tensor, times: Tensor) -> Tensor:
        """Return the sequence encodings (B, D) of places, visit masks, and buckets, each (B, L)."""
        out: Tensor = self.visits(self.places(items), first_places(items), there, ways, times)
        return out

    def encode_places(self, shown: Tensor, state: Tensor, table: Tensor) -> Tensor:
        """Return spatial encodings (B, D) of visits (B, L, 2) by ``state`` (B, D) and ``table`` (I, D)."""
        items = shown[..., 0].long()  # (B, L)
        there = items < self.num_items
        geo = functional.embedding(items.clamp(max=self.num_items - 1), table)  # (B, L, D)
        out: Tensor = self.spatial(state.detach(), geo, there)
        return out

    def geo_table(self) -> Tensor:
        """Return the geographic embeddings (I, D); cached while no gradient is needed."""
        parameters = [self.places.weight, *self.geo.parameters(), self.graph.coordinates]
        if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
            return self._encode_geo()
        with torch.no_grad():
            return self._geo_table.get(parameters, self._encode_geo)

    def _encode_geo(self) -> Tensor:
        out: Tensor = self.geo(self.places.weight[: self.num_items], self.graph)
        return out

    # ------------------------------------------------------------------ the chain and its scores

    def predict_x0(self, u: Tensor, timestep: int | Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the next place's geographic embedding (B, D); without a condition, for an unknown user."""
        state = u.new_zeros(1, self.dim) if condition is None else condition.value
        out: Tensor = self.denoiser(u, state, timestep)
        return out if self.config.predicts == "x0" else self.diffusion.x0_from_eps(u, out, timestep)

    def scores(self, u0: Tensor, users: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the scores (B, I): seq . place + u_0 . geo."""
        by_space = u0 @ self.geo_table().T
        if context is None:
            return by_space
        return torch.addmm(by_space, context, self.places.weight[: self.num_items].T)

    def score_table(self) -> Tensor:
        """Return the geographic embeddings (I, D), the slope of the scores in u_0."""
        return self.geo_table()

    def context_table(self, table: Tensor) -> Tensor:
        """Return the places' embeddings (I, D), the slope of the scores in the sequence encoding."""
        return self.places.weight[: self.num_items]

    def largest(self) -> float:
        """Return the larger of the spatial encoder's bound and the largest value in training's chains.

        u_0 can be many times as long as the embeddings, because small embeddings need it for sharp scores.
        """
        return max(float(self.reach), norm_bound(self.spatial.last))

    def freeze_scores(self) -> None:
        """Freeze everything except the denoiser."""
        for part in (self.places, self.geo, self.visits, self.spatial):
            part.requires_grad_(False)

    def thaw_scores(self) -> list[nn.Parameter]:
        """Unfreeze the embeddings and the encoders."""
        parts = (self.places, self.geo, self.visits, self.spatial)
        for part in parts:
            part.requires_grad_(True)
        return [weight for part in parts for weight in part.parameters()]

    @property
    def denoisers(self) -> list[nn.Module]:
        """The denoiser of places."""
        return [self.denoiser]

    @property
    def output_layer(self) -> nn.Linear:
        """The denoiser's last layer."""
        return self.denoiser.last

    # ------------------------------------------------------------------ training

    def elbo_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the cross-entropy of the next place plus the weighted denoising loss, Eq. 21.

        Args:
            shown: (B, L, 2) visits, see ``shown``.
            target: (B,) int64 next places.
            generator: random generator of the steps and the noise.

        Returns:
            a scalar.
        """
        state, table = self.encode_visits(shown), self.geo_table()  # (B, D), (I, D)
        ranking = self._cross_entropy(shown, state, table, target, generator)
        return ranking + self.config.denoising_weight * self.denoising_loss(state, table[target], generator)

    def ranking_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the cross-entropy without the denoising loss; arguments as in ``elbo_loss``."""
        return self._cross_entropy(shown, self.encode_visits(shown), self.geo_table(), target, generator)

    def denoising_loss(self, state: Tensor, x0: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the squared error of the denoiser's output, a mean over rows and dimensions.

        Args:
            state: (B, D) sequence encodings, without a gradient, as published.
            x0: (B, D) the next places' geographic embeddings, without a gradient.
            generator: random generator of the steps and the noise.
        """
        x0 = x0.detach()
        k = torch.randint(self.config.num_steps, x0.shape[:1], generator=generator, device=x0.device)  # (B,)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)  # (B, D)
        out = self.denoiser(self.diffusion.q_sample(x0, k, noise), state.detach(), k)  # (B, D)
        return functional.mse_loss(out, x0 if self.config.predicts == "x0" else noise)

    def _cross_entropy(
        self,
        shown: Tensor,
        state: Tensor,
        table: Tensor,
        target: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Return the cross-entropy of ``target`` (B,), scored by ``state`` (B, D) and ``table`` (I, D)."""
        condition = Condition(state.detach())
        u = self.encode_places(shown, state, table)  # (B, D)
        for k in reversed(range(self._chain.num_steps)):
            x0 = self.predict_x0(u, self._chain.network_timestep(k), condition)  # (B, D)
            u = self._chain.posterior_mean(x0, u, k)
            if self.training:
                self.reach.clamp_(min=whole_batch(u.detach().abs().amax(1)).amax())
            if self.config.chain_noise and k:
                noise = torch.randn(u.shape, generator=generator, device=u.device, dtype=u.dtype)
                u = u + float(self._chain.posterior_std[k]) * noise
        both = torch.cat([self.places.weight[: self.num_items], table], 1)  # (I, 2 D)
        return functional.cross_entropy(torch.cat([state, u], 1) @ both.T, target)


class Denoiser(nn.Module):
    """Diff-POI's score network, Linear(2 D, D), ReLU, Linear(D, D) on [u | seq], with a step embedding."""

    def __init__(self, size: int) -> None:
        """Build it for vectors of ``size`` numbers."""
        super().__init__()
        self.size = size
        self.first, self.time = nn.Linear(2 * size, size), nn.Linear(size, size, bias=False)
        self.last = nn.Linear(size, size)

    def forward(self, u: Tensor, state: Tensor, timestep: int | Tensor) -> Tensor:
        """Return (B, D) for vectors ``u`` (B, D), encodings ``state`` (B, D) or (1, D), and steps."""
        by_u, by_state = self.first.weight.split(self.size, 1)
        hidden = functional.linear(u, by_u) + functional.linear(state, by_state, self.first.bias)  # (B, D)
        hidden = hidden + self.time(time_embedding(timestep, self.size, u))
        out: Tensor = self.last(functional.relu(hidden))
        return out


def _check_rows(cls: type[Backbone], dataset: Dataset) -> RowDataset:
    """Return the rows of a check-in set.

    Raises:
        ValueError: if it has another task, or its visits are not sorted by time.
    """
    check_task(cls, dataset)
    rows = dataset.episodes
    if not isinstance(rows, RowDataset):
        raise ValueError(
            f"backbone {cls.name!r} predicts the next visit, but the visits of {dataset.name!r} are not "
            "sorted by time; its users have sets of places, for which 'diffrec' can be used"
        )
    return rows


PUBLISHED: dict[str, DiffPoiConfig] = {"": DiffPoiConfig()}
"""The configuration of the authors."""

SMALL: dict[str, DiffPoiConfig] = {"": DiffPoiConfig(history=20, nearest=16)}
"""A shorter history and a sparser graph."""
