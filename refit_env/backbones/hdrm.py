"""HDRM (Yuan et al., 2025, arXiv 2504.01541): diffusion on the tangent vectors of hyperbolic embeddings.

Letters: B users (in training: interactions) in a batch, U users, I items, N train interactions, D embedding
size (of the diffused vector), L layers of the graph, E size of the time embedding, T steps of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional

from refit_env.backbones.base import Backbone, Condition, Lookup, check_task
from refit_env.backbones.diffrec import time_embedding
from refit_env.backbones.graphs import Operator, check_edges, count_edges
from refit_env.backbones.latest import Latest
from refit_env.backbones.lorentz import squared_distance, squared_distances
from refit_env.backbones.negatives import Negatives, pair_examples
from refit_env.backbones.noise_schedule import LinearVariance
from refit_env.data.dataset import Dataset
from refit_env.settings import Known, Nonnegative, PartialShare, Share, Size, Steps


@dataclass(frozen=True)
class HDRMConfig(LinearVariance):
    """HDRM's settings; the defaults are those published for ML-1M."""

    embedding: Size = 512
    """D, size of the embeddings of users and items."""
    layers: Annotated[int, Meta(ge=0, le=1000)] = 3
    """L, layers of the graph; their outputs are summed."""
    hidden: tuple[Size, ...] = (1100, 200, 1100)
    """Widths of the denoisers' hidden layers. (The reference's ``[200, 1100]`` means 1100, 200, 1100.)"""
    time_embedding: Size = 10
    """E, size of the denoisers' time embedding."""
    dropout: PartialShare = 0.5
    """Dropout of the denoisers' noisy input."""
    num_steps: Steps = 50
    noise_scale: Nonnegative = 1e-5
    noise_min: Share = 1e-5
    noise_max: Share = 1e-4
    margin: Annotated[float, Meta(ge=-1e6, le=1e6)] = 0.2
    """Margin between the squared distances of the user to another item and to the user's item."""
    reconstruction: Share = 0.05
    """alpha: weight of the denoisers' errors; the ranking loss has weight 1 - alpha."""
    epsilon: Annotated[float, Meta(gt=0, le=1)] = 0.05
    """Share of the denoised vector in the user's vector; the rest is the user's clean vector."""
    num_users: Known = 0
    """U; set from the data."""
    num_interactions: Known = 0
    """N; set from the data."""


class HDRM(Backbone):
    """A graph network in the tangent space of the hyperboloid, and a denoiser conditioned on the user.

    Embeddings are tangent vectors at the origin; L layers of symmetric averaging, with layers 1 to L summed,
    compute the vectors of users and items. The chain starts at the mean of the visible items' vectors, and
    its ``context`` is the user's vector; items are scored by -d^2, where d is the geodesic distance to
    (1 - epsilon) user + epsilon u_0.

    Layer 0 is not in the sum, so a user's vector depends on items only. It is computed from the *visible* row
    with the items' side of the checkpoint, so the items that an episode hides are not in the context (but the
    items' vectors were trained on the whole train split). With nothing hidden it is the network's own vector.

    Weaknesses of the design: u_0 enters the scores with weight epsilon only, and the published schedules add
    almost no noise.

    Deviations from the reference code: embeddings are trained together with the denoisers, by the margin loss
    of clean vectors (there they are read from a file); Adam on tangent vectors replaces Riemannian SGD on
    points; losses are means over the batch, not sums; the start is not noised (``start="diffused"`` adds
    noise); no directional noise (an option that the published runs do not use).
    """

    name: ClassVar[str] = "hdrm"
    config_class: ClassVar[type] = HDRMConfig
    embedding: ClassVar[bool] = True
    scores_by_context: ClassVar[bool] = True

    interactions: Tensor

    def __init__(self, num_items: int, config: HDRMConfig | None = None) -> None:
        """Build an untrained network over an empty graph; ``for_dataset`` fills it.

        Args:
            num_items: I.
            config: settings, with U and N; None uses those for ML-1M.
        """
        super().__init__()
        config = self.config = config if config is not None else HDRMConfig()
        size = config.embedding
        self.num_items, self.dim = num_items, size
        self.diffusion = config.diffusion()
        self.users = nn.Parameter(torch.empty(config.num_users, size).uniform_(-0.1, 0.1))
        self.items = nn.Parameter(torch.empty(num_items, size).uniform_(-0.1, 0.1))
        self.denoiser = TangentDenoiser(config)
        self.user_denoiser = TangentDenoiser(config)  # only used in training
        self.register_buffer("interactions", torch.zeros(2, config.num_interactions, dtype=torch.int32))
        self._operator: Latest[Operator] = Latest()
        self._vectors: Latest[tuple[Tensor, Tensor]] = Latest()
        self._negatives: Latest[Negatives] = Latest()

    @classmethod
    def for_dataset(cls, dataset: Dataset, config: Any = None) -> Self:
        """Build an untrained network over the graph of the train split."""
        check_task(cls, dataset)
        config = config if config is not None else HDRMConfig()
        train = dataset.train.csr.tocoo()
        sizes = {"num_users": dataset.num_users, "num_interactions": train.nnz}
        out = cls(dataset.num_items, replace(config, **sizes))
        out.interactions.copy_(torch.from_numpy(np.stack([train.row, train.col])))
        return out

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Raise an error for a graph with ids out of range."""
        check_edges("interactions", state["interactions"], (self.config.num_users, self.num_items))

    # ------------------------------------------------------------------ the graph

    def _to_users(self) -> Operator:
        """Return the map (U, I) of messages from items to users."""
        shape, dtype = (self.config.num_users, self.num_items), self.items.dtype
        make = lambda: Operator.symmetric(self.interactions, shape, dtype=dtype)  # noqa: E731
        return self._operator.get([self.interactions], make, dtype)

    def _propagate(self) -> tuple[Tensor, Tensor]:
        """Return the items' vectors (I, D), of layers 1 to L, and messages (I, D), of layers 0 to L - 1."""
        to_users = self._to_users()
        users: Tensor = self.users
        items: Tensor = self.items
        vectors, messages = torch.zeros_like(items), torch.zeros_like(items)
        for _ in range(self.config.layers):
            messages = messages + items
            users, items = to_users(items), to_users.T(users)  # (U, D), (I, D)
            vectors = vectors + items
        return vectors, messages

    def item_side(self) -> tuple[Tensor, Tensor]:
        """Return the result of ``_propagate``; cached while no gradient is needed."""
        weights = [self.users, self.items]
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
            return self._propagate()
        with torch.no_grad():
            return self._vectors.get([*weights, self.interactions], self._propagate)

    def _item_degrees(self) -> Tensor:
        """Return the number of train interactions (I,) of each item, at least 1."""
        degrees = count_edges(self.interactions[1], self.num_items).clamp(min=1)
        return degrees.to(self.items.dtype)

    # ------------------------------------------------------------------ what is shown, and what is scored

    def initial_state(self, users: Tensor, shown: Tensor) -> Tensor:
        """Return the mean (B, D) of the visible items' vectors; 0 without visible items."""
        row = (shown > 0).to(self.items.dtype)  # (B, I)
        return (row @ self.item_side()[0]) / row.sum(1, keepdim=True).clamp(min=1)

    def context(self, users: Tensor, shown: Tensor) -> Tensor | None:
        """Return the users' vectors (B, D), from their visible rows."""
        row = (shown > 0).to(self.items.dtype)  # (B, I)
        messages = self.item_side()[1] / self._item_degrees().sqrt()[:, None]  # (I, D)
        return (row @ messages) / row.sum(1, keepdim=True).clamp(min=1).sqrt()

    @property
    def context_size(self) -> int:
        """D, the size of a user's vector."""
        return self.dim

    @torch.no_grad()
    def context_box(self) -> tuple[float, float, int] | None:
        """Return the bounds of a user's vector, for the longest row with the largest messages, and D."""
        messages = self.item_side()[1] / self._item_degrees().sqrt()[:, None]  # (I, D)
        longest = count_edges(self.interactions[0], max(self.config.num_users, 1)).max()
        limit = float(messages.abs().max() * longest.clamp(min=1).sqrt())
        return -limit, limit, self.dim

    def encode(self, context: Tensor) -> Condition:
        """Return the context (B, D) unchanged."""
        return Condition(context.to(self.items.dtype))

    def scores(self, u0: Tensor, users: Tensor, context: Tensor | None = None) -> Tensor:
        """Return (B, I) the negative squared distances of the items to the users' vectors mixed with ``u0``.

        Raises:
            ValueError: without ``context``.
        """
        if context is None:
            raise ValueError("backbone 'hdrm' also scores by the context: pass the result of context()")
        return -squared_distances(self._mixed(context.to(u0.dtype), u0), self.item_side()[0])

    @torch.no_grad()
    def largest(self) -> float:
        """Return the largest absolute value in the items' vectors."""
        return float(self.item_side()[0].abs().max())

    def freeze_scores(self) -> None:
        """Freeze everything except the denoiser of chains."""
        self.users.requires_grad_(False)
        self.items.requires_grad_(False)
        self.user_denoiser.requires_grad_(False)

    def _mixed(self, clean: Tensor, denoised: Tensor) -> Tensor:
        return torch.lerp(clean, denoised, self.config.epsilon)

    # ------------------------------------------------------------------ the denoiser and its training

    def predict_x0(self, u: Tensor, timestep: int | Tensor, condition: Condition | None = None) -> Tensor:
        """Predict clean vectors (B, D) of items near the user.

        Raises:
            ValueError: without a condition.
        """
        if condition is None:
            raise ValueError("backbone 'hdrm' needs the user's vector: pass the result of context()")
        out: Tensor = self.denoiser(u, timestep, condition.value)
        return out

    @property
    def denoisers(self) -> list[nn.Module]:
        """The denoisers of items' and, in training, of users' vectors."""
        return [self.denoiser, self.user_denoiser]

    @property
    def output_layer(self) -> nn.Linear:
        """The denoiser's last layer."""
        return self.denoiser.output_layer

    def examples(self, dataset: Dataset, device: torch.device | str) -> tuple[Lookup, Lookup, Tensor] | None:
        """Return the train interactions: number -> user, number -> item, all numbers (N,)."""
        return pair_examples(self.interactions, device)

    def elbo_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the margin loss of the embeddings plus margin loss and squared errors of the denoisers.

        The denoisers' losses have no gradient in the embeddings: a denoiser is conditioned on the other side
        of the pair, so the embeddings would not learn to separate items.

        Args:
            shown: (B,) int64 users.
            target: (B,) int64 items of these users.
            generator: random generator of the steps, the noise and the negative items.

        Returns:
            a scalar, the mean over the batch.
        """
        other = self._others().draw(shown, generator)  # (B,)
        vectors, messages = self._propagate()
        user, item, third = self._to_users()(messages)[shown], vectors[target], vectors[other]  # (B, D)
        embedded = self._margin(user, item, third)
        user, item, third = user.detach(), item.detach(), third.detach()
        new_user = self.user_denoiser(*self._noised(user, generator), item)  # (B, D)
        new_item = self.denoiser(*self._noised(item, generator), user)  # (B, D)
        ranking = self._margin(self._mixed(user, new_user), self._mixed(item, new_item), third)
        errors = functional.mse_loss(new_user, user) + functional.mse_loss(new_item, item)
        return embedded + torch.lerp(ranking, errors, self.config.reconstruction)

    def _margin(self, user: Tensor, item: Tensor, other: Tensor) -> Tensor:
        """Return the mean margin loss of users (B, D) between their item and the other item, both (B, D)."""
        near, far = squared_distance(user, item), squared_distance(user, other)  # (B,)
        return functional.relu(near - far + self.config.margin).mean()

    def _noised(self, clean: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return vectors (B, D) diffused to uniformly drawn steps, and the steps (B,)."""
        device = clean.device
        k = torch.randint(self.config.num_steps, clean.shape[:1], generator=generator, device=device)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        return self.diffusion.q_sample(clean, k, noise), k

    def _others(self) -> Negatives:
        """Return the sampler of items that are not in users' train rows."""

        def make() -> Negatives:
            return Negatives.of_pairs(self.interactions, self.config.num_users, self.num_items)

        return self._negatives.get([self.interactions], make)


class TangentDenoiser(nn.Module):
    """An MLP on [noisy vector | step | condition], with ReLU between its layers."""

    def __init__(self, config: HDRMConfig) -> None:
        """Build it for vectors of ``config.embedding`` numbers."""
        super().__init__()
        self.config = config
        self.time = nn.Linear(config.time_embedding, config.time_embedding)
        widths = [2 * config.embedding + config.time_embedding, *config.hidden, config.embedding]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, noisy: Tensor, timestep: int | Tensor, condition: Tensor) -> Tensor:
        """Predict clean vectors (B, D) from ``noisy`` (B, D), one step or (B,), and ``condition`` (B, D)."""
        step = self.time(time_embedding(timestep, self.config.time_embedding, noisy))  # (B, E) or (1, E)
        x = functional.dropout(noisy, self.config.dropout, self.training)
        x = torch.cat([x, step.expand(noisy.shape[0], -1), condition], 1)  # (B, 2 D + E)
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        out: Tensor = self.output_layer(x)
        return out

    @property
    def output_layer(self) -> nn.Linear:
        """The last layer."""
        last: nn.Linear = self.layers[-1]  # type: ignore[assignment]  # ModuleList forgets the class
        return last


PUBLISHED: dict[str, HDRMConfig] = {
    "ml-1m": HDRMConfig(),
    "yelp": HDRMConfig(
        hidden=(1000, 200, 1000),
        num_steps=30,
        noise_scale=1e-4,
        noise_min=1e-4,
        noise_max=1e-2,
        reconstruction=0.3,
    ),
    "amazon": HDRMConfig(noise_scale=1e-2, noise_min=1e-4, noise_max=1e-3, layers=2, reconstruction=0.5),
}
"""The configurations of HDRM's README, by data set."""

SMALL: dict[str, HDRMConfig] = {
    "": HDRMConfig(
        embedding=64,
        hidden=(200,),
        num_steps=20,
        noise_scale=1.0,
        noise_min=1e-4,
        noise_max=1e-2,
        epsilon=0.5,
    )
}
"""A configuration for one core, with a larger weight of u_0 in the scores and more noise in the chain, so
that fine-tuning can have an effect."""
