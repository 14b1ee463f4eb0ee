"""What holds for every baseline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from agents.baselines import Scorer, baseline, names, names_for
from refit_env.data import Dataset, Interactions

Settings = dict[str, dict[str, Any]]


def fitted(name: str, data: Dataset, settings: Settings, seed: int = 0) -> Scorer:
    kind = baseline(name)
    return kind(kind.config_class(**settings[name])).fit(data, seed)


def accepted_tasks(data: dict[str, Dataset], name: str) -> list[str]:
    """Return the tasks whose small set a baseline accepts."""
    return [task for task in data if name in names_for(data[task])]


@pytest.mark.parametrize("name", names())
def test_scores_are_one_finite_number_an_item(
    name: str, task_data: dict[str, Dataset], small_settings: Settings
) -> None:
    assert accepted_tasks(task_data, name)
    for task in accepted_tasks(task_data, name):
        data = task_data[task].episodes
        scores = fitted(name, task_data[task], small_settings)(torch.tensor([3, 0, 3]))
        assert scores.shape == (3, data.num_items) and scores.dtype == torch.float32, task
        assert scores.isfinite().all() and scores.std(1).gt(0).all(), task
        assert torch.equal(scores[0], scores[2]), task


@pytest.mark.parametrize("name", names())
def test_a_seed_repeats_the_fit_and_another_changes_what_is_random(
    name: str, task_data: dict[str, Dataset], small_settings: Settings
) -> None:
    data = task_data[accepted_tasks(task_data, name)[0]]
    users = torch.arange(5)
    torch.manual_seed(8)
    first = fitted(name, data, small_settings, seed=3)(users)
    torch.manual_seed(9)  # of others: a fit neither reads nor changes their random numbers
    state = torch.get_rng_state()
    again = fitted(name, data, small_settings, seed=3)(users)
    assert torch.equal(torch.get_rng_state(), state)
    other = fitted(name, data, small_settings, seed=4)(users)
    assert torch.equal(first, again)
    assert torch.equal(first, other) != baseline(name).seeded


@pytest.mark.parametrize("name", names())
def test_test_items_are_not_read(name: str, task_data: dict[str, Dataset], small_settings: Settings) -> None:
    data = task_data[accepted_tasks(task_data, name)[0]]
    none = Interactions.from_pairs([], [], data.num_users, data.num_items)
    users = torch.arange(5)
    blind = fitted(name, replace(data, test=none), small_settings)(users)
    assert torch.equal(fitted(name, data, small_settings)(users), blind)
