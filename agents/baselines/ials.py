"""iALS: matrix factorisation of implicit feedback by alternating least squares.

What is minimised and how is in ``refit_env.utils.least_squares`` (Hu et al., ICDM 2008; the regularisation of
Rendle et al., RecSys 2022, arXiv 2110.14037).

Letters: B users in a batch, U users, I items, d size of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Tensor

from agents.baselines.base import Baseline, BaselineConfig, Scorer
from agents.baselines.matrices import known_sets
from refit_env.data.dataset import Dataset
from refit_env.settings import Share, Size
from refit_env.utils.least_squares import LeastSquares, alternate


@dataclass(frozen=True)
class ImplicitALSConfig(BaselineConfig):
    """iALS's settings."""

    embedding: Size = 64
    """d."""
    unobserved: Annotated[float, Meta(gt=0)] = 0.1
    """alpha0, the weight of every pair, observed or not, beside the 1 of an observed one."""
    l2: Annotated[float, Meta(gt=0, le=1e12)] = 0.1
    """Weight of the squared embeddings."""
    frequency: Share = 1.0
    """nu: 0 regularises all equally, 1 in proportion to the interactions."""
    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 12
    """Number of iterations over users and items."""


class ImplicitALS(Baseline):
    """iALS: matrix factorisation of implicit feedback (Hu et al., ICDM 2008; Rendle et al., RecSys 2022)."""

    name: ClassVar[str] = "ials"
    seeded: ClassVar[bool] = True
    config_class: ClassVar[type[BaselineConfig]] = ImplicitALSConfig
    config: ImplicitALSConfig

    def fit_episodes(self, data: Dataset, seed: int, device: torch.device) -> Scorer:
        """Alternate."""
        config, generator = self.config, torch.Generator(device).manual_seed(seed)
        problem = LeastSquares(config.unobserved, config.l2, config.frequency)
        rows = known_sets(data)
        users, items = alternate(rows, config.embedding, problem, config.epochs, generator, device)

        def score(ids: Tensor) -> Tensor:
            """Return the inner products (B, I)."""
            out: Tensor = users[ids] @ items.T
            return out

        return Scorer(score)
