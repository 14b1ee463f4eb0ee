"""Tests of HDRM: the graph by hand, visible items, the loss, freezing, learning, saving."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import refit_env  # noqa: F401  # registers the ids
from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer
from refit_env.backbones import backbone_for, make_backbone, published_config, sized_config
from refit_env.backbones.hdrm import HDRM, HDRMConfig
from refit_env.backbones.lorentz import squared_distances
from refit_env.data import Dataset, synthesize
from refit_env.policy import DiffusionPolicy

TINY = HDRMConfig(embedding=3, hidden=(4,), time_embedding=4, num_steps=6, noise_scale=1.0, noise_max=1e-2)
ROWS = np.array([[1, 1, 0, 0, 0], [1, 0, 1, 1, 0], [0, 1, 1, 0, 0], [1, 1, 0, 0, 1]], dtype=np.float32)


def over_rows(**changes: object) -> HDRM:
    torch.manual_seed(0)
    model = HDRM(5, replace(TINY, num_users=4, num_interactions=int(ROWS.sum()), **changes))  # type: ignore[arg-type]
    model.interactions.copy_(torch.from_numpy(np.stack(ROWS.nonzero())))
    return model.eval()


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthesize(num_users=60, num_items=40)


def small(data: Dataset, **changes: object) -> HDRM:
    out = backbone_for(data, "hdrm", {"embedding": 8, "hidden": (8,)} | changes, size="small", seed=0)
    assert isinstance(out, HDRM)
    return out


# ---------------------------------------------------------------------- the graph


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_vectors_are_the_sum_of_the_layers_but_the_first(layers: int) -> None:
    model = over_rows(layers=layers)
    scaled = ROWS / np.sqrt(ROWS.sum(1, keepdims=True) * ROWS.sum(0))
    user, item = model.users.detach().numpy(), model.items.detach().numpy()
    of_users, of_items = np.zeros_like(user), np.zeros_like(item)
    for _ in range(layers):
        user, item = scaled @ item, scaled.T @ user
        of_users, of_items = of_users + user, of_items + item
    np.testing.assert_allclose(model.item_side()[0].detach(), of_items, rtol=1e-5, atol=1e-7)
    context = model.context(torch.arange(4), torch.from_numpy(ROWS))
    assert context is not None
    np.testing.assert_allclose(context.detach(), of_users, rtol=1e-5, atol=1e-7)


def test_chains_start_at_the_mean_of_the_visible_items() -> None:
    model = over_rows()
    shown = torch.tensor([[1.0, 0, 0, 1, 0], [0.0] * 5])
    state = model.initial_state(torch.tensor([1, 0]), shown)
    vectors = model.item_side()[0]
    assert torch.allclose(state[0], (vectors[0] + vectors[3]) / 2, atol=1e-6) and not state[1].any()
    context = model.context(torch.tensor([1, 0]), shown)
    assert context is not None and not context[1].any()
    lowest, highest, size = model.context_box()  # type: ignore[misc]
    assert size == 3 and bool(((lowest <= context) & (context <= highest)).all())


def test_scores_are_distances_to_the_mixed_vector() -> None:
    model = over_rows(epsilon=0.25)
    u0, context = torch.randn(2, 3), torch.randn(2, 3)
    scores = model.scores(u0, torch.arange(2), context)
    expected = -squared_distances(0.75 * context + 0.25 * u0, model.item_side()[0])
    assert torch.allclose(scores, expected, atol=1e-5) and scores.shape == (2, 5)
    assert model.score_table() is None
    with pytest.raises(ValueError, match="also scores by the context"):
        model.scores(u0, torch.arange(2))


def test_cached_vectors_follow_the_weights() -> None:
    model = over_rows()
    with torch.no_grad():
        before = model.item_side()[0]
        assert model.item_side()[0] is before
        model.users += 1.0
        assert not torch.allclose(model.item_side()[0], before)


# ---------------------------------------------------------------------- the denoiser


@pytest.mark.parametrize("batch", [1, 3])
def test_one_step_for_all_equals_a_step_for_each(batch: int) -> None:
    model = over_rows()
    u, condition = torch.randn(batch, 3), model.encode(torch.randn(batch, 3))
    whole = model.predict_x0(u, 2, condition)
    assert whole.shape == (batch, 3)
    assert torch.allclose(whole, model.predict_x0(u, torch.full((batch,), 2), condition), atol=1e-6)
    with pytest.raises(ValueError, match="needs the user's vector"):
        model.predict_x0(u, 2)


def test_loss_is_the_margin_of_mixed_vectors_and_the_errors() -> None:
    model = over_rows(epsilon=0.5, reconstruction=0.25, margin=10.0)
    users, items = torch.tensor([0, 1]), torch.tensor([1, 3])
    found = model.elbo_loss(users, items, torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    other = model._others().draw(users, generator)
    assert not ROWS[users, other].any()
    vectors = model.item_side()[0]
    user = model.context(users, torch.from_numpy(ROWS[:2]))
    assert user is not None
    item = vectors[items]
    new_user = model.user_denoiser(*model._noised(user, generator), item)
    new_item = model.denoiser(*model._noised(item, generator), user)
    mixed = (user + new_user) / 2
    near = squared_distances(mixed, (item + new_item) / 2).diagonal()
    far = squared_distances(mixed, vectors[other]).diagonal()
    clean = squared_distances(user, item).diagonal() - squared_distances(user, vectors[other]).diagonal()
    errors = (new_user - user).square().mean() + (new_item - item).square().mean()
    expected = (clean + 10).mean() + 0.75 * (near - far + 10).mean() + 0.25 * errors
    assert torch.allclose(found, expected, rtol=1e-4)


def test_denoisers_do_not_move_the_embeddings() -> None:
    """If clean vectors satisfy the margin, only the denoisers have a gradient."""
    model = over_rows(epsilon=0.5, margin=-10.0)
    users, items = (torch.from_numpy(side) for side in ROWS.nonzero())
    model.elbo_loss(users, items, torch.Generator().manual_seed(0)).backward()
    assert model.items.grad is not None and not model.items.grad.any()
    assert model.denoiser.output_layer.weight.grad is not None
    assert model.denoiser.output_layer.weight.grad.any()


def test_every_parameter_learns_and_dropout_is_off_in_evaluation() -> None:
    model = over_rows().train()
    users, items = (torch.from_numpy(side) for side in ROWS.nonzero())
    for seed in range(4):
        torch.manual_seed(seed)
        model.elbo_loss(users, items, torch.Generator().manual_seed(seed)).backward()
    silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert not silent
    model.eval()
    u, condition = torch.randn(2, 3), model.encode(torch.randn(2, 3))
    assert torch.equal(model.predict_x0(u, 1, condition), model.predict_x0(u, 1, condition))


# ---------------------------------------------------------------------- as a recommender


def test_pretraining_beats_the_untrained_network(data: Dataset) -> None:
    config = PretrainConfig(learning_rate=2e-2, epochs=30, eval_every=10, users_per_batch=200)
    result = Pretrainer(data, small(data), config, device="cpu").learn()
    assert result.best_value > result.history[0]["valid/recall@20"] + 0.05


def test_a_loaded_policy_trains_only_the_denoiser(data: Dataset, tmp_path: Path) -> None:
    policy = DiffusionPolicy(small(data), 3)
    policy.save(tmp_path, data)
    again = DiffusionPolicy.load(tmp_path)
    users = torch.arange(4)
    torch.testing.assert_close(again.scorer(data)(users), policy.scorer(data)(users))
    trained = [name for name, p in again.backbone.named_parameters() if p.requires_grad]
    assert trained and all(name.startswith("denoiser.") for name in trained)


def test_an_episode_depends_only_on_the_visible_row(data: Dataset, tmp_path: Path) -> None:
    backbone = small(data)
    DiffusionPolicy(backbone, 2).save(tmp_path, data)
    kwargs = {"data": data, "backbone": "hdrm", "relevance": "recent", "checkpoint": str(tmp_path)}
    env = gym.make("ReFiT-Custom-v0", num_steps=2, **kwargs)
    observation, info = env.reset(seed=0)
    items = data.train.of(info["user"])
    visible = torch.zeros(1, 40)
    visible[0, items[: len(items) - max(1, round(0.2 * len(items)))]] = 1
    user = torch.tensor([info["user"]])
    np.testing.assert_allclose(
        observation["u"], backbone.initial_state(user, visible)[0].detach(), rtol=1e-4, atol=1e-6
    )
    context = backbone.context(user, visible)
    assert context is not None
    np.testing.assert_allclose(observation["history"], context[0].detach(), rtol=1e-4, atol=1e-6)
    assert env.observation_space.contains(observation)


def test_it_can_be_fine_tuned(data: Dataset, tmp_path: Path) -> None:
    DiffusionPolicy(small(data), 2).save(tmp_path, data)
    policy = DiffusionPolicy.load(tmp_path)
    before = {name: p.clone() for name, p in policy.named_parameters()}
    kwargs = {"data": data, "backbone": "hdrm", "relevance": "recent", "checkpoint": str(tmp_path)}
    config = ReinforceConfig(
        estimator="score", baseline="leave_one_out", iterations=1, users_per_batch=4, samples_per_user=4
    )
    Reinforce(policy, "ReFiT-Custom-v0", config, env_kwargs=kwargs, device="cpu").update(torch.arange(4))
    moved = {name for name, p in policy.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all(".denoiser." in name for name in moved)


def test_refusals_and_published_settings() -> None:
    with pytest.raises(ValueError, match="epsilon must be > 0 and <= 1, found 0"):
        make_backbone("hdrm", 5, {"epsilon": 0})
    last = {name: 1 - published_config("hdrm", name).diffusion().abar[-1] for name in ("ml-1m", "yelp2018")}
    assert last["ml-1m"] == pytest.approx(1e-5, rel=0.01)
    assert published_config("hdrm", "amazon").layers == 2
    assert sized_config("hdrm", "ml-1m", "small").embedding == 64
