"""L-DiffRec (Wang et al., SIGIR 2023, arXiv 2304.04971, 3.3): DiffRec in the latent space of an autoencoder.

Letters: B users in a batch, U users, I items, C clusters of items, I_c items of a cluster, D latent size (of
the diffused vector), D_c a cluster's share of it, E size of the time embedding, T steps of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn
from torch.nn import functional

from refit_env.backbones.base import Backbone, Condition, check_task
from refit_env.backbones.diffrec import DiffRec, DiffRecConfig
from refit_env.backbones.elbo import StepLoss
from refit_env.backbones.noise_schedule import NoiseSchedule
from refit_env.backbones.whole_batch import whole_batch
from refit_env.data.dataset import Dataset
from refit_env.diffusion import Diffusion
from refit_env.item_factors import item_factors
from refit_env.settings import Known, Nonnegative, PartialShare, Share, Size, Sizes

FACTORS = 64
"""Most factors of an item that are used to cluster it."""


@dataclass(frozen=True)
class LDiffRecConfig(NoiseSchedule):
    """L-DiffRec's settings; the defaults are those published for ML-1M."""

    latent: Size = 300
    """D, size of the latent vector."""
    hidden: Sizes = (300,)
    """Widths of the denoiser's hidden layers."""
    clusters: Size = 2
    """C, number of item clusters, each with its own encoder."""
    noise_max: Share = 0.02
    embedding: Size = 10
    """E, size of the time embedding."""
    dropout: PartialShare = 0.5
    """Dropout of the denoiser's input."""
    input_dropout: PartialShare = 0.1
    """Dropout of the row."""
    elbo_weight: Nonnegative = 0.03
    """Initial weight of the denoiser's loss, annealed to 0.005 in 500 epochs."""
    kl_weight: Nonnegative = 0.3
    """Final weight of the encoder's KL divergence, which rises by 1/200 per update."""
    denoiser_rate: Nonnegative = 0.5
    """The denoiser's learning rate as a share of the autoencoder's."""
    num_users: Known = 0
    """U, for counting epochs; set from the data."""
    cluster_sizes: tuple[Size, ...] = ()
    """(C,) number of items of each cluster; set from the data, equal sizes if empty."""

    def denoiser(self) -> DiffRecConfig:
        """Return the denoiser's settings: DiffRec's network on D numbers, beta_0 not fixed."""
        return DiffRecConfig(
            hidden=self.hidden,
            num_steps=self.num_steps,
            schedule=self.schedule,
            noise_scale=self.noise_scale,
            noise_min=self.noise_min,
            noise_max=self.noise_max,
            beta_fixed=False,
            embedding=self.embedding,
            dropout=self.dropout,
        )

    def diffusion(self) -> Diffusion:
        """Return the training chain."""
        return self.denoiser().diffusion()


class LDiffRec(Backbone):
    """A variational autoencoder that compresses rows by cluster, and a diffusion on its D latent numbers.

    Each cluster's encoder reads the row's items of the cluster and returns a mean and a log-variance of its
    share of the latent vector, both through tanh, as published; one linear decoder scores all items. Chains
    start at the encoder's mean of the *visible* row. The cost of a step depends on D, not on I, so this
    backbone suits large catalogues.

    Deviations from the reference code: items are clustered (k-means) by the leading singular vectors of the
    normalised train matrix, not by the embeddings of a pretrained LightGCN; one AdamW with two learning rates
    replaces two optimisers; epochs, by which a weight is annealed, are counted by the rows used; the
    decoder's rows are sorted by item, not by cluster, which has no effect; the denoiser's biases are
    initialised as DiffRec's, near 0.
    """

    name: ClassVar[str] = "l-diffrec"
    config_class: ClassVar[type] = LDiffRecConfig
    embedding: ClassVar[bool] = True

    order: Tensor
    seen: Tensor

    def __init__(self, num_items: int, config: LDiffRecConfig | None = None) -> None:
        """Build an untrained network whose clusters are ranges of ids; ``for_dataset`` clusters by the data.

        Args:
            num_items: I.
            config: settings; None uses those for ML-1M.

        Raises:
            ValueError: if clusters or their sizes do not fit the items or the latent size.
        """
        super().__init__()
        config = self.config = config if config is not None else LDiffRecConfig()
        self.num_items, self.dim = num_items, config.latent
        self.sizes = config.cluster_sizes or tuple(_split(num_items, [1] * config.clusters))
        if len(self.sizes) != config.clusters or sum(self.sizes) != num_items or min(self.sizes) < 1:
            raise ValueError(
                f"cluster_sizes={self.sizes} must be {config.clusters} sizes with the sum {num_items}"
            )
        if config.latent < config.clusters:
            raise ValueError(f"latent={config.latent} must be at least clusters={config.clusters}")
        self.register_buffer("order", torch.arange(num_items))  # item ids, cluster by cluster
        self.register_buffer("seen", torch.zeros(2, dtype=torch.int64))  # rows and updates of training
        self.encoders = nn.ModuleList(
            nn.Linear(size, 2 * share)
            for size, share in zip(self.sizes, _split(config.latent, self.sizes), strict=True)
        )
        self.decoder = nn.Linear(config.latent, num_items)
        for layer in [*self.encoders, self.decoder]:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.denoiser = DiffRec(config.latent, config.denoiser())
        self.diffusion = self.denoiser.diffusion
        self.loss = StepLoss(self.diffusion)

    @classmethod
    def for_dataset(cls, dataset: Dataset, config: Any = None) -> Self:
        """Build an untrained network with clusters of items computed from the train split."""
        check_task(cls, dataset)
        config = config if config is not None else LDiffRecConfig()
        cluster = item_clusters(dataset.train.csr, config.clusters)  # (I,)
        sizes = tuple(np.bincount(cluster, minlength=config.clusters).tolist())
        out = cls(dataset.num_items, replace(config, cluster_sizes=sizes, num_users=dataset.num_users))
        out.order.copy_(torch.from_numpy(np.argsort(cluster, kind="stable")))
        return out

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Raise an error for an order that is not a permutation of the items."""
        if not torch.equal(state["order"].sort().values.cpu(), torch.arange(self.num_items)):
            raise ValueError("'order' must hold each item once")

    # ------------------------------------------------------------------ the autoencoder

    def latent(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Encode rows (B, I) as mean and log-variance, each (B, D) within (-1, 1)."""
        parts = row[:, self.order].split(self.sizes, 1)  # C of (B, I_c)
        encoded = [torch.tanh(encoder(part)) for encoder, part in zip(self.encoders, parts, strict=True)]
        halves = [whole.chunk(2, 1) for whole in encoded]  # C of two (B, D_c)
        return torch.cat([mean for mean, _ in halves], 1), torch.cat([width for _, width in halves], 1)

    def initial_state(self, users: Tensor, shown: Tensor) -> Tensor:
        """Return the encoder's mean (B, D) of the visible rows (B, I)."""
        return self.latent(shown.to(self.decoder.weight.dtype))[0]

    def scores(self, u0: Tensor, users: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the decoder's output (B, I)."""
        out: Tensor = self.decoder(u0)
        return out

    def score_table(self) -> Tensor:
        """Return the decoder's weights (I, D); its bias does not depend on u_0."""
        return self.decoder.weight

    def freeze_scores(self) -> None:
        """Freeze the autoencoder, which defines the start and the scores of chains."""
        for module in (self.encoders, self.decoder):
            module.requires_grad_(False)

    # ------------------------------------------------------------------ the denoiser and its training

    def predict_x0(self, u: Tensor, timestep: int | Tensor, condition: Condition | None = None) -> Tensor:
        """Predict clean latent vectors (B, D) from ``u`` (B, D)."""
        return self.denoiser.predict_x0(u, timestep)

    @property
    def denoisers(self) -> list[nn.Module]:
        """The denoiser of latent vectors."""
        return [self.denoiser]

    @property
    def output_layer(self) -> nn.Linear:
        """The denoiser's last layer."""
        return self.denoiser.output_layer

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return the autoencoder's weights, and the denoiser's with their own learning rate."""
        coder = [*self.encoders.parameters(), *self.decoder.parameters()]
        rate = learning_rate * self.config.denoiser_rate
        return [
            {"params": coder, "lr": learning_rate},
            {"params": list(self.denoiser.parameters()), "lr": rate},
        ]

    def elbo_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the multinomial loss of the decoded denoiser output, plus denoising loss and KL (Eq. 14).

        Args:
            shown: (B, I) rows that are encoded and noised.
            target: (B, I) rows that the decoder must predict.
            generator: random generator of the latent draw, the steps and the noise.

        Returns:
            a scalar, the mean over the batch.
        """
        elbo_weight, kl_weight = self.annealed()
        mean, width = self.latent(functional.dropout(shown, self.config.input_dropout, self.training))
        latent = mean
        if self.training:
            drawn = torch.randn(mean.shape, generator=generator, device=mean.device)
            latent = mean + (0.5 * width).exp() * drawn  # (B, D)
            rows = whole_batch(mean[:, 0]).numel()
            self.seen += torch.tensor([rows, 1], device=self.seen.device)
        elbo, restored = self.loss(latent, latent, self.denoiser.predict_x0, generator)
        decoded = functional.log_softmax(self.decoder(restored), 1)  # (B, I)
        likelihood = (decoded * target).sum(1).mean()
        kl = 0.5 * (mean.square() + width.exp() - 1 - width).sum(1).mean()
        out: Tensor = elbo_weight * elbo - likelihood + kl_weight * kl
        return out

    def annealed(self) -> tuple[float, float]:
        """Return the annealed weights of the denoiser's loss and of the KL divergence."""
        rows, updates = (int(count) for count in self.seen)
        epochs = rows // max(self.config.num_users, 1) if self.config.num_users else 0
        return max((1 - epochs / 500) * self.config.elbo_weight, 0.005), min(
            self.config.kl_weight, updates / 200
        )


def item_clusters(matrix: sp.csr_matrix, clusters: int) -> npt.NDArray[np.int64]:
    """Return the cluster (I,) of each item, without empty clusters: k-means on the items' factors.

    The factors are the leading right singular vectors of D_u^-1/2 X D_i^-1/2, times the squared singular
    values (the low frequencies of the graph, to which a LightGCN's embeddings are close). Each item's factors
    are scaled to length 1, so that popularity has no effect. The clustering is seeded.

    Args:
        matrix: (U, I) binary, the train rows.
        clusters: C, in 1..I.

    Raises:
        ValueError: if there are fewer items than clusters.
    """
    count = matrix.shape[1]
    if not 1 <= clusters <= count:
        raise ValueError(f"clusters={clusters} must lie in 1..{count}, the number of items")
    if clusters == 1 or min(matrix.shape) < 3:
        return np.arange(count) * clusters // count
    degrees = [np.asarray(matrix.sum(axis)).ravel() for axis in (1, 0)]  # (U,), (I,)
    left, right = (sp.diags_array(1 / np.sqrt(np.maximum(degree, 1))) for degree in degrees)
    normalised = sp.csr_matrix(left @ matrix @ right)
    factors = item_factors(normalised, min(FACTORS, min(matrix.shape) - 1)).astype(np.float64)  # (I, F)
    factors = normalised.T @ (normalised @ factors)  # weights each direction by its squared singular value
    factors /= np.maximum(np.linalg.norm(factors, axis=1, keepdims=True), 1e-12)
    _, labels = kmeans2(factors, clusters, minit="++", seed=0)
    return _none_empty(labels.astype(np.int64), clusters)


def _none_empty(labels: npt.NDArray[np.int64], clusters: int) -> npt.NDArray[np.int64]:
    """Return the labels (I,) after moving an item of the largest cluster to each empty one."""
    for cluster in range(clusters):
        if not (labels == cluster).any():
            labels[np.flatnonzero(labels == np.bincount(labels).argmax())[-1]] = cluster
    return labels


def _split(total: int, weights: Sequence[int]) -> list[int]:
    """Split ``total`` in proportion to ``weights`` into parts of at least 1; the last part is the rest."""
    rest = len(weights) - 1
    parts: list[int] = []
    for number, weight in enumerate(weights[:-1]):
        room = total - sum(parts) - (rest - number)  # the later parts need 1 each
        parts.append(min(max(1, total * weight // sum(weights)), room))
    return [*parts, total - sum(parts)]


PUBLISHED: dict[str, LDiffRecConfig] = {
    "ml-1m": LDiffRecConfig(),
    "ml-1m-noisy": LDiffRecConfig(num_steps=100),
    "amazon": LDiffRecConfig(
        num_steps=5, noise_scale=0.5, noise_min=0.001, noise_max=0.005, elbo_weight=0.05, denoiser_rate=0.2
    ),
    "yelp": LDiffRecConfig(num_steps=5, noise_scale=0.01, noise_max=0.01, denoiser_rate=0.2),
}
"""The configurations of the authors' checkpoints, by data set."""

SMALL: dict[str, LDiffRecConfig] = {
    "ml-1m": replace(PUBLISHED["ml-1m"], latent=128, hidden=(128,)),
    "": replace(PUBLISHED["yelp"], latent=128, hidden=(128,)),
}
"""Smaller latent spaces, for one core and for tens of thousands of items; not tuned."""
