"""Tests of the posterior by Bayes' rule, and of respacing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refit_env.diffusion import Diffusion, betas

CHAIN = Diffusion.from_betas(betas("linear", 6, noise_min=0.05, noise_max=0.4, beta_fixed=False))


def test_posterior_is_bayes_rule_in_float64() -> None:
    """q(u_{k-1} | u_k, x0) is the product of two Gaussians in u_{k-1}, computed by precision weighting."""
    x0, u = 0.8, -0.3
    for k in range(1, 6):
        abar_prev, beta = CHAIN.abar[k - 1], CHAIN.betas[k]
        prior_precision = 1 / (1 - abar_prev)
        likelihood_precision = (1 - beta) / beta
        variance = 1 / (prior_precision + likelihood_precision)
        mean = variance * (np.sqrt(abar_prev) * x0 * prior_precision + np.sqrt(1 - beta) / beta * u)
        ours = CHAIN.posterior_mean(
            torch.tensor([[x0]], dtype=torch.float64), torch.tensor([[u]], dtype=torch.float64), k
        )
        assert float(ours) == pytest.approx(mean, rel=1e-12)
        assert CHAIN.posterior_std[k] == pytest.approx(np.sqrt(variance), rel=1e-12)


def test_last_step_returns_the_prediction_itself() -> None:
    x0, u = torch.rand(2, 3), torch.rand(2, 3)
    assert torch.equal(CHAIN.posterior_mean(x0, u, 0), x0)
    assert torch.allclose(CHAIN.posterior_mean(x0, u, torch.zeros(2, dtype=torch.int64)), x0)
    assert CHAIN.posterior_std[0] == 0.0


def test_one_step_for_all_equals_a_step_for_each() -> None:
    x0, u = torch.rand(4, 3), torch.rand(4, 3)
    k = torch.tensor([0, 5, 2, 2])
    rows = [CHAIN.posterior_mean(x0[i : i + 1], u[i : i + 1], int(k[i])) for i in range(4)]
    assert torch.allclose(CHAIN.posterior_mean(x0, u, k), torch.cat(rows))


def test_q_sample_has_the_moments_of_the_forward_process() -> None:
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    u = CHAIN.q_sample(torch.full_like(noise, 0.7), 4, noise)
    assert float(u.mean()) == pytest.approx(0.7 * np.sqrt(CHAIN.abar[4]), abs=0.01)
    assert float(u.std()) == pytest.approx(np.sqrt(1 - CHAIN.abar[4]), abs=0.01)


def test_x0_from_eps_inverts_q_sample() -> None:
    x0, noise = torch.rand(3, 5).double(), torch.randn(3, 5).double()
    for k in range(6):
        assert torch.allclose(CHAIN.x0_from_eps(CHAIN.q_sample(x0, k, noise), noise, k), x0)


@given(st.integers(1, 60), st.data())
def test_respacing_keeps_the_noise_levels_of_its_steps(steps: int, data: st.DataObject) -> None:
    chain = Diffusion.from_betas(betas("linear-var", steps, noise_scale=0.1, noise_min=0.01, noise_max=0.5))
    kept = data.draw(st.integers(1, steps))
    short = chain.respace(kept)
    assert short.num_steps == kept == len(set(short.timesteps.tolist()))
    np.testing.assert_allclose(short.abar, chain.abar[short.timesteps], rtol=1e-12)
    assert short.timesteps[0] == 0 and (kept == 1 or short.timesteps[-1] == steps - 1)


def test_respacing_to_the_same_length_changes_nothing() -> None:
    same = CHAIN.respace(6)
    np.testing.assert_allclose(same.betas, CHAIN.betas, rtol=1e-12)
    assert same.timesteps.tolist() == list(range(6))


def test_respacing_twice_remembers_the_original_steps() -> None:
    assert CHAIN.respace(3).respace(2).timesteps.tolist() == [0, 5]


@pytest.mark.parametrize("steps", [0, 7])
def test_respacing_to_an_impossible_length_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"num_steps={steps} must lie in 1..6"):
        CHAIN.respace(steps)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_steps_are_the_formula_of_song_et_al(eta: float) -> None:
    chain = CHAIN.respace(4).with_eta(eta)
    x0, u = torch.rand(2, 3).double(), torch.randn(2, 3).double()
    for k in range(1, 4):
        abar, before = chain.abar[k], chain.abar_previous[k]
        sigma = eta * np.sqrt((1 - before) / (1 - abar)) * np.sqrt(1 - abar / before)
        eps = (u - np.sqrt(abar) * x0) / np.sqrt(1 - abar)
        wanted = np.sqrt(before) * x0 + np.sqrt(1 - before - sigma**2) * eps
        assert torch.allclose(chain.posterior_mean(x0, u, k), wanted)
        assert chain.posterior_std[k] == pytest.approx(sigma)
    assert torch.equal(chain.posterior_mean(x0, u, 0), x0)


def test_ddim_without_noise_keeps_the_noise_of_a_vector() -> None:
    """With the true x0, the reverse steps from q_sample pass through q_sample of every earlier step."""
    x0, noise = torch.rand(2, 3).double(), torch.randn(2, 3).double()
    chain = CHAIN.with_eta(0.0)
    u = chain.q_sample(x0, 5, noise)
    for k in range(5, 0, -1):
        u = chain.posterior_mean(x0, u, k)
        assert torch.allclose(u, chain.q_sample(x0, k - 1, noise))


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_etas_out_of_range_are_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in 0\.\.1"):
        CHAIN.with_eta(eta)
