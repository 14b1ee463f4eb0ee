"""Every estimator has the same expectation: the derivative of the expected reward.

The oracle is finite differences of the expected reward under common random numbers, on problems small
enough for hundreds of thousands of samples. Letters as in ``agents.gradients.estimators``.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from agents.gradients import estimators
from agents.gradients.estimators import ItemDraws, expected_slope, item_chances
from agents.gradients.rank_thresholds import crossings, drops, top

STD = 0.3
SAMPLES = 400_000


def list_reward(scores: Tensor, gains: Tensor, discount: Tensor) -> Tensor:
    """(N,) what the ranks of ``scores`` (N, I) earn."""
    order = scores.argsort(dim=1, descending=True)[:, : discount.numel()]
    return (gains[order] * discount).sum(1)


def expected_reward(mean: Tensor, gains: Tensor, discount: Tensor, noise: Tensor) -> float:
    """The mean of the reward over the noise, in float64."""
    return float(list_reward(mean + STD * noise, gains, discount).double().mean())


@pytest.mark.parametrize(
    ("gains", "discount"),
    [
        ([0.0, 1.0], [1.0]),
        ([1.0, 0.0, 0.5, 0.2], [0.5, 0.5]),
        ([1.0, 0.0, 0.5, 0.2], [1.0, 1 / math.log2(3), 0.5]),
        ([0.3, 0.9, 0.1], [1.0, 0.6, 0.4]),  # a list as long as the catalogue
    ],
)
def test_slope_matches_finite_differences(gains: list[float], discount: list[float]) -> None:
    value, weight = torch.tensor(gains), torch.tensor(discount)
    generator = torch.Generator().manual_seed(0)
    mean = torch.rand(len(gains), generator=generator) * 0.5
    noise = torch.randn(SAMPLES, len(gains), generator=generator)
    noise = torch.cat([noise, -noise])
    each = expected_slope(mean + STD * noise, mean.expand_as(noise), value.expand_as(noise), weight, STD)
    estimate, error = each.double().mean(0), each.double().std(0) / math.sqrt(len(each))
    for i in range(len(gains)):
        step = torch.zeros(len(gains))
        step[i] = 0.02
        rise = expected_reward(mean + step, value, weight, noise) - expected_reward(
            mean - step, value, weight, noise
        )
        assert abs(float(estimate[i]) - rise / 0.04) < 5 * float(error[i]) + 0.01


def test_the_density_of_items_far_from_a_list_is_0_and_of_others_the_normal_density() -> None:
    scores = torch.tensor([[0.5, 0.4, -2.0, -3.1, -9.0]])
    gains = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]])
    slope = expected_slope(scores, scores, gains, torch.tensor([1.0]), std=STD)[0]
    z = (0.5 - scores[0].double()) / STD
    wanted = -(-0.5 * z.square()).exp() / (math.sqrt(2 * math.pi) * STD)
    assert slope[1:4].double() == pytest.approx(wanted[1:4], rel=1e-4)
    assert slope[4] == 0.0, "e^-501"


def test_slope_has_the_score_function_mean_and_a_fraction_of_its_variance() -> None:
    gains, discount = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 0.0]), torch.tensor([0.5, 0.5])
    mean = torch.linspace(0.5, 0.0, 6)
    noise = torch.randn(SAMPLES, 6, generator=torch.Generator().manual_seed(1))
    scores = mean + STD * noise
    reward = list_reward(scores, gains, discount)
    score = (reward - reward.mean())[:, None] * noise / STD
    blackwell = expected_slope(scores, mean.expand_as(noise), gains.expand_as(noise), discount, STD)
    error = (score.std(0) + blackwell.std(0)) / math.sqrt(SAMPLES)
    assert bool(((score.mean(0) - blackwell.mean(0)).abs() < 5 * error).all())
    assert blackwell.var(0).sum() < 0.5 * score.var(0).sum()


def test_items_that_no_list_may_hold_have_no_slope_and_no_effect_on_others() -> None:
    mean = torch.tensor([[0.9, 0.5, 0.4]])
    hidden = torch.tensor([[True, False, False]])
    scores = mean.masked_fill(hidden, -math.inf)
    gains, discount = torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([1.0])
    slope = expected_slope(scores, mean.masked_fill(hidden, -math.inf), gains, discount, STD)
    pair = expected_slope(scores[:, 1:], mean[:, 1:], gains[:, 1:], discount, STD)
    assert torch.allclose(slope[:, 1:], pair, atol=1e-6) and slope[0, 0] == 0.0


def test_slope_of_each_user_is_its_own() -> None:
    generator = torch.Generator().manual_seed(2)
    mean, noise = torch.rand(5, 7, generator=generator), torch.randn(5, 7, generator=generator)
    gains, discount = torch.rand(5, 7, generator=generator), torch.tensor([0.6, 0.4])
    whole = expected_slope(mean + STD * noise, mean, gains, discount, STD)
    for n in range(5):
        one = expected_slope(
            (mean + STD * noise)[n : n + 1], mean[n : n + 1], gains[n : n + 1], discount, STD
        )
        assert torch.equal(whole[n : n + 1], one)


def plain_slope(scores: Tensor, mean: Tensor, gains: Tensor, discount: Tensor, std: float = STD) -> Tensor:
    """The sum over all thresholds of all items, as it is written."""
    out = torch.zeros_like(mean)
    for threshold, change in crossings(scores, gains, discount):
        z = (threshold - mean) / std
        out += change * torch.exp(-0.5 * z.square()) / (math.sqrt(2 * math.pi) * std)
    return out


@pytest.mark.parametrize("discount", [[1.0, 0.6, 0.4, 0.1], [0.25] * 4, [1.0, 1.0, 0.5, 0.5]])
@pytest.mark.parametrize(("relevant", "std"), [(0.0, STD), (0.02, STD), (0.05, STD), (1.0, STD), (1.0, 0.01)])
def test_few_gains_and_many_give_the_plain_sum(
    discount: list[float], relevant: float, std: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the small deviation few items are near a threshold."""
    monkeypatch.setattr(estimators, "BLOCK", 3 * 200)  # three rows at a time
    generator = torch.Generator().manual_seed(3)
    mean = torch.rand(16, 200, generator=generator)
    scores = mean + std * torch.randn(16, 200, generator=generator)
    hidden = torch.rand(16, 200, generator=generator) < 0.1
    scores = scores.masked_fill(hidden, -math.inf)
    gains = torch.rand(16, 200, generator=generator) * (torch.rand(16, 200, generator=generator) < relevant)
    if relevant:  # some lists hold items with a gain
        best = scores.topk(3, dim=1).indices
        gains[:8].scatter_(1, best[:8], 0.7)
    weight = torch.tensor(discount)
    lists = scores.topk(4, dim=1).indices
    found = expected_slope(scores, mean, gains, weight, std, top(scores, 4, lists))
    assert torch.allclose(found, plain_slope(scores, mean, gains, weight, std), atol=1e-5 * STD / std)
    assert bool(found.any()) == bool(relevant)


def test_the_item_behind_a_known_list_is_the_best_of_the_others() -> None:
    scores = torch.rand(7, 30, generator=torch.Generator().manual_seed(4))
    known, sorted_ = top(scores, 5, scores.topk(5, dim=1).indices), top(scores, 5)
    assert torch.equal(known.value, sorted_.value) and torch.equal(known.item, sorted_.item)
    assert top(scores, 30, scores.argsort(dim=1, descending=True)).item.shape == (7, 30)


def some_episodes() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, means, gains (3, 40) and discount (4,) of three episodes with few relevant items."""
    generator = torch.Generator().manual_seed(1)
    mean = torch.rand(3, 40, generator=generator)
    scores = mean + STD * torch.randn(3, 40, generator=generator)
    gains = torch.zeros(3, 40)
    gains[0, scores[0].argmax()] = 1.0  # on the list: it pushes others down
    gains[1, [3, 7]], gains[2, 9] = 0.5, 1.0
    return scores, mean, gains, torch.tensor([1.0, 0.6, 0.5, 0.4])


class Fixed(ItemDraws):
    """One draw: a certain item."""

    def drawn(self, chance: Tensor) -> tuple[Tensor, Tensor]:
        """Return item ``count`` with the weight of one draw."""
        return torch.tensor([self.count]), (1.0 / chance[[self.count]]).float()


def test_sampled_items_have_the_expectation_of_all_of_them() -> None:
    scores, mean, gains, discount = some_episodes()
    value, item = top(scores, 4)
    lost = drops(discount) * gains.gather(1, item)[:, :4]
    chance = item_chances(mean, value[:, :4], lost, STD)
    assert float(chance.sum()) == pytest.approx(1.0) and float(chance.min()) > 0
    expectation = sum(
        float(chance[i]) * expected_slope(scores, mean, gains, discount, STD, draws=Fixed(i)).double()
        for i in range(40)
    )
    assert torch.allclose(
        torch.as_tensor(expectation), expected_slope(scores, mean, gains, discount, STD).double(), atol=1e-5
    )


def test_listed_and_relevant_items_are_not_estimated() -> None:
    scores, mean, gains, discount = some_episodes()
    exact = expected_slope(scores, mean, gains, discount, STD)
    sampled = expected_slope(
        scores, mean, gains, discount, STD, draws=ItemDraws(3, torch.Generator().manual_seed(0))
    )
    certain = (gains != 0).scatter(1, top(scores, 4).item, True)
    assert torch.allclose(sampled[certain], exact[certain], atol=1e-6)
    assert int((sampled[0] != 0).sum()) <= 3 + int(certain[0].sum())


def test_items_are_drawn_as_often_as_their_probabilities_say() -> None:
    chance = torch.tensor([0.5, 0.2, 0.0, 0.3], dtype=torch.float64)
    item, weight = ItemDraws(20_000, torch.Generator().manual_seed(0)).drawn(chance)
    share = torch.bincount(item, minlength=4) / 20_000
    assert torch.allclose(share.double(), chance, atol=0.02) and int((item == 2).sum()) == 0
    assert torch.allclose(weight.double(), 1.0 / (20_000 * chance[item]))
