"""Tests of L-DiffRec: clusters, the loss by hand, annealing, freezing, learning, saving."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

import refit_env  # noqa: F401  # registers the ids
from agents.training.pretrain_config import PretrainConfig, published_training
from agents.training.pretrainer import Pretrainer
from refit_env.backbones import backbone_for, make_backbone, published_config, sized_config
from refit_env.backbones.ldiffrec import LDiffRec, LDiffRecConfig, _none_empty, _split, item_clusters
from refit_env.data import Dataset, synthesize
from refit_env.policy import DiffusionPolicy

TINY = LDiffRecConfig(latent=5, hidden=(4,), num_steps=6, embedding=4)


def model(items: int = 7, **changes: object) -> LDiffRec:
    torch.manual_seed(0)
    return LDiffRec(items, replace(TINY, **changes)).eval()  # type: ignore[arg-type]


def rows(count: int = 6, items: int = 7) -> torch.Tensor:
    return (torch.rand(count, items, generator=torch.Generator().manual_seed(1)) < 0.5).float()


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthesize(num_users=60, num_items=40)


# ---------------------------------------------------------------------- clusters


def test_two_groups_of_items_are_two_clusters() -> None:
    rng = np.random.default_rng(0)
    block = (rng.random((30, 8)) < 0.6).astype(np.float32)
    matrix = sp.csr_matrix(np.kron(np.eye(2), block))
    shuffled = rng.permutation(16)
    matrix, truth = sp.csr_matrix(matrix[:, shuffled]), shuffled >= 8
    found = item_clusters(matrix, 2)
    assert np.array_equal(found == found[np.flatnonzero(truth)[0]], truth)
    assert np.array_equal(found, item_clusters(matrix, 2))


@given(st.integers(1, 40), st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_no_cluster_is_empty(extra: int, weights: list[int]) -> None:
    total = len(weights) + extra
    parts = _split(total, weights)
    assert sum(parts) == total and min(parts) >= 1


def test_latent_shares_follow_the_sizes_and_the_last_is_the_rest() -> None:
    assert _split(300, [1148, 1662]) == [122, 178]
    assert _none_empty(np.array([2, 2, 2, 0]), 3).tolist() == [2, 2, 1, 0]
    with pytest.raises(ValueError, match=r"clusters=9 must lie in 1..7"):
        item_clusters(sp.csr_matrix(rows().numpy()), 9)


def test_each_share_of_the_latent_vector_depends_on_its_cluster() -> None:
    backbone = model(cluster_sizes=(3, 4), latent=4)
    backbone.order.copy_(torch.tensor([1, 4, 6, 0, 2, 3, 5]))
    one = torch.zeros(1, 7)
    other = one.clone()
    other[0, 4] = 1  # an item of the first cluster
    changed = (backbone.latent(one)[0] != backbone.latent(other)[0])[0]
    assert changed.tolist() == [True, False, False, False]
    encoder = backbone.encoders[0]
    expected = torch.tanh(encoder(torch.tensor([[0.0, 1.0, 0.0]])))[0]
    assert torch.equal(backbone.latent(other)[0][0, :1], expected[:1])
    assert torch.equal(backbone.latent(other)[1][0, :1], expected[1:])


# ---------------------------------------------------------------------- scores and loss


def test_scores_are_affine_in_the_table() -> None:
    backbone = model()
    with torch.no_grad():
        backbone.decoder.bias.copy_(torch.arange(7.0))
    u0 = torch.randn(3, 5)
    scores = backbone.scores(u0, torch.arange(3))
    assert torch.allclose(scores, u0 @ backbone.score_table().T + torch.arange(7.0), atol=1e-6)


def test_loss_is_the_formula_in_evaluation_mode() -> None:
    backbone = model(kl_weight=0.3)
    backbone.seen.copy_(torch.tensor([0, 20]))
    found = backbone.elbo_loss(rows(), rows(), torch.Generator().manual_seed(3))
    mean, width = backbone.latent(rows())
    elbo, x0 = backbone.loss(mean, mean, backbone.predict_x0, torch.Generator().manual_seed(3))
    p = torch.softmax(backbone.decoder(x0), 1)
    negative = -(rows() * p.log()).sum(1).mean()
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (width / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    assert torch.allclose(found, 0.03 * elbo + negative + 0.1 * kl.sum(1).mean(), rtol=1e-5)
    assert int(backbone.seen[1]) == 20  # only training counts updates


def test_weights_anneal_with_epochs_and_updates() -> None:
    backbone = model(num_users=10, elbo_weight=0.05)
    assert backbone.annealed() == (0.05, 0.0)
    backbone.seen.copy_(torch.tensor([1000, 30]))  # 100 epochs
    assert backbone.annealed() == (pytest.approx(0.04), 0.15)
    backbone.seen.copy_(torch.tensor([10_000, 3000]))
    assert backbone.annealed() == (0.005, 0.3)
    backbone.train().elbo_loss(rows(), rows())
    assert backbone.seen.tolist() == [10_006, 3001]


def test_every_parameter_learns_and_training_is_noisy() -> None:
    backbone = model()
    backbone.seen[1] = 200  # otherwise the log-variances have no gradient
    assert torch.equal(backbone.initial_state(torch.arange(6), rows()), backbone.latent(rows())[0])
    losses = set()
    for seed in range(3):
        torch.manual_seed(seed)
        loss = backbone.train().elbo_loss(rows(), rows(), torch.Generator().manual_seed(seed))
        loss.backward()
        losses.add(float(loss.detach()))
    assert len(losses) == 3
    silent = {n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert not silent


@pytest.mark.parametrize("batch", [1, 5])
def test_shapes(batch: int) -> None:
    backbone = model(clusters=3)
    users = torch.arange(batch)
    state = backbone.initial_state(users, rows(batch))
    assert state.shape == (batch, 5)
    scores = DiffusionPolicy(backbone, 3).recommend_scores(users, rows(batch))
    assert scores.shape == (batch, 7)


# ---------------------------------------------------------------------- as a recommender


def test_pretraining_beats_the_untrained_network(data: Dataset) -> None:
    backbone = backbone_for(data, "l-diffrec", {"latent": 16, "hidden": (16,), "dropout": 0.1}, seed=0)
    config = PretrainConfig(learning_rate=1e-2, epochs=30, eval_every=10, users_per_batch=20)
    result = Pretrainer(data, backbone, config, device="cpu").learn()
    first = result.history[0]["valid/recall@20"]
    assert result.best_value > first + 0.05
    assert int(backbone.seen[0]) >= 10 * 60


def test_groups_have_their_learning_rates(data: Dataset) -> None:
    backbone = backbone_for(data, "l-diffrec", {"latent": 6}, seed=0)
    groups = backbone.parameter_groups(1e-3)
    assert [group["lr"] for group in groups] == [1e-3, 5e-4]
    assert sum(len(group["params"]) for group in groups) == len(list(backbone.parameters()))


def test_a_loaded_policy_trains_only_the_denoiser(data: Dataset, tmp_path: Path) -> None:
    backbone = backbone_for(data, "l-diffrec", {"latent": 6, "hidden": (8,)}, seed=0)
    policy = DiffusionPolicy(backbone, 3)
    policy.save(tmp_path, data)
    again = DiffusionPolicy.load(tmp_path)
    users = torch.arange(4)
    assert torch.equal(again.scorer(data)(users), policy.scorer(data)(users))
    trained = [name for name, p in again.backbone.named_parameters() if p.requires_grad]
    assert trained and all(name.startswith("denoiser.") for name in trained)


def test_an_environment_scores_by_the_checkpoint(data: Dataset, tmp_path: Path) -> None:
    backbone = backbone_for(data, "l-diffrec", {"latent": 6, "hidden": (8,)}, seed=0)
    DiffusionPolicy(backbone, 2).save(tmp_path, data)
    env = gym.make(
        "ReFiT-Custom-v0",
        data=data,
        backbone="l-diffrec",
        relevance="recent",
        num_steps=2,
        checkpoint=str(tmp_path),
    )
    observation, info = env.reset(seed=0)
    items = data.train.of(info["user"])
    visible = torch.zeros(1, 40)
    visible[0, items[: len(items) - max(1, round(0.2 * len(items)))]] = 1
    expected = backbone.eval().initial_state(torch.tensor([info["user"]]), visible)[0]
    np.testing.assert_allclose(observation["u"], expected.detach(), rtol=1e-5, atol=1e-6)
    table = env.unwrapped.problem.score_table
    assert torch.allclose(table, backbone.decoder.weight, atol=1e-6)


def test_refusals_and_published_settings() -> None:
    with pytest.raises(ValueError, match="must be 2 sizes with the sum 7"):
        make_backbone("l-diffrec", 7, {"cluster_sizes": (3, 3)})
    with pytest.raises(ValueError, match="must be at least clusters=2"):
        make_backbone("l-diffrec", 7, {"latent": 1})
    assert 1 - published_config("l-diffrec", "amazon").diffusion().abar[-1] == pytest.approx(2.5e-3)
    assert 1 - published_config("l-diffrec", "yelp2018").diffusion().abar[-1] == pytest.approx(1e-4)
    assert sized_config("l-diffrec", "gowalla", "small").latent < 300
    assert published_training("l-diffrec", "gowalla").learning_rate == 5e-4
