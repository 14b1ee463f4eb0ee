"""Estimators of the policy gradient of a chain's terminal reward, all of the same expectation.

The policy is N(mu_t, std_t^2 I) and the transition is the action, so all that the gradient needs is the
derivative of the expected reward in each mean. Each estimator returns the means with that derivative, and
``torch.autograd.backward`` computes from it the gradient in the weights.

- ``score``: REINFORCE. d/d mu_t = advantage * noise_t / std_t (ReFiT, arXiv 2511.06937; DDPO, 2305.13301).
- ``rao_blackwell``: the last step's term is replaced by its conditional expectation given everything
  but one coordinate. A list reward depends on item i's score only through the thresholds that it crosses, so
  that expectation is exact and cheap:
  sum_j (d_j - d_{j+1}) (g_i - g_{o_j}) phi((s_{o_j} - mu_i) / std) / std,
  with o_j the rank-j item of all others, g the gains, d the discounts. Earlier steps keep the score function.
- ``pathwise``: the same last term, differentiated through the reparameterised chain to the earlier steps.
  The transition is known and deterministic, so only the average over the noise is estimated.

For catalogues of a million items the derivative of items that are neither listed nor relevant can be
estimated from a sample of them (``ItemDraws``): each drawn item's derivative is divided by its expected
number of draws, which is unbiased for any probabilities. The others' derivative is 0, so that the products of
the backward pass need the drawn items alone.

Rao-Blackwell: conditioning keeps the mean and can only lower the variance (Casella and Robert, 1996).
docs/results.md has them side by side on ML-1M.

Letters: B users in the batch, G episodes of each, N = B * G, D size of the diffused vector (= I items
for the Rao-Blackwell estimators), K list length, T denoising steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from agents.gradients.episodes import Rollout, Slopes
from agents.gradients.rank_thresholds import Top, drops, sum_over_parts, top
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.base import Reward

DENSE_SHARE = 0.1
"""Share of gains that are not 0 above which all thresholds are computed for all items."""
LOWEST = -80.0
"""Exponent of e whose density counts as 0."""
REACH = math.sqrt(-2 * LOWEST)
"""Deviations beyond which it is 0."""
NEAR_SHARE = 0.2
"""Largest share of items nearer to a threshold for which these are computed one by one."""
BLOCK = 2**17
"""Numbers of the rows that are computed at once."""
EVENLY = 0.1
"""Share of the draws of items that has equal probabilities, so that every item has one above 0."""


@dataclass(frozen=True)
class ItemDraws:
    """A sample of the items, the same for all episodes of a batch, by which their derivative is estimated."""

    count: int
    """n, number of draws, with replacement."""
    generator: torch.Generator | None = None
    """Draws them."""

    def drawn(self, chance: Tensor) -> tuple[Tensor, Tensor]:
        """Draw items with probabilities ``chance`` (I,) float64.

        Returns:
            (n,) int64 items, and (n,) float32 1 / (n chance) of each.

        Example:
            >>> item, weight = ItemDraws(2).drawn(torch.tensor([0.0, 1.0], dtype=torch.float64))
            >>> item.tolist(), weight.tolist()
            ([1, 1], [0.5, 0.5])
        """
        place = torch.rand(self.count, generator=self.generator, device=chance.device, dtype=torch.float64)
        item = torch.searchsorted(chance.cumsum(0), place, right=True).clamp(max=chance.numel() - 1)
        return item, (1.0 / (self.count * chance[item])).float()


def score_function(
    rollout: Rollout, policy: DiffusionPolicy, advantage: Tensor, steps: tuple[int, ...]
) -> Slopes:
    """Return REINFORCE's derivative of the mean reward in each step's mean, summed over the batch.

    Args:
        rollout: N finished episodes; the noise of ``steps`` is used up.
        policy: gives the standard deviations.
        advantage: (B, G).
        steps: which steps to estimate.

    Returns:
        The mean of each step with its derivative; that of the episodes that share a mean is summed.

    Raises:
        ValueError: if the policy is deterministic at one of the steps.
    """
    weight = advantage.reshape(-1, 1) / advantage.numel()  # (N, 1)
    out: Slopes = []
    for t in steps:
        std = float(policy.std[t])
        if std == 0.0:
            raise ValueError(f"step {t} is deterministic: REINFORCE needs exploration_std > 0 there")
        # In the noise's own memory: at N x D numbers a fresh array costs as much as the product.
        slope = rollout.noise[t].mul_(weight / std)  # (N, D)
        out.append((rollout.means[t], rollout.of_shared(slope, t)))
    return out


def rao_blackwell(
    rollout: Rollout,
    policy: DiffusionPolicy,
    reward: Reward,
    scale: float = 1.0,
    draws: ItemDraws | None = None,
) -> Slopes:
    """The mean list reward's derivative in the last step's mean, each coordinate's own noise integrated out.

    Args:
        rollout: N finished episodes.
        policy: gives the last step's standard deviation.
        reward: a list reward, or a mix of which every part is one.
        scale: factor of the derivative.
        draws: the sample of items that estimates it; None computes all items.

    Returns:
        The last mean with its derivative.

    Raises:
        ValueError: if a part of the reward is no list reward.
    """
    last = policy.num_steps - 1
    term = expected_slope if draws is None else partial(expected_slope, draws=draws)
    slope = sum_over_parts(rollout, policy, reward, term, scale / rollout.reward.numel())  # (N, I)
    return [(rollout.means[last], rollout.of_shared(slope, last))]


def expected_slope(
    scores: Tensor,
    mean: Tensor,
    gains: Tensor,
    discount: Tensor,
    std: float,
    first: Top | None = None,
    draws: ItemDraws | None = None,
) -> Tensor:
    """Derivative in each item's mean of the list reward's expectation over that item's own noise.

    With f_j the density of N(mu_i, std^2) at the rank-j threshold, it is g_i sum_j drop_j f_j - sum_j drop_j
    g_{o_j} f_j: the first sum is needed where an item has a gain, the second at ranks whose item has one.
    Most items and ranks have none.

    Args:
        scores: (N, I) sampled scores; items that no list may hold are -inf.
        mean: (N, I) means of the scores.
        gains: (N, I) value of having an item in the list.
        discount: (K,) weight of each rank, non-increasing.
        std: the scores' standard deviation.
        first: the first K + 1 items of ``scores``, if they are known.
        draws: a sample of the items without gain and outside the list, which estimates theirs; None computes
            all. Not used where more than ``DENSE_SHARE`` of the gains are not 0.

    Returns:
        (N, I) float32.

    Example:
        Two items, a list of one: item 1 is relevant and must rise above item 0.

        >>> slope = expected_slope(torch.tensor([[0.5, 0.4]]), torch.tensor([[0.5, 0.4]]),
        ...                        torch.tensor([[0.0, 1.0]]), torch.tensor([1.0]), std=0.1)
        >>> [round(v, 2) for v in slope[0].tolist()]
        [-2.42, 2.42]
    """
    value, item = top(scores, discount.numel()) if first is None else first  # (N, K + 1)
    count = value.shape[1] - 1  # thresholds that an item can cross
    drop, held = drops(discount)[:count], gains.gather(1, item)  # (K,), (N, K + 1)
    if int(torch.count_nonzero(gains)) > DENSE_SHARE * gains.numel():
        out = _dense_slope(mean, value[:, :count], gains, held[:, :count], drop, std)
        return _of_listed(out, mean, value, item, held, drop, std)
    lost = drop * held[:, :count]  # (N, K) what an item costs the one at each rank
    if draws is None:
        out = _pushed_down(mean, value[:, :count], lost, std)
    else:
        some, weight = draws.drawn(item_chances(mean, value[:, :count], lost, std))  # (n,)
        down = _pushed_down(mean[:, some], value[:, :count], lost, std)  # (N, n)
        out = torch.zeros_like(mean).index_add_(1, some, down * weight)
    ranks = torch.nonzero(drop).flatten()  # (J,)
    row, column = gains.nonzero().unbind(1)  # (n,)
    density = _density(value[:, ranks][row], mean[row, column, None], std)  # (n, J)
    up = gains[row, column] * (density @ drop[ranks])  # (n,)
    if draws is None:
        out[row, column] += up
    else:  # relevant items are computed exactly
        out[row, column] = up - (density * lost[:, ranks][row]).sum(1)
    return _of_listed(out, mean, value, item, held, drop, std)


def _of_listed(
    out: Tensor, mean: Tensor, value: Tensor, item: Tensor, held: Tensor, drop: Tensor, std: float
) -> Tensor:
    """Write the derivative of the first K + 1 items into ``out`` (N, I), and return it.

    An item of the list has the thresholds of the others: from its own rank on, those of the next item.
    """
    count = drop.numel()
    place = torch.arange(count, device=item.device)
    behind = place + (place >= torch.arange(count + 1, device=item.device)[:, None])  # (K + 1, K)
    density = _density(value[:, behind], mean.gather(1, item)[..., None], std)  # (N, K + 1, K)
    return out.scatter_(1, item, ((held[..., None] - held[:, behind]) * drop * density).sum(2))


def item_chances(mean: Tensor, value: Tensor, lost: Tensor, std: float) -> Tensor:
    """Return probabilities (I,) float64 for ``ItemDraws``, by the items' distance from the thresholds.

    They are those of the density at the lowest threshold that counts in some episode, of each item's largest
    mean; a share of ``EVENLY`` is equal for all items.

    Args:
        mean: (N, I) means of the scores.
        value: (N, K) the thresholds.
        lost: (N, K) their weights; those of 0 do not count.
        std: the scores' standard deviation.
    """
    counts = lost != 0
    lowest = torch.where(counts, value, math.inf).min() if bool(counts.any()) else value.new_tensor(0.0)
    below = (lowest - mean.amax(0)).clamp(min=0).double() / std  # (I,)
    near = (-0.5 * below.square()).exp()  # (I,)
    evenly = 1.0 / near.numel()
    return EVENLY * evenly + (1 - EVENLY) * near / near.sum() if bool(near.sum() > 0) else near + evenly


def _pushed_down(mean: Tensor, value: Tensor, weight: Tensor, std: float) -> Tensor:
    """Return (N, I) minus the sum over ranks of weight times density; ranks without a weight cost nothing.

    Args:
        mean: (N, I).
        value: (N, K) the thresholds.
        weight: (N, K).
        std: the scores' standard deviation.
    """
    out = torch.zeros_like(mean)
    counts = (weight != 0).sum(1)  # (N,)
    order = (
        (weight != 0).int().argsort(dim=1, descending=True, stable=True)
    )  # (N, K) ranks with a weight first
    for n in range(int(counts.max()) if counts.numel() else 0):
        rows = torch.nonzero(counts > n).flatten()  # (n,)
        rank = order[rows, n]
        density = _bell_(mean[rows].sub_(value[rows, rank, None]).div_(std))  # (n, I)
        out.index_add_(
            0, rows, density.mul_(weight[rows, rank, None]), alpha=-1 / (math.sqrt(2 * math.pi) * std)
        )
    return out


def _density(threshold: Tensor, mean: Tensor, std: float) -> Tensor:
    """Return the density of N(mean, std^2) at the thresholds."""
    return _bell_((threshold - mean) / std) / (math.sqrt(2 * math.pi) * std)


def _bell_(z: Tensor) -> Tensor:
    """Return e^(-z^2 / 2), written into ``z``; below e^``LOWEST`` it is 0.

    A processor computes an exponential many times slower where the result has less than the full precision.
    """
    bell = z.square_().mul_(-0.5).clamp_(min=LOWEST).exp_()
    return torch.threshold_(bell, math.exp(LOWEST + 1), 0.0)


def _dense_slope(
    mean: Tensor, value: Tensor, gains: Tensor, held: Tensor, drop: Tensor, std: float
) -> Tensor:
    """Return ``expected_slope`` of items outside the list where most items have a gain.

    An item further than ``REACH`` deviations below the lowest threshold has the density 0, so only the others
    are computed where they are few. Some rows at a time, so that the processor's cache holds them.

    Args:
        mean: (N, I).
        value: (N, K) the thresholds.
        gains: (N, I).
        held: (N, K) the gains of the items at the ranks.
        drop: (K,) what the rank's discount exceeds the next one's by.
        std: the scores' standard deviation.
    """
    ranks = torch.nonzero(drop).flatten()  # (J,)
    drop, out = drop[ranks], torch.zeros_like(mean)  # (J,), (N, I)
    if not ranks.numel():
        return out
    rows = max(1, BLOCK // mean.shape[1])
    parts = (part.split(rows) for part in (mean, value[:, ranks], gains, held[:, ranks], out))
    for mu, threshold, gain, lost, slope in zip(*parts, strict=True):  # (n, I) or (n, J)
        near = mu > threshold.amin(1, keepdim=True) - REACH * std
        if int(near.sum()) <= NEAR_SHARE * near.numel():
            row, column = near.nonzero().unbind(1)  # (m,)
            density = _density(threshold[row], mu[row, column, None], std)  # (m, J)
            slope[row, column] = ((gain[row, column, None] - lost[row]) * density * drop).sum(1)
            continue
        for n, share in enumerate(drop.tolist()):
            density = _density(threshold[:, n, None], mu, std)
            slope.addcmul_(gain - lost[:, n, None], density, value=share)
    return out
