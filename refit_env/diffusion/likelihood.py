"""The log-density of a chain's u_0: the ELBO, importance-weighted bounds, exact values of linear chains.

A chain draws u_T from N(start, start_std^2 I), then each next vector from N(mean(u, t), std_t^2 I); its last
one is u_0. The density of u_0 is an integral over all vectors between, drawn here around the means of
the forward process given u_0 (DDPM, arXiv 2006.11239, Eq. 7), with the chain's own deviations: a policy
explores more than the posterior, and narrower draws would miss most of the integral. With weights
w = p(all vectors) / q(vectors between | u_0):

- E[log w] is the ELBO (DDPM, Eq. 3);
- log of the mean of n weights has an expectation between the ELBO and the log-density, and reaches the latter
  as n grows (IWAE, arXiv 1509.00519, Theorem 1);
- where each mean is affine in u with the same slope for all users, u_0 is Gaussian and its log-density exact.

Letters: B rows in a batch, D size of the diffused vector, C size of a context, T steps, n importance samples;
t = 0..T-1 is the episode's step, k = T-1-t the diffusion literature's index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from refit_env.diffusion.process import Diffusion
from refit_env.errors import SettingError

ROWS = 4096
"""Vectors that are denoised at once."""
LARGEST = 8192
"""Largest D of which an exact log-density is computed: it needs a few matrices of D x D in float64."""


class GaussianChain(Protocol):
    """What is read of a policy: Gaussian steps whose noise levels are a diffusion's."""

    diffusion: Diffusion

    @property
    def num_steps(self) -> int:
        """T."""

    def encode(self, context: Any) -> Any:
        """Return the encoding of a context (B, C) for all steps."""

    def mean(self, u: Tensor, t: int, context: Any = None) -> Tensor:
        """Return the mean (B, D) of the vectors after ``u`` (B, D) at step t."""

    def step_std(self, t: int) -> Tensor:
        """Return the standard deviation of step t, a scalar."""


@dataclass(frozen=True)
class LikelihoodBounds:
    """Lower bounds on the log-density of clean vectors, in nats.

    Attributes:
        elbo: (B,) float64, the mean logarithm of a vector's weights.
        importance: (B,) float64, the logarithm of the mean of its n weights.
        effective: (B,) float64, 1 .. n: (sum w)^2 / sum w^2. Near 1 a single sample decides, and
            ``importance`` is far below the log-density.
        samples: n.
    """

    elbo: Tensor
    importance: Tensor
    effective: Tensor
    samples: int


@torch.no_grad()
def likelihood_bounds(
    chain: GaussianChain,
    x0: Tensor,
    start: Tensor,
    context: Tensor | None = None,
    *,
    start_std: float = 0.0,
    samples: int = 1,
    generator: torch.Generator | None = None,
) -> LikelihoodBounds:
    """Bound the log-density of clean vectors from below.

    Args:
        chain: the policy.
        x0: (B, D) the clean vectors.
        start: (B, D) the means of u_T, such as the users' histories.
        context: (B, C) the condition of the network, or None.
        start_std: standard deviation of u_T; 0: a chain begins at ``start`` itself, as in evaluation.
        samples: n, 1 to 100,000.
        generator: random generator on the device of ``x0``; None uses torch's global one.

    Returns:
        The bounds. With T = 1 and ``start_std`` 0 there are no vectors between, and they are exact.

    Raises:
        ValueError: if a step of the chain has no noise, or ``samples`` or ``start_std`` is out of range.
    """
    if not 1 <= samples <= 100_000:
        raise SettingError("samples", f"must lie in 1..100000, found {samples}")
    _check_noise(chain, start_std)
    weights = torch.empty(samples, len(x0), dtype=torch.float64, device=x0.device)  # (n, B) log w
    at_once = max(1, ROWS // max(1, len(x0)))  # draws in a batch
    condition = chain.encode(context)
    for begin in range(0, samples, at_once):
        count = min(at_once, samples - begin)
        repeated = None if condition is None else condition.repeat_interleave(count)
        drawn = _log_weights(
            chain,
            x0.repeat_interleave(count, 0),
            start.repeat_interleave(count, 0),
            repeated,
            start_std,
            generator,
        )
        weights[begin : begin + count] = drawn.view(len(x0), count).T
    total = weights.logsumexp(0)  # (B,)
    effective = (2 * total - (2 * weights).logsumexp(0)).exp()
    return LikelihoodBounds(weights.mean(0), total - math.log(samples), effective, samples)


@torch.no_grad()
def exact_log_likelihood(
    chain: GaussianChain,
    x0: Tensor,
    start: Tensor,
    context: Tensor | None = None,
    *,
    start_std: float = 0.0,
) -> Tensor:
    """Return the log-densities of clean vectors under a chain whose means are affine in u.

    The covariance follows S <- A' S A + std_t^2 I, where A is a step's slope; it is the same for all users.

    Args:
        chain: the policy, for example of backbone ``linear``.
        x0: (B, D) the clean vectors.
        start: (B, D) the means of u_T.
        context: (B, C) the condition of the network, or None.
        start_std: standard deviation of u_T.

    Returns:
        (B,) float64, in nats.

    Raises:
        ValueError: if a mean is not affine in u, a step has no noise, or D is above 8,192.
    """
    size = x0.shape[1]
    if size > LARGEST:
        raise ValueError(
            f"an exact log-density needs matrices of D x D: D = {size} is above {LARGEST}; use bounds"
        )
    _check_noise(chain, start_std)
    condition = chain.encode(context)
    mean = start
    covariance = torch.zeros(size, size, dtype=torch.float64, device=x0.device)
    covariance.diagonal().add_(start_std**2)
    for t in range(chain.num_steps):
        slope = _slope(chain, t, start, condition)  # (D, D)
        covariance = slope.T @ covariance @ slope
        covariance.diagonal().add_(float(chain.step_std(t)) ** 2)
        mean = chain.mean(mean, t, condition)  # (B, D)
    factor: Tensor = torch.linalg.cholesky(covariance)
    white: Tensor = torch.linalg.solve_triangular(factor, (x0 - mean).double().T, upper=False)  # (D, B)
    constant = factor.diagonal().log().sum() + 0.5 * size * math.log(2 * math.pi)
    return -0.5 * white.square().sum(0) - constant


def _check_noise(chain: GaussianChain, start_std: float) -> None:
    """Raise an error for a step without noise, which has no density, and for a ``start_std`` below 0."""
    if not (math.isfinite(start_std) and start_std >= 0):
        raise SettingError("start_std", f"must be a finite number >= 0, found {start_std}")
    for t in range(chain.num_steps):
        if float(chain.step_std(t)) <= 0:
            raise ValueError(
                f"step {t} of the chain has no noise, so u_0 has no density: set exploration_std > 0"
            )


def _log_weights(
    chain: GaussianChain,
    x0: Tensor,
    start: Tensor,
    condition: Any,
    start_std: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Draw the vectors between from the forward process, once a row; return log w (B,) float64."""
    diffusion, last = chain.diffusion, chain.num_steps - 1

    def noise() -> Tensor:
        return torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)

    u, total = start, torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    if start_std > 0:
        drawn = noise()
        u = diffusion.q_sample(x0, last, drawn)
        spread = math.sqrt(1.0 - float(diffusion.abar[last]))
        total += _log_normal((u - start) / start_std, start_std) - _log_normal(drawn, spread)
    for t in range(chain.num_steps):
        k, std = last - t, float(chain.step_std(t))
        mean = chain.mean(u, t, condition)  # (B, D)
        if k == 0:
            return total + _log_normal((x0 - mean) / std, std)
        drawn = noise()
        u = diffusion.posterior_mean(x0, u, k) + std * drawn
        total += _log_normal((u - mean) / std, std) - _log_normal(drawn, std)
    return total


def _log_normal(z: Tensor, std: float) -> Tensor:
    """Return the log-densities (B,) float64 of vectors whose standardised form is ``z`` (B, D)."""
    squares = z.double().square().sum(1)
    return -0.5 * squares - z.shape[1] * (math.log(std) + 0.5 * math.log(2 * math.pi))


def _slope(chain: GaussianChain, t: int, start: Tensor, condition: Any) -> Tensor:
    """Return the slope (D, D) float64 of a step's mean in u, row i by item i of u.

    Raises:
        ValueError: if the mean is not affine, or its slope differs between the first users.
    """
    size, device = start.shape[1], start.device
    one = None if condition is None else type(condition)(condition.value[:1])

    def mean(u: Tensor) -> Tensor:
        repeated = None if one is None else one.repeat_interleave(len(u))
        return chain.mean(u, t, repeated)

    unit = torch.eye(size, dtype=start.dtype, device=device)
    slope = torch.cat([mean(rows) for rows in unit.split(ROWS)]) - mean(torch.zeros_like(start[:1]))  # (D, D)
    few = min(len(start), 8)
    generator = torch.Generator(device).manual_seed(0)
    step = torch.randn(few, size, generator=generator, device=device, dtype=start.dtype)
    some = None if condition is None else type(condition)(condition.value[:few])
    moved = chain.mean(start[:few] + step, t, some) - chain.mean(start[:few], t, some)  # (few, D)
    expected = step @ slope
    scale = float(expected.abs().max()) + float(slope.abs().max())
    if not torch.allclose(moved, expected, rtol=1e-3, atol=1e-3 * scale):
        raise ValueError(
            f"the mean of step {t} is not affine in u with one slope for all users; use likelihood_bounds"
        )
    return slope.double()
