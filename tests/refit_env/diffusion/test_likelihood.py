"""Tests of the bounds and the exact log-density against quadrature, Gaussians, and each other."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate

from refit_env.backbones import make_backbone
from refit_env.diffusion.likelihood import exact_log_likelihood, likelihood_bounds
from refit_env.policy import DiffusionPolicy

NOISY = {"num_steps": 3, "noise_scale": 1.0, "noise_min": 0.1, "noise_max": 0.6, "each_step": True}


def linear_policy(num_items: int, std: float = 0.3) -> DiffusionPolicy:
    """A linear chain of three noisy steps, each with weights of its own."""
    backbone = make_backbone("linear", num_items, NOISY)
    generator = torch.Generator().manual_seed(0)
    weight = backbone.get_parameter("weight").data
    weight.copy_(torch.eye(num_items) * 0.8 + 0.1 * torch.randn(weight.shape, generator=generator))
    return DiffusionPolicy(backbone, exploration_std=std).double()


def drawn(
    policy: DiffusionPolicy, start: torch.Tensor, start_std: float, context: torch.Tensor | None = None
) -> torch.Tensor:
    """Clean vectors that the chain itself makes."""
    generator = torch.Generator().manual_seed(3)
    u = start + start_std * torch.randn(start.shape, generator=generator, dtype=start.dtype)
    for t in range(policy.num_steps):
        mean = policy.mean(u, t, context)
        u = mean + policy.std[t] * torch.randn(mean.shape, generator=generator, dtype=start.dtype)
    return u.detach()


def vectors(rows: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    start = torch.rand(rows, size, generator=generator, dtype=torch.float64)
    return start + 0.2 * torch.randn(rows, size, generator=generator, dtype=torch.float64), start


@pytest.mark.parametrize("start_std", [0.0, 0.7])
def test_exact_log_density_is_the_integral_over_the_vectors_between(start_std: float) -> None:
    policy = linear_policy(1).respaced(2)
    x0, start = vectors(1, 1)

    def normal(x: float, mean: float, std: float) -> float:
        return math.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))

    def mean(u: float, t: int) -> float:
        with torch.no_grad():
            return float(policy.mean(torch.tensor([[u]], dtype=torch.float64), t))

    def after(u: float) -> float:
        value, _ = integrate.quad(
            lambda z: (
                normal(z, mean(u, 0), float(policy.std[0]))
                * normal(float(x0), mean(z, 1), float(policy.std[1]))
            ),
            -8,
            8,
            limit=200,
        )
        return float(value)

    density = after(float(start))
    if start_std > 0:
        density, _ = integrate.quad(lambda u: normal(u, float(start), start_std) * after(u), -6, 6)
    exact = exact_log_likelihood(policy, x0, start, start_std=start_std)
    assert float(exact) == pytest.approx(math.log(density), abs=1e-6)


@pytest.mark.parametrize("start_std", [0.0, 0.7])
def test_bounds_are_in_order_and_reach_the_exact_value(start_std: float) -> None:
    policy = linear_policy(4)
    _, start = vectors(5, 4)
    x0 = drawn(policy, start, start_std)
    exact = exact_log_likelihood(policy, x0, start, start_std=start_std)
    generator = torch.Generator().manual_seed(2)
    bounds = likelihood_bounds(policy, x0, start, start_std=start_std, samples=20_000, generator=generator)
    assert torch.all(bounds.elbo < exact)
    assert torch.all(bounds.elbo < bounds.importance)
    assert torch.allclose(bounds.importance, exact, atol=0.2)
    assert torch.all((bounds.effective > 20) & (bounds.effective <= 20_000))


def test_more_samples_make_a_tighter_bound() -> None:
    policy = linear_policy(4)
    x0, start = vectors(300, 4)
    means = [
        float(
            likelihood_bounds(
                policy, x0, start, samples=n, generator=torch.Generator().manual_seed(n)
            ).importance.mean()
        )
        for n in (1, 10, 1000)
    ]
    exact = float(exact_log_likelihood(policy, x0, start).mean())
    assert means[0] < means[1] < means[2] < exact + 0.05
    assert exact - means[2] < 0.1 * (exact - means[0])


def test_one_step_from_a_fixed_start_is_exact() -> None:
    policy = linear_policy(3).respaced(1)
    x0, start = vectors(4, 3)
    bounds = likelihood_bounds(policy, x0, start, samples=2)
    expected = policy.log_prob(x0, start, 0).double()
    assert torch.allclose(bounds.elbo, expected)
    assert torch.allclose(bounds.importance, expected)
    assert torch.allclose(exact_log_likelihood(policy, x0, start), expected)
    assert torch.allclose(bounds.effective, torch.full((4,), 2.0, dtype=torch.float64))


def test_a_condition_shifts_the_mean_alone() -> None:
    """DreamRec with a linear predictor: affine in u, its bias by the history."""
    config = {"num_steps": 6, "embedding": 4, "history": 3, "dropout": 0.0}
    policy = DiffusionPolicy(make_backbone("dreamrec", 7, config), 2, exploration_std=1.0).double().eval()
    context = torch.tensor([[0.0, 1, 2], [4, 5, 7]], dtype=torch.float64)
    _, start = vectors(2, 4)
    x0 = drawn(policy, start, 1.0, context)
    exact = exact_log_likelihood(policy, x0, start, context, start_std=1.0)
    bounds = likelihood_bounds(
        policy,
        x0,
        start,
        context,
        start_std=1.0,
        samples=20_000,
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.allclose(bounds.importance, exact, atol=0.3)
    alone = exact_log_likelihood(policy, x0[:1], start[:1], context[:1], start_std=1.0)
    assert torch.allclose(alone, exact[:1])


def test_chains_without_a_density_and_networks_are_refused() -> None:
    policy = linear_policy(3)
    x0, start = vectors(2, 3)
    with pytest.raises(ValueError, match="step 2 of the chain has no noise"):
        policy.std[2] = 0.0
        likelihood_bounds(policy, x0, start)
    with pytest.raises(ValueError, match=r"samples must lie in 1\.\.100000, found 0"):
        likelihood_bounds(linear_policy(3), x0, start, samples=0)
    with pytest.raises(ValueError, match="start_std must be a finite number >= 0, found -1"):
        exact_log_likelihood(linear_policy(3), x0, start, start_std=-1.0)
    network = DiffusionPolicy(
        make_backbone("diffrec", 3, {"hidden": (8,), "num_steps": 3}), exploration_std=0.1
    )
    with pytest.raises(ValueError, match="not affine in u"):
        exact_log_likelihood(network.double(), x0, start)
