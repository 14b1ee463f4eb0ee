"""All swaps of a list at once: pair by pair they are what the formula says, and together nearly the slope."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from agents.gradients.sampled_pairs import Ends, linear_slope
from agents.gradients.topk_pairs import list_slope, list_swaps
from refit_env.evaluation.metrics import discounts

STD = 0.3


def problem(items: int, size: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings (I, D), the mean (D,), graded gains (I,) and discounts (K,)."""
    draws = torch.Generator().manual_seed(seed)
    table, mean = torch.randn(items, size, generator=draws), torch.randn(size, generator=draws)
    return table, mean, torch.rand(items, generator=draws) ** 4, discounts(length)


def sampled(mean: Tensor, count: int) -> Tensor:
    """(N, D)."""
    return mean + STD * torch.randn(count, len(mean), generator=torch.Generator().manual_seed(1))


def drops(discount: Tensor) -> Tensor:
    """(K,)."""
    return discount - torch.cat([discount[1:], torch.zeros(1)])


def pair_by_pair(
    u0: Tensor, mean: Tensor, scores: Tensor, table: Tensor, gains: Tensor, discount: Tensor
) -> tuple[Tensor, Tensor]:
    """(D,) and (I, D): the docstring's sums for one episode, as loops; the scores of others are unchanged."""
    slope, of_table, drop = torch.zeros_like(mean), torch.zeros_like(table), drops(discount)
    listed = scores.topk(len(discount)).indices.tolist()
    expected = scores - table @ (u0 - mean)
    for a in range(len(table)):
        for b in range(a):
            apart = table[a] - table[b]
            if not {a, b} & set(listed) or math.isinf(float(scores[a])) or math.isinf(float(scores[b])):
                continue
            push = (scores[a] - scores[b]) / apart.square().sum()
            level = scores[a] - push * (table[a] @ apart)
            rank = sum(float(scores[c]) > float(level) for c in range(len(table)) if c not in (a, b))
            if rank >= len(drop):
                continue
            z = float((expected[a] - expected[b]) / (STD * apart.norm()))
            weight = math.exp(-0.5 * z**2) / (math.sqrt(2 * math.pi) * STD * float(apart.norm()))
            weight *= float(drop[rank] * (gains[a] - gains[b]))
            meeting = u0 - push * apart
            slope += weight * apart
            of_table[a] += weight * meeting
            of_table[b] -= weight * meeting
    return slope, of_table


@pytest.mark.parametrize("length", [1, 3, 12])
@pytest.mark.parametrize("hidden", [(), (2, 5)])
def test_they_are_the_sum_over_pairs(length: int, hidden: tuple[int, ...]) -> None:
    table, mean, gains, discount = problem(12, 4, length)
    u0 = sampled(mean, 3)
    scores = u0 @ table.T
    scores[:, list(hidden)] = -math.inf
    found = list_slope(
        Ends(u0, mean.expand_as(u0), scores, table, STD), gains.expand(3, -1), discount, of_table=True
    )
    known = [
        pair_by_pair(u0[n], mean, scores[n], table, gains, discount[: 12 - len(hidden)]) for n in range(3)
    ]
    assert torch.allclose(found.mean, torch.stack([slope for slope, _ in known]), atol=1e-5)
    assert torch.allclose(found.table, sum((moved for _, moved in known), torch.zeros(12, 4)), atol=1e-4)


@pytest.mark.parametrize("size", [8, 32])
def test_they_are_nearly_the_derivative_of_the_expected_reward(size: int) -> None:
    """Against finite differences of it along random directions, the same noise on both sides."""
    table, mean, gains, discount = problem(200, size, 10)
    u0, step = sampled(mean, 8_000), 0.1 * STD
    ends = Ends(u0, mean.expand_as(u0), u0 @ table.T, table, STD)
    found = list_slope(ends, gains.expand(len(u0), -1), discount).mean.mean(0)
    along = torch.nn.functional.normalize(
        torch.randn(4, size, generator=torch.Generator().manual_seed(2)), dim=1
    )

    def rewards(at: Tensor) -> Tensor:
        return (gains[(at @ table.T).topk(10, dim=1).indices] * discount).sum(1)

    for direction in along:
        slopes = (rewards(u0 + step * direction) - rewards(u0 - step * direction)) / (2 * step)
        error = float(slopes.std()) / math.sqrt(len(u0))
        assert float(found @ direction) == pytest.approx(
            float(slopes.mean()), abs=4 * error + 0.04 * float(found.norm())
        )


def test_it_varies_far_less_than_drawn_pairs() -> None:
    table, mean, gains, discount = problem(300, 32, 10)
    u0 = sampled(mean, 1_000)
    ends = Ends(u0, mean.expand_as(u0), u0 @ table.T, table, STD)
    part = gains.expand(len(u0), -1), discount
    drawn = linear_slope(ends, *part, 4, torch.Generator().manual_seed(3)).mean
    ours = list_slope(ends, *part).mean
    assert float(ours.var(0).sum()) < 0.1 * float(drawn.var(0).sum())
    error = (drawn.var(0) / len(u0)).sqrt()
    assert bool(((ours.mean(0) - drawn.mean(0)).abs() < 4.5 * error).all())


def test_a_context_gets_its_part_of_each_pair() -> None:
    table, mean, gains, discount = problem(20, 4, 5)
    u0, known = sampled(mean, 2), torch.randn(2, 3, generator=torch.Generator().manual_seed(4))
    by_context = torch.randn(20, 3, generator=torch.Generator().manual_seed(5))
    scores = u0 @ table.T + known @ by_context.T
    ends = Ends(u0, mean.expand_as(u0), scores, table, STD, (known, by_context))
    found = list_slope(ends, gains.expand(2, -1), discount, True)
    swaps = list_swaps(ends, gains.expand(2, -1), drops(discount))
    total = torch.zeros(2, 20).scatter(1, swaps.items, swaps.total())
    assert torch.allclose(found.context, total @ by_context, atol=1e-5)
    assert torch.allclose(found.context_table, total.T @ known, atol=1e-5)
    assert torch.allclose(found.mean, total @ table, atol=1e-5)
