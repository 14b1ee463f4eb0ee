"""Tests of Diff-POI's encoders: moves, repeats and padding by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from refit_env.backbones.visits import (
    MoveAttention,
    TargetAttention,
    VisitEncoder,
    first_places,
    norm_bound,
    relative_buckets,
)


def moves() -> MoveAttention:
    torch.manual_seed(0)
    return MoveAttention(6, 8)


def loops(
    layer: MoveAttention, visits: list[int], table: Tensor, ways: list[int], times: list[int]
) -> Tensor:
    """Return new embeddings of a walk's places, by their first visits, one edge at a time."""
    places = list(dict.fromkeys(visits))
    out = {p: table[p].clone() for p in places}
    for vector, ahead in ((layer.towards, True), (layer.back, False)):
        edges: dict[int, list[tuple[int, Tensor]]] = {}
        for n in range(1, len(visits)):
            a, b = visits[n - 1], visits[n]
            logit = vector @ (table[a] * table[b] + layer.ways.weight[ways[n]] + layer.times.weight[times[n]])
            source, target = (a, b) if ahead else (b, a)
            edges.setdefault(target, []).append((source, logit))
        for target, incoming in edges.items():
            shares = torch.stack([logit for _, logit in incoming]).softmax(0)
            for share, (source, _) in zip(shares, incoming, strict=True):
                out[target] = out[target] + share * table[source]
    return torch.stack([out[p] for p in places])


@pytest.mark.parametrize("visits", [[3], [3, 1], [3, 1, 3, 2, 1], [4, 4, 4, 0], [0, 1, 2, 3, 4]])
def test_moves_are_the_loops(visits: list[int]) -> None:
    layer, table = moves(), torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    ways, times = [(3 * n) % 8 for n in range(5)], [(5 * n + 1) % 8 for n in range(5)]
    padded = torch.tensor([visits + [5] * (5 - len(visits))])
    node = first_places(padded)
    out = layer(table[padded], node, padded < 5, torch.tensor([ways]), torch.tensor([times]))
    first = [n for n in range(len(visits)) if node[0, n] == n]
    assert torch.allclose(out[0, first], loops(layer, visits, table, ways, times), atol=1e-5)


def test_a_softmax_of_large_logits_stays_finite() -> None:
    layer = moves()
    with torch.no_grad():
        layer.towards.mul_(1e4)
    x = 10 * torch.randn(2, 5, 6)
    node = first_places(torch.tensor([[0, 1, 0, 1, 2], [0, 1, 2, 3, 4]]))
    buckets = torch.zeros(2, 5, dtype=torch.int64)
    assert layer(x, node, torch.ones(2, 5, dtype=torch.bool), buckets, buckets).isfinite().all()


def test_buckets_are_in_units_of_the_shortest() -> None:
    intervals = torch.tensor([[0.0, 4.0, 2.0, 7.9, 1e9], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert relative_buckets(intervals, 16).tolist() == [[0, 2, 1, 3, 15], [0, 0, 0, 0, 0]]


def test_padding_is_ignored_and_an_empty_history_is_zero() -> None:
    torch.manual_seed(0)
    encoder = VisitEncoder(8, 2, 8, 0.0).eval()
    items = torch.tensor([[2, 0, 2, 5, 5], [5, 5, 5, 5, 5]])
    there, node = items < 5, first_places(items)
    table, buckets = torch.randn(6, 8), torch.ones(2, 5, dtype=torch.int64)
    state = encoder(table[items], node, there, buckets, buckets)
    table[5] += 7.0
    assert torch.allclose(encoder(table[items], node, there, buckets, buckets), state, atol=1e-6)
    alone = encoder(table[items[:1, :3]], node[:1, :3], there[:1, :3], buckets[:1, :3], buckets[:1, :3])
    assert torch.allclose(alone, state[:1], atol=1e-6)
    assert not state[1].any() and state[0].abs().max() <= norm_bound(encoder.last)


def test_order_matters() -> None:
    torch.manual_seed(0)
    encoder = VisitEncoder(8, 2, 8, 0.0).eval()
    items = torch.tensor([[2, 0, 1, 0], [1, 2, 0, 0]])
    table, buckets = torch.randn(6, 8), torch.ones(2, 4, dtype=torch.int64)
    states = encoder(table[items], first_places(items), items < 5, buckets, buckets)
    assert (states[0] - states[1]).abs().max() > 1e-3


def test_target_attention_by_hand() -> None:
    torch.manual_seed(0)
    layer = TargetAttention(4, 0.0).eval()
    state, geo = torch.randn(1, 4), torch.randn(1, 3, 4)
    there = torch.tensor([[True, True, False]])
    q = layer.query(layer.before(state))[0]
    shares = torch.stack([q @ layer.key(geo[0, n]) / 2 for n in range(2)]).softmax(0)
    x = layer.between((shares[:, None] * layer.value(geo[0, :2])).sum(0))
    expected = layer.last(x + layer.narrow(torch.relu(layer.widen(x))))
    assert torch.allclose(layer(state, geo, there)[0], expected, atol=1e-6)
