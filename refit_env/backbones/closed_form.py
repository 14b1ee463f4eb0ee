"""What the closed-form denoisers share: weighted rows, a fit without gradient steps, a space to search.

The best linear denoiser of an interaction row is a ridge regression, so it is known in closed form. Such a
backbone is a diffusion recommender like any other: it has a schedule, chains and gradients, and fine-tuning
trains its matrices.

Letters: B users in a batch, U users, I items (= D), R train rows, N interactions, T steps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from msgspec import Meta
from torch import Tensor

from refit_env.backbones.base import Backbone
from refit_env.backbones.row_weights import reciprocal_weights, rising_weights
from refit_env.data.dataset import Dataset, RowDataset
from refit_env.diffusion import Diffusion, betas
from refit_env.settings import Bounded, Nonnegative, OneOf, Share, Steps

RECENCY = ("none", "rising", "reciprocal")
"""Names for ``ClosedFormConfig.recency``."""


@dataclass(frozen=True)
class ClosedFormConfig(Bounded):
    """Settings of rows, scores and schedule that every closed-form denoiser has."""

    l2: Annotated[float, Meta(gt=0)] = 500.0
    """Weight of the squared weights: the variance of the noise that the denoiser expects."""
    recency: Annotated[str, OneOf(RECENCY)] = "none"
    """What u_T holds of a user's items: ``none``, ones; ``rising``, from ``oldest`` to 1 in order of time, as
    T-DiffRec; ``reciprocal``, 1 / b of the b-th latest."""
    oldest: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """With ``rising``: what u_T holds of the oldest item."""
    score_power: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    """An item's scores are divided by (its train count / the mean count) to this power: above 0, less
    popular items are recommended more."""
    num_steps: Steps = 40
    """T of the schedule; policies keep as many of its steps as they are told, from 1."""
    noise_scale: Nonnegative = 0.005
    """Multiplies both ends of the schedule (``linear-var``)."""
    noise_min: Share = 0.005
    """Lower end."""
    noise_max: Share = 0.01
    """Upper end."""

    def diffusion(self) -> Diffusion:
        """The schedule of the chain, DiffRec's for ML-1M by default."""
        table = betas(
            "linear-var",
            self.num_steps,
            noise_scale=self.noise_scale,
            noise_min=self.noise_min,
            noise_max=self.noise_max,
        )
        return Diffusion.from_betas(table)


class ClosedForm(Backbone):
    """A denoiser whose weights ``fit`` solves for.

    Attributes:
        config: its settings, from which the fit follows.
    """

    tasks: ClassVar[tuple[str, ...]] = ("cf", "sequential", "social", "poi")
    config: ClosedFormConfig

    def __init__(self, num_items: int, config: ClosedFormConfig) -> None:
        """Keep the settings; the weights are a subclass's."""
        super().__init__()
        self.config = config
        self.num_items = self.dim = num_items
        self.diffusion = config.diffusion()

    @classmethod
    def rows(cls, dataset: Dataset, config: ClosedFormConfig) -> sp.csr_matrix:
        """(U, I) what u_T holds: the train rows, weighed as ``config.recency`` says.

        Raises:
            ValueError: if they are to be weighed by time and do not stand in order of time.
        """
        if config.recency == "none":
            return dataset.train.csr
        if not dataset.time_ordered:
            raise ValueError(
                f"recency={config.recency!r} weighs items by their time; the rows of {dataset.name!r} do not "
                "stand in order of time. Take recency='none'"
            )
        if config.recency == "reciprocal":
            return reciprocal_weights(dataset.train)
        return rising_weights(dataset.train, config.oldest, 1.0)

    @abstractmethod
    def fit(self, dataset: Dataset) -> None:
        """Solve for the weights on the train split of ``dataset``; of a sequential set, on its rows.

        Raises:
            ValueError: if the data set is too large, or an ``l2`` too small, for this backbone.
        """

    @classmethod
    @abstractmethod
    def search_space(cls, dataset: Dataset) -> Mapping[str, tuple[Any, ...]]:
        """Values of each setting that validation chooses from, by field; the first is where it begins."""

    def elbo_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean squared error of the denoised rows at steps drawn evenly, a scalar.

        Args:
            shown: (B, I) rows that are noised.
            target: (B, I) what is to be predicted.
            generator: source of the steps and of the noise.
        """
        steps, device = self.diffusion.num_steps, shown.device
        k = torch.randint(steps, (shown.shape[0],), generator=generator, device=device)  # (B,)
        noise = torch.randn(shown.shape, generator=generator, device=device)
        out = self.predict_x0(self.diffusion.q_sample(shown, k, noise), k)  # (B, I)
        return (target - out).square().mean()


def training_pairs(dataset: Dataset, rows: sp.csr_matrix) -> tuple[sp.csr_matrix, sp.csr_matrix | None]:
    """What a closed form is fitted to.

    Args:
        dataset: with the ``rows`` (U, I) of its users.
        rows: what u_T holds.

    Returns:
        Inputs (R, I), and targets (R, I), the next item of each train row; None where rows are sets that
        predict themselves.
    """
    if not isinstance(dataset, RowDataset):
        return rows, None
    train = dataset.rows_of("train")
    items = dataset.targets.items
    ones = np.ones(items.size, np.float32)
    targets = sp.csr_matrix((ones, (np.arange(items.size), items)), shape=(items.size, dataset.num_items))
    return rows[train], targets


def popularity_factor(dataset: Dataset, power: float) -> npt.NDArray[np.float64]:
    """(I,) what scores are multiplied by: (train count / mean count) ^ -power, counts of 0 taken for 1."""
    items = dataset.targets.items if isinstance(dataset, RowDataset) else dataset.train.items
    counts = np.maximum(np.bincount(items, minlength=dataset.num_items), 1)  # (I,)
    return np.asarray((counts / counts.mean()) ** -power, np.float64)


def common_space(dataset: Dataset) -> dict[str, tuple[Any, ...]]:
    """The part of a search space that does not depend on the solver."""
    weights: tuple[str, ...] = ("none",)
    if isinstance(dataset, RowDataset):
        weights = ("reciprocal", "none", "rising")
    elif dataset.time_ordered:
        weights = ("none", "rising", "reciprocal")
    out: dict[str, tuple[Any, ...]] = {"recency": weights}
    if len(weights) > 1:
        out["oldest"] = (0.5, 0.3, 0.1, 0.7)
    return out | {"score_power": (0.0, 0.1, 0.2, -0.1)}
