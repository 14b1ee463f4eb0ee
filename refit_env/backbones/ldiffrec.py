"""L-DiffRec (Wang et al., SIGIR 2023, arXiv 2304.04971, 3.3): DiffRec in the latent space of an autoencoder.

Letters: B users in a batch, U users, I items, C clusters of items, I_c items of a cluster, D latent size (of
the diffused vector), D_c a cluster's share of it, E size of the time embedding, T steps of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

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
from refit_env.data.dataset import Dataset
from refit_env.diffusion import Diffusion
from refit_env.diffusion.schedule import SCHEDULES
from refit_env.item_factors import item_factors
from refit_env.settings import Bounded, Known, Nonnegative, OneOf, PartialShare, Share, Size, Steps

FACTORS = 64
"""Numbers of an item by which it is clustered, where there are as many."""


@dataclass(frozen=True)
class LDiffRecConfig(Bounded):
    """L-DiffRec's settings; the defaults are those published for ML-1M."""

    latent: Size = 300
    """D, size of the latent vector."""
    hidden: tuple[Size, ...] = (300,)
    """Widths of the denoiser's hidden layers."""
    clusters: Size = 2
    """C, groups of items with an encoder of their own."""
    num_steps: Steps = 40
    """T of training."""
    schedule: Annotated[str, OneOf(SCHEDULES)] = "linear-var"
    """Noise schedule, see ``refit_env.diffusion.betas``."""
    noise_scale: Nonnegative = 0.005
    """Multiplies both ends of the schedule."""
    noise_min: Share = 0.005
    """Lower end."""
    noise_max: Share = 0.02
    """Upper end."""
    embedding: Size = 10
    """E, size of the time embedding."""
    dropout: PartialShare = 0.5
    """Share of the denoiser's input set to 0 in training."""
    input_dropout: PartialShare = 0.1
    """Share of the row set to 0 in training."""
    elbo_weight: Nonnegative = 0.03
    """Weight of the denoiser's loss at first; it falls to 0.005 in 500 epochs."""
    kl_weight: Nonnegative = 0.3
    """Weight of the encoder's KL divergence, reached in steps of 1/200 an update."""
    denoiser_rate: Nonnegative = 0.5
    """The denoiser's step size as a share of the autoencoder's."""
    num_users: Known = 0
    """U, by which epochs are counted; set from the data."""
    cluster_sizes: tuple[Size, ...] = ()
    """(C,) items of each cluster; set from the data, equal shares if nothing is said."""

    def denoiser(self) -> DiffRecConfig:
        """The denoiser: DiffRec's network on D numbers, beta_0 not fixed."""
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
        """The chain of training."""
        return self.denoiser().diffusion()


class LDiffRec(Backbone):
    """A variational autoencoder compresses rows, cluster by cluster; diffusion runs on D numbers, not on I.

    Each cluster's encoder reads the row's items of the cluster and gives a mean and a log-variance of its
    share of the latent vector, both through tanh, as published; one linear decoder scores all items. Chains
    start at the encoder's mean of the *visible* row. A step costs what D costs, not what I does, so this is
    the way to large catalogues.

    Deviations from the reference code: items are clustered (k-means) by the leading singular vectors of the
    normalised train matrix, not by the embeddings of a LightGCN that was trained before; one AdamW with two
    step sizes for its two optimisers; epochs, which anneal a weight, are counted by the rows seen; the
    decoder's rows stand in the order of the items, not of the clusters, which changes nothing; biases of the
    denoiser start as DiffRec's, near 0.
    """

    name: ClassVar[str] = "l-diffrec"
    config_class: ClassVar[type] = LDiffRecConfig
    embedding: ClassVar[bool] = True

    order: Tensor
    seen: Tensor

    def __init__(self, num_items: int, config: LDiffRecConfig | None = None) -> None:
        """Build an untrained network whose clusters are ranges of ids; ``for_dataset`` makes better ones.

        Args:
            num_items: I.
            config: settings; those of ML-1M if None.

        Raises:
            ValueError: if clusters or their sizes do not fit the items or the latent size.
        """
        super().__init__()
        config = self.config = config if config is not None else LDiffRecConfig()
        self.num_items, self.dim = num_items, config.latent
        self.sizes = config.cluster_sizes or tuple(_split(num_items, [1] * config.clusters))
        if len(self.sizes) != config.clusters or sum(self.sizes) != num_items or min(self.sizes) < 1:
            raise ValueError(
                f"cluster_sizes={self.sizes} must be {config.clusters} sizes of {num_items} items together"
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
        """An untrained network on clusters of the items of the train split."""
        check_task(cls, dataset)
        config = config if config is not None else LDiffRecConfig()
        cluster = item_clusters(dataset.train.csr, config.clusters)  # (I,)
        sizes = tuple(np.bincount(cluster, minlength=config.clusters).tolist())
        out = cls(dataset.num_items, replace(config, cluster_sizes=sizes, num_users=dataset.num_users))
        out.order.copy_(torch.from_numpy(np.argsort(cluster, kind="stable")))
        return out

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Refuse an order that is not one of the items."""
        if not torch.equal(state["order"].sort().values.cpu(), torch.arange(self.num_items)):
            raise ValueError("'order' must hold each item once")

    # ------------------------------------------------------------------ the autoencoder

    def latent(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, D) of rows (B, I), each within (-1, 1)."""
        parts = row[:, self.order].split(self.sizes, 1)  # C of (B, I_c)
        encoded = [torch.tanh(encoder(part)) for encoder, part in zip(self.encoders, parts, strict=True)]
        halves = [whole.chunk(2, 1) for whole in encoded]  # C of two (B, D_c)
        return torch.cat([mean for mean, _ in halves], 1), torch.cat([width for _, width in halves], 1)

    def initial_state(self, users: Tensor, shown: Tensor) -> Tensor:
        """(B, D) the encoder's mean of the visible rows (B, I)."""
        return self.latent(shown.to(self.decoder.weight.dtype))[0]

    def scores(self, u0: Tensor, users: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, I) the decoder's output."""
        out: Tensor = self.decoder(u0)
        return out

    def score_table(self) -> Tensor:
        """(I, D) the decoder's weights; its bias does not depend on u_0."""
        return self.decoder.weight

    def freeze_scores(self) -> None:
        """Stop training the autoencoder: where chains start and how they are scored."""
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
        """The autoencoder's weights, and the denoiser's with a step size of their own."""
        coder = [*self.encoders.parameters(), *self.decoder.parameters()]
        rate = learning_rate * self.config.denoiser_rate
        return [
            {"params": coder, "lr": learning_rate},
            {"params": list(self.denoiser.parameters()), "lr": rate},
        ]

    def elbo_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The autoencoder's multinomial loss of what the denoiser restores, with the denoiser's (Eq. 14).

        Args:
            shown: (B, I) rows that are encoded and noised.
            target: (B, I) rows that are to be decoded.
            generator: source of the latent draw, of the steps and of the noise.

        Returns:
            a scalar, the mean over the batch.
        """
        elbo_weight, kl_weight = self.annealed()
        mean, width = self.latent(functional.dropout(shown, self.config.input_dropout, self.training))
        latent = mean
        if self.training:
            drawn = torch.randn(mean.shape, generator=generator, device=mean.device)
            latent = mean + (0.5 * width).exp() * drawn  # (B, D)
            self.seen += torch.tensor([shown.shape[0], 1], device=self.seen.device)
        elbo, restored = self.loss(latent, latent, self.denoiser.predict_x0, generator)
        decoded = functional.log_softmax(self.decoder(restored), 1)  # (B, I)
        likelihood = (decoded * target).sum(1).mean()
        kl = 0.5 * (mean.square() + width.exp() - 1 - width).sum(1).mean()
        out: Tensor = elbo_weight * elbo - likelihood + kl_weight * kl
        return out

    def annealed(self) -> tuple[float, float]:
        """The weights of the denoiser's loss and of the KL divergence, after the rows and updates seen."""
        rows, updates = (int(count) for count in self.seen)
        epochs = rows // max(self.config.num_users, 1) if self.config.num_users else 0
        return max((1 - epochs / 500) * self.config.elbo_weight, 0.005), min(
            self.config.kl_weight, updates / 200
        )


def item_clusters(matrix: sp.csr_matrix, clusters: int) -> npt.NDArray[np.int64]:
    """(I,) the cluster of each item, none empty: k-means on the directions of the items' factors.

    The factors are the leading right singular vectors of D_u^-1/2 X D_i^-1/2, times the squared singular
    values (the smooth end of the graph's spectrum, which a LightGCN's embeddings are close to); each item's
    are scaled to length 1, so that popularity does not decide. Seeded, so that all see the same clusters.

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
    factors = normalised.T @ (normalised @ factors)  # each direction weighed by its squared singular value
    factors /= np.maximum(np.linalg.norm(factors, axis=1, keepdims=True), 1e-12)
    _, labels = kmeans2(factors, clusters, minit="++", seed=0)
    return _none_empty(labels.astype(np.int64), clusters)


def _none_empty(labels: npt.NDArray[np.int64], clusters: int) -> npt.NDArray[np.int64]:
    """The labels (I,) with an item of the largest cluster moved to each empty one."""
    for cluster in range(clusters):
        if not (labels == cluster).any():
            labels[np.flatnonzero(labels == np.bincount(labels).argmax())[-1]] = cluster
    return labels


def _split(total: int, weights: Sequence[int]) -> list[int]:
    """Parts of ``total`` in proportion to ``weights``, each at least 1; the last takes what is left."""
    rest = len(weights) - 1
    parts: list[int] = []
    for number, weight in enumerate(weights[:-1]):
        room = total - sum(parts) - (rest - number)  # those after it need 1 each
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
"""The configurations of L-DiffRec's own checkpoints, by data set."""

SMALL: dict[str, LDiffRecConfig] = {
    "ml-1m": replace(PUBLISHED["ml-1m"], latent=128, hidden=(128,)),
    "": replace(PUBLISHED["yelp"], latent=128, hidden=(128,)),
}
"""A smaller latent space, for one core and for catalogues of tens of thousands of items; not tuned."""
