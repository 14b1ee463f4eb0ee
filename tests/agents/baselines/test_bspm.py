from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from agents.baselines.bspm import integrate
from refit_env.data import Dataset
from tests.agents.baselines.conftest import scores_of


def parts(table: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """P, and the low-pass filter (6, 6)."""
    by_item = table.sum(0)
    normal = table / np.sqrt(table.sum(1, keepdims=True)) / np.sqrt(by_item)
    leading = np.linalg.svd(normal)[2][:rank].T
    return normal.T @ normal, leading @ leading.T / np.sqrt(by_item)[:, None] * np.sqrt(by_item)


def test_euler_blurs_and_sharpens_by_one_step(few: Dataset, table: np.ndarray) -> None:
    smooth, low = parts(table, 3)
    blurred = table @ smooth + 0.4 * table @ low
    found = scores_of("bspm", few, rank=3, beta=0.4, sharpening=1.2, solver="euler")
    np.testing.assert_allclose(found, blurred - 1.2 * blurred @ smooth, atol=1e-5)


def test_many_steps_are_the_exponential(few: Dataset, table: np.ndarray) -> None:
    smooth, low = parts(table, 3)
    wanted = (table @ smooth + 0.4 * table @ low) @ scipy.linalg.expm(-2.0 * smooth)
    for solver, steps in (("rk4", 20), ("euler", 20_000)):
        found = scores_of(
            "bspm", few, rank=3, beta=0.4, sharpening=2.0, solver=solver, steps=min(steps, 1000)
        )
        np.testing.assert_allclose(found, wanted, atol=1e-2 if solver == "euler" else 1e-5)


def test_runge_kutta_is_of_fourth_order() -> None:
    errors = [
        abs(float(integrate(lambda s: -s, np.ones((1, 1)), 1.0, steps, "rk4")[0, 0]) - np.exp(-1))
        for steps in (4, 8)
    ]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.2)
