"""Tests of DiffRec against values by hand and the published numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from refit_env.backbones import backbone_names, make_backbone, published_config, sized_config
from refit_env.backbones.diffrec import PUBLISHED, DiffRec, DiffRecConfig, time_embedding
from refit_env.backbones.few_values import FEW_FROM
from refit_env.backbones.sampling import HISTORY, StepSampler
from refit_env.policy import DiffusionPolicy

SMALL = DiffRecConfig(hidden=(3,), num_steps=5, embedding=4, noise_scale=0.1, noise_min=0.01, noise_max=0.5)


def rows(count: int = 8, items: int = 7) -> torch.Tensor:
    return (torch.rand(count, items, generator=torch.Generator().manual_seed(0)) < 0.4).float()


def test_size_of_the_published_ml_1m_network() -> None:
    model = make_backbone("diffrec", 2810, published_config("diffrec", "ml-1m"))
    assert sum(p.numel() for p in model.parameters()) == 3_622_320


@pytest.mark.parametrize(
    ("name", "last_noise", "weights"),
    [("yelp", 1.0e-4, (6.9e4, 2.9e3)), ("ml-1m", 3.5e-5, (6.0e3, 533)), ("ml-1m-noisy", 4.5e-3, (9.9e4, 74))],
)
def test_published_schedules_have_the_published_numbers(
    name: str, last_noise: float, weights: tuple[float, float]
) -> None:
    model = DiffRec(4, PUBLISHED[name])
    assert 1 - model.diffusion.abar[-1] == pytest.approx(last_noise, rel=0.02)
    found = model.loss_weights()
    assert (found[1], found[-1]) == (pytest.approx(weights[0], rel=0.02), pytest.approx(weights[1], rel=0.02))
    assert found[0] == 1.0


def test_network_equals_the_formula_in_numpy() -> None:
    """Compute tanh([u | Linear(sinusoid)] W1 + b1) W2 + b2 in NumPy, float64."""
    torch.manual_seed(0)
    model = DiffRec(7, SMALL).double().eval()
    u, k = rows().double(), 3
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    angles = k * np.array([1.0, 10_000.0**-0.5])
    embedded = np.concatenate([np.cos(angles), np.sin(angles)]) @ w["time.weight"].T + w["time.bias"]
    joined = np.concatenate([u.numpy(), np.tile(embedded, (8, 1))], 1)
    hidden = np.tanh(joined @ w["layers.0.weight"].T + w["layers.0.bias"])
    expected = hidden @ w["layers.1.weight"].T + w["layers.1.bias"]
    np.testing.assert_allclose(model.predict_x0(u, k).detach().numpy(), expected, rtol=1e-12)


def test_loss_equals_the_formula_in_numpy() -> None:
    torch.manual_seed(0)
    model = DiffRec(7, SMALL).double().eval()
    x0, noise, k = rows().double(), torch.randn(8, 7).double(), torch.arange(8) % 5
    abar = np.cumprod(1 - model.diffusion.betas)
    u = np.sqrt(abar[k])[:, None] * x0.numpy() + np.sqrt(1 - abar[k])[:, None] * noise.numpy()
    prediction = model.predict_x0(torch.from_numpy(u), k).detach().numpy()
    snr = abar / (1 - abar)
    weight = np.array([1.0 if j == 0 else snr[j - 1] - snr[j] for j in k.tolist()])
    expected = weight * ((x0.numpy() - prediction) ** 2).mean(1)
    found = model.step_losses(model.diffusion.q_sample(x0, k, noise), k, x0, noise)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-12)


def test_eps_network_has_the_weights_of_the_reference() -> None:
    model = DiffRec(7, DiffRecConfig(**{**vars(SMALL), "mean_type": "eps"})).eval()
    chain = model.diffusion
    expected = (1 - chain.abar[2]) / ((1 - chain.abar[1]) ** 2 * (1 - chain.betas[2]))
    assert model.loss_weights()[2] == pytest.approx(expected)
    assert torch.isfinite(model.elbo_loss(rows(), rows(), torch.Generator().manual_seed(0)))


def test_time_embedding_is_cosines_then_sines() -> None:
    out = time_embedding(2, 4, torch.zeros(1))
    assert out.tolist()[0] == pytest.approx(
        [math.cos(2), math.cos(0.02), math.sin(2), math.sin(0.02)], abs=1e-6
    )
    assert time_embedding(2, 5, torch.zeros(1)).shape == (1, 5)


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_shapes_and_one_step_for_all_equals_a_step_for_each(batch: int) -> None:
    model = DiffRec(7, SMALL).eval()
    u = rows(batch)
    assert torch.allclose(model.predict_x0(u, 2), model.predict_x0(u, torch.full((batch,), 2)), atol=1e-6)


def test_dropout_only_in_training_and_every_parameter_learns() -> None:
    model = DiffRec(7, SMALL)
    assert torch.equal(model.eval().predict_x0(rows(), 1), model.predict_x0(rows(), 1))
    assert not torch.equal(model.train().predict_x0(rows(), 1), model.predict_x0(rows(), 1))
    model.elbo_loss(rows(), rows()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_sampler_is_uniform_until_every_step_was_drawn_ten_times() -> None:
    sampler = StepSampler(3)
    sampler.record(torch.tensor([0] * HISTORY + [1] * HISTORY), torch.ones(2 * HISTORY))
    assert torch.allclose(sampler.probabilities(), torch.full((3,), 1 / 3, dtype=torch.float64))


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e300])
def test_sampler_draws_after_losses_that_overflow(loss: float) -> None:
    sampler = StepSampler(2)
    sampler.record(
        torch.tensor([0] * HISTORY + [1] * HISTORY), torch.full((2 * HISTORY,), loss, dtype=torch.float64)
    )
    k, share = sampler.draw(4, torch.Generator().manual_seed(0))
    assert k.shape == (4,) and bool(torch.isfinite(share).all())


def test_sampler_follows_the_root_mean_square_of_the_last_ten_losses() -> None:
    sampler = StepSampler(2)
    sampler.record(
        torch.tensor([0] * 30 + [1] * 12),
        torch.cat([torch.full((20,), 99.0), torch.ones(10), torch.full((12,), 3.0)]),
    )
    expected = 0.999 * np.array([0.25, 0.75]) + 0.001 / 2
    np.testing.assert_allclose(sampler.probabilities().numpy(), expected)
    k, share = sampler.draw(4000, torch.Generator().manual_seed(0))
    assert float((k == 1).float().mean()) == pytest.approx(expected[1], abs=0.03)
    assert torch.allclose(share[k == 1], torch.tensor(float(expected[1] * 2)))


def test_sampler_replaces_its_oldest_losses() -> None:
    whole, pieces = StepSampler(2), StepSampler(2)
    k, losses = torch.arange(40) % 2, torch.arange(40).float()
    whole.record(k, losses)
    for a in range(0, 40, 7):
        pieces.record(k[a : a + 7], losses[a : a + 7])
    assert torch.equal(whole.losses, pieces.losses) and torch.equal(whole.seen, pieces.seen)


def test_registry_helps_with_wrong_names() -> None:
    assert "diffrec" in backbone_names()
    with pytest.raises(ValueError, match="Did you mean 'diffrec'"):
        make_backbone("difrec", 5)
    with pytest.raises(ValueError, match="Did you mean 'hidden'"):
        make_backbone("diffrec", 5, {"hiden": (3,)})
    with pytest.raises(ValueError, match="mean_type must be one of x0, eps; found 'v'"):
        make_backbone("diffrec", 5, {"mean_type": "v"})


def test_the_small_size_is_for_catalogues_like_yelps_alone() -> None:
    small, published = sized_config("diffrec", "yelp2018", "small"), sized_config("diffrec", "yelp2018")
    assert small == replace(published, hidden=(100,))
    assert sized_config("diffrec", "ml-1m", "small") == sized_config("diffrec", "ml-1m")


CHAIN = {"num_steps": 20, "embedding": 4, "noise_scale": 0.1, "noise_min": 0.01, "noise_max": 0.5}


def chains(items: int = 40, **changes: object) -> tuple[DiffusionPolicy, torch.Tensor]:
    """A policy in float64 of four steps whose network has three hidden layers, and 64 histories."""
    torch.manual_seed(0)
    model = DiffRec(items, DiffRecConfig(**{"hidden": (6, 3, 5), **CHAIN, **changes}))  # type: ignore[arg-type]
    return DiffusionPolicy(model, 4).double().eval(), rows(64, items).double()


def step_by_step(policy: DiffusionPolicy, u: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        for t in range(policy.num_steps):
            u = policy.mean(u, t)
    return u


@pytest.mark.parametrize("hidden", [(5,), (6, 5), (6, 3, 5)])
@pytest.mark.parametrize("items", [40, FEW_FROM])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@torch.no_grad()
def test_the_chain_between_hidden_units_is_the_chain(hidden: tuple[int, ...], items: int, eta: float) -> None:
    policy, u = chains(items, hidden=hidden)
    u = u * (torch.rand(u.shape) < 0.1) if items == FEW_FROM else u
    policy = policy.respaced(eta=eta)
    found = policy.backbone.denoise(u, policy.diffusion)
    assert found is not None
    assert torch.allclose(found, step_by_step(policy, u), rtol=0, atol=1e-13)
    assert torch.equal(policy.denoise(u), found)


@torch.no_grad()
def test_the_chain_follows_the_weights_that_a_fused_optimiser_moves() -> None:
    policy, u = chains()
    before = policy.denoise(u)
    optimizer = torch.optim.Adam(policy.parameters(), 0.1, fused=True)
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    after = policy.denoise(u)
    assert not torch.allclose(after, before, atol=1e-3)
    assert torch.allclose(after, step_by_step(policy, u), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", ["few rows", "eps", "normalize", "dropout", "hook", "autocast"])
@torch.no_grad()
def test_the_chain_runs_step_by_step_where_the_hidden_units_do_not_determine_it(case: str) -> None:
    settings: dict[str, dict[str, object]] = {
        "eps": {"mean_type": "eps"},
        "normalize": {"normalize": True},
        "few rows": {"hidden": (50,)},
    }
    policy, u = chains(**settings.get(case, {}))
    model = policy.backbone
    if case == "few rows":
        u = u[:1]
    if case == "dropout":
        model.train()
    if case == "hook":
        model.output_layer.register_forward_hook(lambda layer, given, out: out + 1.0)
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        assert model.denoise(u, policy.diffusion) is None


@torch.no_grad()
def test_weights_that_are_not_trained_keep_the_product_and_training_frees_it() -> None:
    policy, u = chains()
    model = policy.backbone
    assert isinstance(model, DiffRec)
    policy.requires_grad_(False)
    found = model.denoise(u[:1], policy.diffusion)
    assert found is not None and torch.allclose(found, step_by_step(policy, u[:1]), rtol=0, atol=1e-13)
    assert model._joint._kept is not None
    policy.requires_grad_(True)
    with torch.enable_grad():
        model(u, 0)
    assert model._joint._kept is None
