"""The base of denoisers of weighted rows: what the environment shows them, and their loss.

Letters: B users in a batch, U users, I items (= D), C size of a context, S social edges.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from refit_env.backbones.base import Backbone, Condition, Lookup
from refit_env.backbones.closed_form_config import ClosedFormConfig
from refit_env.backbones.row_weights import (
    Weigh,
    friends_rows,
    history_rows,
    reciprocal,
    reciprocal_weights,
    rising,
    rising_weights,
)
from refit_env.data.dataset import Dataset, RowDataset
from refit_env.data.rows import SparseRows


class RowDenoiser(Backbone):
    """A denoiser of weighted rows; a closed form computes all its weights, or those from which it starts.

    Attributes:
        config: its settings, which determine the fit.
    """

    tasks: ClassVar[tuple[str, ...]] = ("cf", "sequential", "social", "poi")
    config: ClosedFormConfig

    def __init__(self, num_items: int, config: ClosedFormConfig) -> None:
        """Store the settings; subclasses create the weights."""
        super().__init__()
        self.config = config
        self.num_items = self.dim = num_items
        self.diffusion = config.diffusion()

    @classmethod
    def rows(cls, dataset: Dataset, config: ClosedFormConfig) -> sp.csr_matrix:
        """Return the rows (U, I) for u_T: the train rows, weighted by ``config``.

        Raises:
            ValueError: if the weights depend on time and the rows are not sorted by time, or if there are no
                social edges for ``config.friends``.
        """
        if config.friends:
            social_edges(dataset, config)
        return weighted_rows(dataset, config)

    @classmethod
    def contexts(cls, dataset: Dataset, config: Any, device: torch.device | str) -> Lookup | None:
        """Return the function users (B,) -> the friends' items (B, I); None without ``config.friends``."""
        if not config.friends:
            return None
        return SparseRows(friends_rows(dataset.train, social_edges(dataset, config)), device).dense

    @classmethod
    def context_bounds(cls, num_items: int, config: Any) -> tuple[float, float, int] | None:
        """Return the bounds and the number of the friends' items; None without ``config.friends``."""
        return (0.0, 1.0, num_items) if config.friends else None

    @property
    def beside_history(self) -> str:
        """``friends``, with ``config.friends``."""
        return "friends" if self.config.friends else ""

    def shown(self, dataset: Dataset, device: torch.device | str) -> Lookup:
        """Return the function users (B,) -> u_T (B, I), with the context (B, I) beside it if there is one."""
        own, context = super().shown(dataset, device), self.contexts(dataset, self.config, device)
        return own if context is None else lambda users: torch.cat([own(users), context(users)], 1)

    def initial_state(self, users: Tensor, shown: Tensor) -> Tensor:
        """Return the rows (B, I) of ``shown``."""
        return shown[:, : self.num_items]

    def context(self, users: Tensor, shown: Tensor) -> Tensor | None:
        """Return the context (B, C) of ``shown``, if there is one; rows alone are those without friends."""
        return shown[:, self.num_items :] if shown.shape[1] > self.num_items else None

    def show(self, histories: Tensor) -> Tensor:
        """Return rows (B, I) of histories, weighted by ``config.recency`` and ``config.repeats``.

        With ``config.friends`` the context (B, I) of people without friends is beside them.
        """
        config = self.config
        weigh: dict[str, Weigh | None] = {
            "none": None,
            "rising": lambda place, count: rising(place, count, config.oldest, 1.0),
            "reciprocal": lambda place, count: reciprocal(place, count, config.decay),
        }
        rows = history_rows(histories, self.num_items, weigh[config.recency], config.repeats)
        return torch.cat([rows, torch.zeros_like(rows)], 1) if config.friends else rows

    def predict_x0(self, u: Tensor, timestep: int | Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the clean rows (B, I) from ``u`` (B, I)."""
        context = None if condition is None else condition.value
        out: Tensor = self(u, timestep, context)  # called as a module: the work of training is counted there
        return out

    def elbo_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the mean squared error of the denoised rows at uniformly drawn steps, a scalar.

        The items of friends have no part in it: rows are denoised, not completed.

        Args:
            shown: (B, I) rows that are noised; the context (B, C) after them, if there is one.
            target: (B, I) prediction targets.
            generator: random generator of the steps and the noise.
        """
        row, context = shown[:, : self.num_items], shown[:, self.num_items :]
        k = torch.randint(self.diffusion.num_steps, (len(row),), generator=generator, device=row.device)
        noise = torch.randn(row.shape, generator=generator, device=row.device)
        condition = self.encode(context) if context.shape[1] else None
        out = self.predict_x0(self.diffusion.q_sample(row, k, noise), k, condition)  # (B, I)
        return (target - out).square().mean()


def weighted_rows(dataset: Dataset, config: ClosedFormConfig) -> sp.csr_matrix:
    """Return the train rows (U, I), weighted by ``config.recency`` and ``config.repeats``.

    Raises:
        ValueError: if the weights depend on time and the rows are not sorted by time.
    """
    if config.recency == "none":
        return reciprocal_weights(dataset.train, 0.0, config.repeats)
    if not dataset.time_ordered:
        raise ValueError(
            f"recency={config.recency!r} weights items by their time; the rows of {dataset.name!r} are "
            "not sorted by time. Use recency='none'"
        )
    if config.recency == "reciprocal":
        return reciprocal_weights(dataset.train, config.decay, config.repeats)
    return rising_weights(dataset.train, config.oldest, 1.0, config.repeats)


def social_edges(dataset: Dataset, config: ClosedFormConfig) -> npt.NDArray[np.int32]:
    """Return the social edges (S, 2) that ``config.friends`` needs.

    Raises:
        ValueError: if the data set has none, or its users are sessions or visits.
    """
    rows = dataset.has_rows or isinstance(dataset, RowDataset)
    if dataset.social is None or not dataset.has_friends or rows:
        raise ValueError(
            f"friends={config.friends:g} adds the items of a user's friends; {dataset.name!r} has no social "
            "edges. Use friends=0"
        )
    return dataset.social
