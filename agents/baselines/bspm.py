"""BSPM: a row is blurred by a heat equation and by a low-pass filter, then sharpened, without training.

With R = D_U^-1/2 X D_I^-1/2, P = R^T R and V its leading right singular vectors (Choi et al., SIGIR 2023,
arXiv 2211.09324, Eq. 6 to 12): from a row x,

    dB/dt = B P - B        for t in 0..T_b, from x             (blurring: the heat equation)
    L = x D_I^-1/2 V V^T D_I^1/2                               (ideal low-pass filter)
    dS/dt = -S P           for t in 0..T_s, from B + beta L    (sharpening)

As in the authors' code the blurring is one Euler step over T_b = 1, which gives x P; the sharpening is
``steps`` of Euler or of the classical Runge-Kutta method, and its end is the score.

Letters: B users in a batch, U users, I items, r rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from msgspec import Meta
from torch import Tensor

from agents.baselines.base import Baseline, BaselineConfig, Scorer
from agents.baselines.matrices import known_sets, shown_rows
from refit_env.data.dataset import Dataset
from refit_env.item_factors import item_factors
from refit_env.settings import Nonnegative, OneOf, Size

Rows = npt.NDArray[np.floating[Any]]
SOLVERS = ("euler", "rk4")


@dataclass(frozen=True)
class BSPMConfig(BaselineConfig):
    """BSPM's settings; the defaults are the authors' for Gowalla."""

    rank: Size = 448
    """Leading singular vectors of the low-pass filter."""
    beta: Nonnegative = 0.2
    """Weight of the low-pass filter beside the heat equation."""
    sharpening: Nonnegative = 2.5
    """T_s, the time of sharpening; 0 does not sharpen."""
    steps: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Steps of the sharpening."""
    solver: Annotated[str, OneOf(SOLVERS)] = "rk4"
    """``euler`` or ``rk4``."""


class BSPM(Baseline):
    """BSPM: blurring and sharpening of the interaction rows (Choi et al., SIGIR 2023, arXiv 2211.09324)."""

    name: ClassVar[str] = "bspm"
    config_class: ClassVar[type[BaselineConfig]] = BSPMConfig
    config: BSPMConfig

    def fit_episodes(self, data: Dataset, seed: int, device: torch.device) -> Scorer:
        """Decompose the normalised rows."""
        rows, sets, config = shown_rows(data), known_sets(data), self.config
        by_user, by_item = (np.maximum(np.asarray(sets.sum(axis)).ravel(), 1.0) for axis in (1, 0))
        normal = sp.csr_matrix(sp.diags(by_user**-0.5) @ sets @ sp.diags(by_item**-0.5))  # (U, I)
        rank = min(config.rank, min(normal.shape) - 1)
        leading = item_factors(normal, rank).astype(np.float64)  # (I, r)
        into = (by_item[:, None] ** -0.5 * leading).astype(np.float32)  # (I, r)
        out = (leading.T * by_item**0.5).astype(np.float32)  # (r, I)
        rows, normal = rows.astype(np.float32), normal.astype(np.float32)  # half the time of float64
        across = sp.csr_matrix(normal.T)  # (I, U)

        def smooth(state: Rows) -> Rows:
            """Return the state times P, (B, I)."""
            return np.asarray((across @ (normal @ state.T)).T)

        def score(users: Tensor) -> Tensor:
            """Return the sharpened rows (B, I)."""
            shown = rows[users.cpu().numpy()]
            blurred = np.asarray((across @ (normal @ shown.T)).T.toarray())  # (B, I) one Euler step
            state: Rows = blurred + config.beta * np.asarray(shown @ into) @ out
            if config.sharpening > 0:
                state = integrate(lambda s: -smooth(s), state, config.sharpening, config.steps, config.solver)
            return torch.as_tensor(state, device=users.device)

        return Scorer(score)


def integrate(slope: Callable[[Rows], Rows], state: Rows, time: float, steps: int, solver: str) -> Rows:
    """Return the solution of d state / dt = slope(state) at ``time``.

    Args:
        slope: of a state (B, I).
        state: (B, I) at time 0.
        time: the end.
        steps: equal ones.
        solver: ``"euler"`` or ``"rk4"``, the classical Runge-Kutta method.

    Example:
        >>> round(float(integrate(lambda s: -s, np.ones((1, 1)), 1.0, 10, "rk4")[0, 0]), 5)
        0.36788
    """
    h = time / steps
    for _ in range(steps):
        first = slope(state)
        if solver == "euler":
            state = state + h * first
            continue
        second = slope(state + h / 2 * first)
        third = slope(state + h / 2 * second)
        fourth = slope(state + h * third)
        state = state + h / 6 * (first + 2 * second + 2 * third + fourth)
    return state
