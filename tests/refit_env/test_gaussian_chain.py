"""The Gaussian chain against its definition: means, deviations, samples and densities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from refit_env.backbones import make_backbone
from refit_env.gaussian_chain import GaussianChain

CONFIG = {"hidden": (8,), "num_steps": 6, "noise_scale": 0.5, "noise_min": 0.01, "noise_max": 0.5}


def chain(num_steps: int | None = 4, exploration_std: float = 0.05, items: int = 12) -> GaussianChain:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GaussianChain(make_backbone("diffrec", items, CONFIG), num_steps, exploration_std).eval()


def test_std_is_the_posteriors_with_a_floor() -> None:
    schedule = chain().diffusion
    own = chain(exploration_std=0.0)
    assert own.std.tolist() == pytest.approx(
        [*schedule.posterior_std[:0:-1].tolist(), schedule.posterior_std[1]], rel=1e-5
    )
    floored = chain(exploration_std=0.2)
    assert floored.std.tolist() == pytest.approx(np.maximum(own.std.numpy(), 0.2).tolist())


def test_mean_is_the_posterior_mean_of_the_prediction() -> None:
    p = chain()
    u = torch.rand(3, 12)
    for t in range(4):
        k = 3 - t
        x0 = p.backbone.predict_x0(u, int(p.diffusion.timesteps[k]))
        assert torch.allclose(p.mean(u, t), p.diffusion.posterior_mean(x0, u, k), atol=1e-6)
    last = p.backbone.predict_x0(u, 0)
    assert torch.equal(p.mean(u, 3), last)


def test_a_step_for_each_row_equals_one_for_all() -> None:
    p, u = chain(), torch.rand(4, 12)
    t = torch.tensor([3, 0, 2, 2])
    rows = torch.cat([p.mean(u[i : i + 1], int(t[i])) for i in range(4)])
    assert torch.allclose(p.mean(u, t), rows, atol=1e-6)
    assert p.step_std(t).shape == (4, 1)


def test_log_prob_is_the_normals() -> None:
    p, u = chain(), torch.rand(5, 12)
    for t in (0, 3):
        action = p.sample(u, t, generator=torch.Generator().manual_seed(1))
        expected = torch.distributions.Normal(p.mean(u, t), p.std[t]).log_prob(action)
        assert torch.allclose(p.log_prob(action, u, t), expected.sum(1), atol=1e-4)
        assert torch.allclose(p.log_prob(action, u, t, reduction="mean"), expected.mean(1), atol=1e-5)
    both = p.log_prob(action, u, torch.tensor([3, 3, 3, 3, 3]))
    assert torch.allclose(both, p.log_prob(action, u, 3), atol=1e-4)


def test_samples_have_the_mean_and_std_they_should() -> None:
    p = chain(exploration_std=0.3)
    u = torch.rand(1, 12).expand(20_000, -1)
    draws = p.sample(u, 1, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(draws.mean(0), p.mean(u[:1], 1)[0], atol=0.02)
    assert torch.allclose(draws.std(0), p.std[1].expand(12), atol=0.02)


def test_denoise_is_the_chain_of_means_and_draws_nothing() -> None:
    p, u = chain(), torch.rand(2, 12)
    by_hand = u
    for t in range(4):
        by_hand = p.mean(by_hand, t)
    state = torch.random.get_rng_state()
    assert torch.equal(p.denoise(u), by_hand)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_deterministic_step_has_no_density() -> None:
    p = chain(num_steps=1, exploration_std=0.0)
    with pytest.raises(ValueError, match="exploration_std > 0"):
        p.log_prob(torch.rand(1, 12), torch.rand(1, 12), 0)


def test_a_rebuilt_chain_keeps_every_setting_that_is_not_named() -> None:
    """Evaluation, exploration and files have the same chain: no setting falls back to a default."""
    own = {"num_steps": 4, "exploration_std": 0.01, "posterior_share": 0.5, "eta": 0.25}
    first = GaussianChain(chain().backbone, **own).eval()
    assert first.chain == own and not any(own[n] == GaussianChain(first.backbone).chain[n] for n in own)
    same = first.respaced()
    assert same.chain == own and same.backbone is first.backbone and not same.training
    assert torch.equal(same.std, first.std)
    u = torch.rand(2, first.backbone.dim)
    assert torch.equal(same.denoise(u), first.denoise(u))
    assert first.respaced(3).chain == own | {"num_steps": 3}
    assert first.respaced(eta=0.0).chain == own | {"eta": 0.0}
    assert first.chain == own  # the first is left alone
    assert first.double().respaced().std.dtype == torch.float64
    first.set_exploration(0.2)
    assert first.chain == own | {"exploration_std": 0.2}


@pytest.mark.parametrize("steps", [0, 7])
def test_impossible_chains_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"num_steps must lie in 1..6, .* found {steps}"):
        chain(steps)


@pytest.mark.parametrize("u", [torch.zeros(3), torch.zeros(2, 3), np.zeros((2, 12))])
def test_vectors_of_another_size_are_refused(u: Any) -> None:
    with pytest.raises(ValueError, match=r"u must be a tensor \(B, 12\), the current vectors; found a"):
        chain().sample(u, 0)
    with pytest.raises(ValueError, match=r"action has the shape \(2, 3\), u has \(2, 12\)"):
        chain().log_prob(torch.zeros(2, 3), torch.zeros(2, 12), 0)
    step: Any = "first"
    with pytest.raises(ValueError, match=r"t=first must lie in 0\.\.3"):
        chain().mean(torch.zeros(2, 12), step)
    with pytest.raises(ValueError, match="num_steps must be a whole number, found 'x'"):
        chain("x")  # type: ignore[arg-type]


@pytest.mark.parametrize("std", [-0.1, math.nan, math.inf])
def test_impossible_exploration_is_refused(std: float) -> None:
    with pytest.raises(ValueError, match="exploration_std"):
        chain(exploration_std=std)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_chain_is_the_same() -> None:
    p, u = chain(), torch.rand(2, 12)
    expected = p.denoise(u)
    assert torch.allclose(p.cuda().denoise(u.cuda()).cpu(), expected, atol=1e-5)
