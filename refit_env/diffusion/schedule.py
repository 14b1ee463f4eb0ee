"""Noise schedules of the diffusion recommenders, as float64 tables of beta.

Letters: T steps; index k = 0 is the least noisy step. abar_k = prod_{j <= k} (1 - beta_j).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from refit_env.errors import unknown_name

FloatArray = npt.NDArray[np.float64]

SCHEDULES = ("linear", "linear-var", "cosine", "binomial", "exp")
"""Names for ``betas``."""

FIRST_BETA = 1e-5
"""The value of beta_0 with ``beta_fixed`` (DiffRec, arXiv 2304.04971, and models based on it)."""

MAX_BETA = 0.999
"""Largest beta of a step."""


def betas(
    kind: str,
    num_steps: int,
    *,
    noise_scale: float = 1.0,
    noise_min: float = 1e-4,
    noise_max: float = 0.02,
    beta_fixed: bool = True,
) -> FloatArray:
    """Return the betas of a noise schedule.

    Args:
        kind: ``"linear"`` (beta rises linearly), ``"linear-var"`` (1 - abar rises linearly; DiffRec's),
            ``"cosine"`` (Nichol and Dhariwal, 2021), ``"binomial"`` (beta_k = 1 / (T - k + 1)) or ``"exp"``
            (DreamRec's: -log(1 - beta) rises linearly, the VP-SDE of Song et al., 2021, with 0.1 and 10).
        num_steps: T.
        noise_scale: factor of both ends; linear and linear-var only.
        noise_min: lower end before scaling.
        noise_max: upper end before scaling.
        beta_fixed: set beta_0 to 1e-5 at the end, as DiffRec does; this changes every later abar.

    Returns:
        (T,) float64 in (0, 1).

    Raises:
        ValueError: for an unknown kind, ``num_steps`` < 1, or ends that leave (0, 1).

    Example:
        >>> betas("linear-var", 3, noise_scale=0.01, noise_min=0.001, noise_max=0.01).round(7).tolist()
        [1e-05, 4.5e-05, 4.5e-05]
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    if kind == "linear":
        out = np.linspace(noise_scale * noise_min, noise_scale * noise_max, num_steps, dtype=np.float64)
    elif kind == "linear-var":
        out = _from_abar(1.0 - np.linspace(noise_scale * noise_min, noise_scale * noise_max, num_steps))
    elif kind == "cosine":
        out = _cosine(num_steps)
    elif kind == "binomial":
        out = 1.0 / (num_steps - np.arange(num_steps, dtype=np.float64) + 1.0)
    elif kind == "exp":
        at = np.linspace(1.0, 2.0 * num_steps + 1.0, num_steps)  # as published, not 1, 3, ..., 2T - 1
        out = 1.0 - np.exp(-0.1 / num_steps - at * 0.5 * (10.0 - 0.1) / num_steps**2)
    else:
        raise unknown_name("noise schedule", kind, SCHEDULES)
    if beta_fixed:
        out[0] = FIRST_BETA
    if not bool(np.all((out > 0) & (out < 1))):
        raise ValueError(
            f"schedule {kind!r} with noise_scale={noise_scale}, noise_min={noise_min}, noise_max={noise_max} "
            f"has betas in [{out.min():.3g}, {out.max():.3g}]; they must lie strictly between 0 and 1"
        )
    return out


def vp_betas(num_steps: int, low: float = 0.1, high: float = 20.0) -> FloatArray:
    """Return the exact betas of the variance-preserving SDE on [0, 1] (Song et al., 2021, Eq. 11).

    dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw with beta(t) = low + (high - low) t, in steps of 1 / T. A step
    keeps exp(-integral of beta over it) of the variance, so abar_k equals the SDE's at t = (k + 1) / T.
    To first order in 1 / T, beta_k is beta(t) / T, and the ancestral step of the chain is the
    Euler-Maruyama step of the reverse SDE.

    Args:
        num_steps: T.
        low: beta(0).
        high: beta(1).

    Returns:
        (T,) float64 in (0, 1).

    Raises:
        ValueError: if ``num_steps`` < 1, or the ends are not 0 < low <= high.

    Example:
        >>> float(np.prod(1 - vp_betas(100)).round(7)), math.exp(-10.05).__round__(7)
        (4.32e-05, 4.32e-05)
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    if not 0 < low <= high:
        raise ValueError(f"low={low} and high={high} must be 0 < low <= high: the ends of beta(t)")
    middle = (np.arange(num_steps, dtype=np.float64) + 0.5) / num_steps
    out = -np.expm1(-(low + (high - low) * middle) / num_steps)
    return np.asarray(out, dtype=np.float64)


def _from_abar(abar: FloatArray) -> FloatArray:
    """Return the betas of a chain with the given abar; beta_0 = 1 - abar_0."""
    previous = np.append(1.0, abar[:-1])
    out = np.minimum(1.0 - abar / previous, MAX_BETA)
    return np.asarray(out, dtype=np.float64)


def _cosine(num_steps: int) -> FloatArray:
    """Return betas whose abar follows cos^2((s + 0.008) / 1.008 * pi / 2)."""

    def abar(s: float) -> float:
        return math.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2

    steps = [min(1.0 - abar((k + 1) / num_steps) / abar(k / num_steps), MAX_BETA) for k in range(num_steps)]
    return np.asarray(steps, dtype=np.float64)
