"""The actor's distribution as Stable-Baselines3 wants it: N(mean, std_t^2 I) with a std that is not learnt.

Letters: B rows in a batch, D size of the action.
"""

from __future__ import annotations

import math

from stable_baselines3.common.distributions import DiagGaussianDistribution
from torch import Tensor
from torch.distributions import Normal

from refit_env.policy import Reduction


class FixedStdGaussian(DiagGaussianDistribution):
    """A diagonal Gaussian whose log-density is summed over D, or divided by D.

    ``"mean"`` is what DDPO's code does (https://github.com/jannerm/ddpo/issues/10): with D in the thousands
    the ratio of two summed densities overflows at the first update, whatever the clip range. A ratio under
    ``"mean"`` is the D-th root of the true one, so its clip range is far wider than it looks, and an
    ``approx_kl`` is one of a single dimension's size.

    TRPO takes the Kullback-Leibler divergence of ``distribution`` and averages it over everything: for
    either reduction its ``target_kl`` is that of one dimension.
    """

    std: Tensor

    def __init__(self, action_dim: int, reduction: Reduction = "mean") -> None:
        """Make a distribution over D = ``action_dim`` numbers; ``reduction`` is ``"mean"`` or ``"sum"``."""
        super().__init__(action_dim)
        self.reduction: Reduction = reduction

    def proba_distribution(self, mean_actions: Tensor, std: Tensor) -> FixedStdGaussian:
        """Set the mean (B, D) and the standard deviation (B, 1) or a scalar; returns itself."""
        self.std = std
        # The environment refuses NaN with an error of its own; a look at each mean would cost a pass.
        self.distribution = Normal(mean_actions, std.expand_as(mean_actions), validate_args=False)
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """(B,) log-density of ``actions`` (B, D), reduced over D."""
        each: Tensor = self.distribution.log_prob(actions)  # (B, D)
        return each.sum(1) if self.reduction == "sum" else each.mean(1)

    def entropy(self) -> Tensor:
        """(B,) the entropy, reduced over D; constant, since the std is not learnt."""
        each = 0.5 + 0.5 * math.log(2 * math.pi) + self.std.log()  # (B, 1) or ()
        rows = each.expand(self.distribution.mean.shape[0], 1).squeeze(1)  # (B,)
        return rows * self.action_dim if self.reduction == "sum" else rows
