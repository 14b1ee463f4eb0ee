"""Constrained policy optimisation: steps in a trust region under a linear constraint, solved by the dual.

With g and b the gradients of reward and cost, H the Fisher matrix, c the cost beyond its limit and delta the
trust region, the step x solves

    max g x   so that   c + b x <= 0   and   x H x / 2 <= delta.

With q = g H^-1 g, r = g H^-1 b and s = b H^-1 b its solution is x = H^-1 (g - nu b) / lambda, nu the larger
of (r + lambda c) / s and 0. lambda minimises the dual, which is (q - r^2 / s) / (2 lambda)
+ lambda (delta - c^2 / (2 s)) - r c / s where nu is above 0, and q / (2 lambda) + lambda delta elsewhere.
Where no x meets both constraints, the step lowers the cost alone: x = -sqrt(2 delta / s) H^-1 b (Achiam et
al., ICML 2017, arXiv 1705.10528, section 6). SciPy's conjugate gradients solve with H.

Letters: P weights, n states, d size of an action.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.utils import parameters_to_vector, vector_to_parameters

Product = Callable[[Tensor], Tensor]
"""H times a vector (P,)."""
SMALL = 1e-12
"""A square of a gradient, in units of H^-1, below which it counts as 0."""
SHARE = 1e-6
"""Least share of q that counts as orthogonal to b, for gradients that are parallel."""


def improve(
    weights: Sequence[nn.Parameter],
    policy: Callable[[Tensor | slice], Normal],
    actions: Tensor,
    gains: Tensor,
    excess: float,
    few: Tensor,
    radius: float,
    damping: float,
) -> None:
    """Make a step of a Gaussian policy, in place; none where the line search accepts none.

    Args:
        weights: the policy's.
        policy: the distribution (m, d) of actions at some of the n states, by the weights as they are.
        actions: (n, d) that were taken.
        gains: (n, 2) advantages of reward and cost.
        excess: c, the cost less its limit, as a mean over states.
        few: (m,) states that the Fisher matrix is computed from.
        radius: delta, the most KL divergence; the line search accepts half as much more.
        damping: number that is added to the diagonal of the Fisher matrix.
    """
    before = parameters_to_vector(weights).detach().clone()  # (P,)
    every = slice(None)
    with torch.no_grad():
        old, there = policy(every), policy(few)
        known = old.log_prob(actions).sum(1)  # (n,)
    reward, cost = (gains - gains.mean(0)).T  # (n,) each
    if len(reward) > 1:
        reward = reward / (reward.std() + 1e-8)  # the cost keeps its unit, that of the limit

    def surrogate(gain: Tensor) -> Tensor:
        ratio = (policy(every).log_prob(actions).sum(1) - known).exp()  # (n,)
        out: Tensor = (ratio * gain).mean()
        return out

    def flat(value: Tensor, again: bool = False) -> Tensor:
        out: Tensor = parameters_to_vector(torch.autograd.grad(value, weights, create_graph=again))
        return out

    slope = flat(kl_divergence(there, policy(few)).sum(1).mean(), again=True)  # (P,)

    def product(vector: Tensor) -> Tensor:
        made = torch.autograd.grad(slope @ vector, weights, retain_graph=True)
        out: Tensor = parameters_to_vector(made) + damping * vector
        return out

    step, feasible = constrained_step(flat(surrogate(reward)), flat(surrogate(cost)), excess, product, radius)

    @torch.no_grad()
    def accepts(share: float) -> bool:
        vector_to_parameters(before + share * step, weights)
        near = kl_divergence(old, policy(every)).sum(1).mean() <= 1.5 * radius
        better = not feasible or surrogate(reward) > 0
        return bool(near and better and surrogate(cost) <= max(-excess, 0.0))

    if not line_search(accepts):
        vector_to_parameters(before, weights)


def constrained_step(
    gradient: Tensor, cost_gradient: Tensor, excess: float, product: Product, radius: float, steps: int = 10
) -> tuple[Tensor, bool]:
    """Return the step, and whether it can meet the constraint within the trust region.

    Args:
        gradient: (P,) g, of the reward.
        cost_gradient: (P,) b, of the cost.
        excess: c, the cost less its limit.
        product: H times a vector.
        radius: delta.
        steps: of conjugate gradients.

    Example:
        >>> g, b = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0])
        >>> constrained_step(g, b, 0.0, lambda x: x, radius=0.5)  # H is the identity
        (tensor([1., 0.]), True)
        >>> constrained_step(g, b, -5.0, lambda x: x, radius=1.0)[0]  # far from the limit
        tensor([1., 1.])
        >>> constrained_step(g, b, 5.0, lambda x: x, radius=0.5)  # too far beyond it
        (tensor([-0., -1.]), False)
    """
    v, w = solve(product, gradient, steps), solve(product, cost_gradient, steps)  # (P,) H^-1 g, H^-1 b
    q, r, s = float(gradient @ v), float(gradient @ w), float(cost_gradient @ w)
    free = v * math.sqrt(2 * radius / q) if q > SMALL else torch.zeros_like(v)  # without the constraint
    if s <= SMALL:  # no weight changes the cost
        return free, excess <= 0
    room = 2 * radius - excess**2 / s
    if room < 0 < excess:
        return -math.sqrt(2 * radius / s) * w, False
    if q <= SMALL and excess > 0:  # reward has no direction
        return -excess / s * w, True
    if room < 0 or q <= SMALL:  # the whole trust region meets the constraint, or reward has no direction
        return free, True
    weight = _dual(q, r, s, excess, radius, room)
    nu = max((r + weight * excess) / s, 0.0)
    return (v - nu * w) / weight, True


def _dual(q: float, r: float, s: float, excess: float, radius: float, room: float) -> float:
    """Return the lambda that minimises the dual."""
    rest = max(q - r * r / s, SHARE * q)
    turn = -r / excess if excess else math.inf  # where nu changes its sign
    # nu > 0 holds for lambda above the turn where the cost is beyond its limit, below it otherwise.
    active = (max(turn, 0.0), math.inf) if excess > 0 else (0.0, max(turn, 0.0))
    if not excess:
        active = (0.0, math.inf) if r > 0 else (0.0, 0.0)
    free = (0.0, active[0]) if active[1] == math.inf else (active[1], math.inf)

    def tight(weight: float) -> float:
        return rest / (2 * weight) + weight * room / 2 - r * excess / s

    def loose(weight: float) -> float:
        return q / (2 * weight) + weight * radius

    found = [
        (value(weight), weight)
        for value, span, best in (
            (tight, active, math.sqrt(rest / room) if room > 0 else math.inf),
            (loose, free, math.sqrt(q / (2 * radius))),
        )
        if span[1] > span[0] and 0 < (weight := min(max(best, span[0]), span[1])) < math.inf
    ]
    return min(found)[1]


def solve(product: Product, right: Tensor, steps: int) -> Tensor:
    """Return H^-1 times ``right`` (P,) after at most so many steps of conjugate gradients."""

    def times(vector: np.ndarray) -> np.ndarray:
        made = product(torch.as_tensor(vector, dtype=right.dtype, device=right.device))
        return made.double().cpu().numpy()

    size = len(right)
    system = LinearOperator((size, size), matvec=times, dtype=np.float64)
    found, _ = cg(system, right.double().cpu().numpy(), maxiter=steps, rtol=1e-10)
    return torch.as_tensor(found, dtype=right.dtype, device=right.device)


def line_search(accepts: Callable[[float], bool], tries: int = 10, shrink: float = 0.8) -> float:
    """Return the largest of 1, shrink, shrink^2 ... that is accepted; 0 where none is.

    Example:
        >>> line_search(lambda share: share < 0.7)
        0.6400000000000001
    """
    return next((share for k in range(tries) if accepts(share := shrink**k)), 0.0)
