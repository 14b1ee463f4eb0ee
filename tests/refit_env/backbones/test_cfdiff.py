"""Tests of CF-Diff: hops by hand, hidden items, the published sizes, learning, saving."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.nn import functional

import refit_env  # noqa: F401  # registers the ids
from refit_env.backbones import Condition, backbone_for, make_backbone, published_config, sized_config
from refit_env.backbones.cfdiff import CFDiff, CFDiffConfig
from refit_env.data import Dataset, synthesize
from refit_env.policy import DiffusionPolicy

TINY = CFDiffConfig(tokens=3, width=4, heads=2, num_steps=4, embedding=4)
ROWS = np.array([[1, 1, 0, 0, 0], [1, 0, 1, 1, 0], [0, 1, 1, 0, 0], [1, 1, 0, 0, 1]], dtype=np.float32)


def over_rows(**changes: object) -> CFDiff:
    torch.manual_seed(0)
    model = CFDiff(5, replace(TINY, num_users=4, num_interactions=int(ROWS.sum()), **changes))  # type: ignore[arg-type]
    model.interactions.copy_(torch.from_numpy(np.stack(ROWS.nonzero())))
    return model.eval()


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthesize(num_users=40, num_items=30)


def test_size_of_the_published_ml_1m_network() -> None:
    model = make_backbone("cf-diff", 2810, published_config("cf-diff", "ml-1m"))
    assert sum(p.numel() for p in model.parameters()) == 2_911_805
    last = [
        1 - published_config("cf-diff", name).diffusion().abar[-1] for name in ("ml-1m", "anime", "yelp2018")
    ]
    assert last == pytest.approx([1e-4, 4e-5, 1e-4], rel=0.15)


def test_hops_by_hand() -> None:
    second, third = over_rows().hops(torch.from_numpy(ROWS[:1]))
    assert second[0].tolist() == [0.75, 0.75, 0, 0, 0]
    # Users 0 and 3 have all visible items; user 1 shares 1 of 3 items, user 2 shares 1 of 2.
    one, two = 1 / math.sqrt(2 * 3), 1 / math.sqrt(2 * 2)
    expected = np.array([0, 0, one + two, one, 0]) / (one + two)
    np.testing.assert_allclose(third[0], expected, rtol=1e-6)


def test_sharpness_favours_the_most_similar_users() -> None:
    _, third = over_rows(sharpness=4.0).hops(torch.from_numpy(ROWS[:1]))
    assert float(third[0, 3]) == pytest.approx((1 / 36) / (1 / 36 + 1 / 16))


@pytest.mark.parametrize("hidden", [0, 2, 3])
def test_hidden_items_are_not_visible_through_the_graph(hidden: int) -> None:
    """The hops of a part of user 1's row do not depend on the rest of the row in the graph."""
    visible = torch.from_numpy(ROWS[1:2]).clone()
    visible[0, hidden] = 0
    knowing = over_rows().hops(visible)[1]
    ignorant = over_rows()
    edited = ROWS.copy()
    edited[1, hidden], edited[1, 4] = 0, 1  # another hidden item instead
    ignorant.interactions.copy_(torch.from_numpy(np.stack(edited.nonzero())))
    assert torch.equal(knowing, ignorant.hops(visible)[1])


def test_empty_rows_and_an_empty_graph_have_no_hops() -> None:
    nobody = torch.zeros(1, 5)
    assert all(not hop.any() for hop in over_rows().hops(nobody))
    assert all(not hop.any() for hop in CFDiff(5, TINY).hops(torch.from_numpy(ROWS)))


def test_the_two_hop_network_is_the_published_formula() -> None:
    model = over_rows(hops=2)
    u, row = torch.rand(2, 5), torch.from_numpy(ROWS[:2])
    angles = 3 * torch.tensor([1.0, 10_000.0**-0.5])
    step = model.time(torch.cat([angles.cos(), angles.sin()])).expand(2, 4)
    h = model.lift(torch.cat([model.compress(u), step], 1)[:, :, None])
    query = model.lift_hops[0](torch.cat([model.compress(model.hops(row)[0]), step], 1)[:, :, None])
    first, second = model.attention
    h = torch.tanh(model.mixers[0](h + first(query, h, h)[0]))
    h = model.mixers[1](h + second(query, h, h)[0])
    expected = model.decompress(torch.tanh(model.drop(h)[:, :, 0]))
    assert torch.allclose(model.predict_x0(u, 3, model.encode(row)), expected, atol=1e-6)


def test_the_three_hop_network_mixes_two_branches() -> None:
    model = over_rows(layers=1)
    u, row = torch.rand(2, 5), torch.from_numpy(ROWS[:2])
    step = model.time(torch.tensor([1.0, 1, 0, 0])).expand(2, 4)  # k = 0
    h = model.lift(torch.cat([model.compress(u), step], 1)[:, :, None])
    found = []
    for lift, hop, weight in zip(model.lift_hops, model.hops(row), (0.15, 0.5), strict=True):
        query = lift(torch.cat([model.compress(hop), step], 1)[:, :, None])
        attended = functional.normalize(model.attention[0](query, h, h)[0], dim=1)
        found.append(model.mixers[0](h + weight * attended))
    mixed = 0.9 * found[0] + 0.1 * found[1]
    expected = model.decompress(torch.tanh(model.drop(mixed)[:, :, 0]))
    assert torch.allclose(model.predict_x0(u, 0, model.encode(row)), expected, atol=1e-6)


@pytest.mark.parametrize("hops", [2, 3])
@pytest.mark.parametrize("batch", [1, 3])
def test_shapes_and_rows_are_independent(hops: int, batch: int) -> None:
    model = over_rows(hops=hops)
    rows = torch.from_numpy(ROWS[:batch])
    condition = model.encode(rows)
    assert condition.value.shape == (batch, (hops - 1) * 3)
    whole = model.predict_x0(rows, 2, condition)
    assert whole.shape == (batch, 5)
    alone = [
        model.predict_x0(row[None], torch.tensor([2]), Condition(value[None]))
        for row, value in zip(rows, condition.value, strict=True)
    ]
    assert torch.allclose(whole, torch.cat(alone), atol=1e-6)


@pytest.mark.parametrize("hops", [2, 3])
def test_every_parameter_learns_and_dropout_is_off_in_evaluation(hops: int) -> None:
    model = over_rows(hops=hops)
    rows = torch.from_numpy(ROWS)
    condition = model.encode(rows)
    assert torch.equal(model.predict_x0(rows, 1, condition), model.predict_x0(rows, 1, condition))
    model.train()
    assert not torch.equal(model.predict_x0(rows, 1, condition), model.predict_x0(rows, 1, condition))
    for seed in range(4):
        torch.manual_seed(seed)
        model.elbo_loss(rows, rows, torch.Generator().manual_seed(seed)).backward()
    silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert not silent


def test_it_learns_to_distinguish_users(data: Dataset) -> None:
    model = backbone_for(
        data, "cf-diff", {"tokens": 16, "heads": 1, "dropout": 0.0, "attention_dropout": 0.0}, seed=0
    )
    rows = torch.as_tensor(data.train.csr.toarray())
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def error() -> float:
        with torch.no_grad():
            return float((model.eval().predict_x0(rows, 0, model.encode(rows)) - rows).square().mean())

    popularity = float((rows.mean(0) - rows).square().mean())
    for step in range(150):
        loss = model.train().elbo_loss(rows, rows, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert error() < 0.7 * popularity


def test_a_checkpoint_holds_the_graph(data: Dataset, tmp_path: Path) -> None:
    model = backbone_for(data, "cf-diff", {"tokens": 6, "heads": 1}, seed=0).eval()
    policy = DiffusionPolicy(model, num_steps=3)
    policy.save(tmp_path, data)
    users = torch.arange(5)
    again = DiffusionPolicy.load(tmp_path)
    scores = policy.scorer(data)(users)
    assert torch.equal(again.scorer(data)(users), scores)
    assert any(p.requires_grad for p in again.parameters())


def test_an_environments_context_is_the_visible_row(data: Dataset) -> None:
    env = gym.make("ReFiT-Custom-v0", data=data, backbone="cf-diff", relevance="holdout", num_steps=2)
    observation, _ = env.reset(seed=0)
    assert np.array_equal(observation["history"], observation["u"])
    policy = DiffusionPolicy(backbone_for(data, "cf-diff", {"tokens": 6, "heads": 1}, seed=0), 2).eval()
    done = False
    while not done:
        u, history = torch.as_tensor(observation["u"])[None], torch.as_tensor(observation["history"])[None]
        action = policy.mean(u, int(observation["t"][0]), history)[0].detach().numpy()
        observation, reward, done, _, _ = env.step(action)
    assert math.isfinite(reward)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="hops must be >= 2 and <= 3, found 4"):
        make_backbone("cf-diff", 5, {"hops": 4})
    with pytest.raises(ValueError, match="pass that row"):
        over_rows().predict_x0(torch.zeros(1, 5), 0)
    assert sized_config("cf-diff", "ml-1m", "small").tokens < published_config("cf-diff", "ml-1m").tokens
