"""Schedules against values computed independently from the published formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from refit_env.diffusion import SCHEDULES, Diffusion, betas


def test_linear_var_has_its_stated_variances() -> None:
    out = betas("linear-var", 40, noise_scale=0.005, noise_min=0.005, noise_max=0.01, beta_fixed=False)
    np.testing.assert_allclose(1 - np.cumprod(1 - out), np.linspace(2.5e-5, 5e-5, 40), rtol=1e-9)


def test_beta_fixed_changes_every_later_abar() -> None:
    """DiffRec on ML-1M: 1 - abar ends at 3.5e-5, not 5e-5 (reference: 1 - abar range 1e-5..3.5e-5)."""
    chain = Diffusion.from_betas(betas("linear-var", 40, noise_scale=0.005, noise_min=0.005, noise_max=0.01))
    assert chain.betas[0] == 1e-5
    assert 1 - chain.abar[-1] == pytest.approx(3.5e-5, rel=1e-4)


def test_linear_is_a_line() -> None:
    np.testing.assert_allclose(
        betas("linear", 5, noise_min=0.1, noise_max=0.5, beta_fixed=False), [0.1, 0.2, 0.3, 0.4, 0.5]
    )


def test_binomial_is_the_formula() -> None:
    np.testing.assert_allclose(betas("binomial", 3, beta_fixed=False), [1 / 4, 1 / 3, 1 / 2])


def test_exp_is_the_formula() -> None:
    at = np.linspace(1, 21, 10)
    assert np.allclose(betas("exp", 10, beta_fixed=False), 1 - np.exp(-0.1 / 10 - at * 0.5 * 9.9 / 100))


def test_cosine_follows_its_abar_until_the_cap() -> None:
    out = betas("cosine", 10, beta_fixed=False)
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    for k in range(9):
        expected = math.cos(((k + 1) / 10 + 0.008) / 1.008 * math.pi / 2) ** 2 / start
        assert np.cumprod(1 - out)[k] == pytest.approx(expected)
    assert out[-1] == 0.999


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 40])
def test_every_schedule_is_strictly_between_0_and_1(kind: str, steps: int) -> None:
    out = betas(kind, steps, noise_min=0.001, noise_max=0.02)
    assert out.shape == (steps,) and out.dtype == np.float64 and ((out > 0) & (out < 1)).all()


def test_wrong_arguments_say_what_would_be_right() -> None:
    with pytest.raises(ValueError, match="Did you mean 'linear-var'"):
        betas("linear_var", 4)
    with pytest.raises(ValueError, match="num_steps=0 must be at least 1"):
        betas("linear", 0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        betas("linear", 4, noise_scale=100.0)
