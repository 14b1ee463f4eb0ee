"""The actor's distribution for Stable-Baselines3: N(mean, std_t^2 I) with a std that is not learned.

Letters: B rows in a batch, D size of the action.
"""

from __future__ import annotations

import math

from stable_baselines3.common.distributions import DiagGaussianDistribution
from torch import Tensor
from torch.distributions import Normal

from refit_env.gaussian_chain import Reduction


class FixedStdGaussian(DiagGaussianDistribution):
    """A diagonal Gaussian whose log-density is summed over D, or divided by D.

    ``"mean"`` is what DDPO's code does (https://github.com/jannerm/ddpo/issues/10): with D in the thousands
    the ratio of two summed densities overflows at the first update, for any clip range. With ``"mean"`` the
    ratio is the D-th root of the true ratio, so a clip range allows a far larger change of the policy, and
    ``approx_kl`` is the divergence per dimension.

    TRPO averages the Kullback-Leibler divergence of ``distribution`` over all dimensions, so its
    ``target_kl`` is per dimension for either reduction.
    """

    std: Tensor

    def __init__(self, action_dim: int, reduction: Reduction = "mean") -> None:
        """Create a distribution over D = ``action_dim`` numbers; ``reduction`` is ``"mean"`` or ``"sum"``."""
        super().__init__(action_dim)
        self.reduction: Reduction = reduction

    def proba_distribution(self, mean_actions: Tensor, std: Tensor) -> FixedStdGaussian:
        """Set the mean (B, D) and the standard deviation, (B, 1) or a scalar; return this object."""
        self.std = std
        # validate_args would cost a pass over the means; the environment raises an error for NaN anyway.
        self.distribution = Normal(mean_actions, std.expand_as(mean_actions), validate_args=False)
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-density (B,) of ``actions`` (B, D), reduced over D."""
        each: Tensor = self.distribution.log_prob(actions)  # (B, D)
        return each.sum(1) if self.reduction == "sum" else each.mean(1)

    def entropy(self) -> Tensor:
        """Return the entropy (B,), reduced over D; it is constant, because the std is not learned."""
        each = 0.5 + 0.5 * math.log(2 * math.pi) + self.std.log()  # (B, 1) or ()
        rows = each.expand(self.distribution.mean.shape[0], 1).squeeze(1)  # (B,)
        return rows * self.action_dim if self.reduction == "sum" else rows
