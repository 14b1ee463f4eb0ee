"""SLIM: a sparse linear regression of each item on all others, by ADMM.

W minimises 1/2 |X - X W|^2 + l2/2 |W|^2 + l1 |W|_1 with W >= 0 and a zero diagonal (Ning and Karypis, ICDM
2011). The alternating direction method of multipliers solves it for all items at once (ADMM SLIM; Steck et
al., WSDM 2020, Eq. 4 to 8): with P = (X^T X + (l2 + rho) 1)^-1 and C, the sparse copy of W,

    B = P (X^T X + rho C - Gamma),  W = B - P diag(diag(B) / diag(P)),
    C = max(0, W + (Gamma - l1) / rho),  Gamma = Gamma + rho (W - C).

Letters: I items.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse as sp
import torch
from msgspec import Meta

from agents.baselines.base import Baseline, BaselineConfig, Scorer
from agents.baselines.matrices import known_sets, product_scores, shown_rows
from refit_env.data.dataset import Dataset
from refit_env.settings import Nonnegative
from refit_env.utils.least_squares import unsolvable

LARGEST = 12_000
"""Most items: five float32 matrices of that size have 3 GB."""


@dataclass(frozen=True)
class SlimConfig(BaselineConfig):
    """SLIM's settings."""

    l1: Nonnegative = 5.0
    """Factor of the absolute weights: larger values give sparser rows."""
    l2: Annotated[float, Meta(gt=0, le=1e12)] = 200.0
    """Factor of the squared weights."""
    rho: Annotated[float, Meta(gt=0, le=1e12)] = 2000.0
    """Penalty of the difference of the two copies: it changes the speed of convergence, not the solution."""
    iterations: Annotated[int, Meta(ge=1, le=10_000)] = 50
    """Iterations of the method; the authors report that ten can be enough."""


class Slim(Baseline):
    """SLIM: sparse non-negative weights between items (Ning and Karypis, ICDM 2011), solved by ADMM."""

    name: ClassVar[str] = "slim"
    config_class: ClassVar[type[BaselineConfig]] = SlimConfig
    config: SlimConfig

    def fit_episodes(self, data: Dataset, seed: int, device: torch.device) -> Scorer:
        """Compute the weights."""
        if data.num_items > LARGEST:
            raise ValueError(
                f"baseline 'slim' solves a system of items: {data.name!r} has {data.num_items}, "
                f"more than {LARGEST}; use 'item-knn' or 'rp3beta'"
            )
        sets, c = known_sets(data), self.config
        weights = sparse_regression(sets, c.l1, c.l2, c.rho, c.iterations)
        return Scorer(product_scores(shown_rows(data), sp.csr_matrix(weights)))


def sparse_regression(
    rows: sp.csr_matrix, l1: float, l2: float, rho: float, iterations: int
) -> npt.NDArray[np.float32]:
    """Return SLIM's weights (I, I) of the rows (U, I).

    Raises:
        ValueError: if ``l2`` and ``rho`` are too small to invert the matrix in float32.
    """
    gram = (rows.T @ rows).astype(np.float32).toarray()  # (I, I)
    system = gram.copy()
    system[np.diag_indices_from(system)] += l2 + rho
    try:
        with warnings.catch_warnings(category=scipy.linalg.LinAlgWarning, action="error"):
            inverse = scipy.linalg.inv(system, overwrite_a=True, check_finite=False)  # (I, I) P
    except (scipy.linalg.LinAlgError, scipy.linalg.LinAlgWarning) as error:
        which = f"l2={l2:g} with rho={rho:g}"
        raise ValueError(unsolvable(which, len(gram), torch.float32, 200.0)) from error
    diagonal = np.diag(inverse).copy()
    fixed = inverse @ gram  # (I, I)
    sparse, dual = np.zeros_like(gram), np.zeros_like(gram)  # C, Gamma
    for _ in range(iterations):
        dense = fixed + inverse @ (rho * sparse - dual)  # B
        dense -= inverse * (np.diag(dense) / diagonal)  # W
        sparse = np.maximum(dense + (dual - l1) / rho, 0.0)
        dual += rho * (dense - sparse)
    sparse[np.diag_indices_from(sparse)] = 0.0
    return np.asarray(sparse, np.float32)
