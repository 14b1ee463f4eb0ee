"""Tests of which users a batch holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.training.config import DRAWN
from agents.training.user_draws import DRAWS, UserDraws
from refit_env.data import Dataset
from refit_env.envs.config import ProblemConfig
from refit_env.envs.problem import DenoisingProblem, make_problem
from refit_env.errors import SettingError


def problem_of(data: Dataset) -> DenoisingProblem:
    return make_problem(ProblemConfig(data, k=5))


def shares(kind: str, problem: DenoisingProblem, size: int, batches: int) -> torch.Tensor:
    """How often each user is drawn, per batch."""
    draws, generator = UserDraws(kind, problem), torch.Generator().manual_seed(0)
    count = torch.zeros(problem.dataset.num_users)
    for _ in range(batches):
        users = draws.batch(size, generator)
        assert torch.unique(users).numel() == users.numel() == size
        count[users] += 1
    assert bool(np.isin(np.flatnonzero(count.numpy()), problem.users).all())
    return count[torch.as_tensor(problem.users)] / batches


def test_settings_name_all_kinds() -> None:
    assert set(DRAWN) == set(DRAWS)


@pytest.mark.parametrize("kind", ["uniform", "bands"])
def test_each_user_is_drawn_alike(small_data: Dataset, kind: str) -> None:
    problem = problem_of(small_data)
    total = len(problem.users)
    found = shares(kind, problem, 4, 200 * total)
    assert torch.allclose(found, torch.full((total,), 4 / total), atol=0.35 * 4 / total)


def test_a_band_has_users_of_neighbouring_activity(small_data: Dataset) -> None:
    problem = problem_of(small_data)
    activity = np.diff(problem.relevance.visible.indptr)
    draws, generator = UserDraws("bands", problem), torch.Generator().manual_seed(1)
    order = np.sort(activity[problem.users])
    for _ in range(20):
        found = np.sort(activity[draws.batch(4, generator).numpy()])
        windows = [np.sort(np.roll(order, -first)[:4]) for first in range(order.size)]
        assert any(np.array_equal(found, window) for window in windows)


def test_activity_and_value_are_proportions(small_data: Dataset) -> None:
    rng = np.random.default_rng(0)
    train = replace(small_data.train, ratings=rng.integers(1, 6, len(small_data.train)).astype(np.float32))
    problem = problem_of(replace(small_data, train=train))
    activity = torch.as_tensor(np.diff(problem.relevance.visible.indptr)[problem.users]).float()
    value = torch.as_tensor(np.bincount(train.users, train.ratings)[problem.users]).float()
    for kind, weight in (("activity", activity), ("value", value)):
        found = shares(kind, problem, 1, 20_000)
        assert torch.allclose(found, weight / weight.sum(), atol=0.02), kind


def test_value_needs_ratings(small_data: Dataset) -> None:
    train = replace(small_data.train, ratings=None)
    with pytest.raises(SettingError, match="draw_users must not be 'value' on"):
        UserDraws("value", problem_of(replace(small_data, train=train)))
