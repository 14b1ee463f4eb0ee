"""The most frequent items of a history, counted by hand."""

from __future__ import annotations

import pytest
import torch

from refit_env.data import Interactions, load_dataset, synthesize_checkins
from refit_env.data.dataset import Dataset
from refit_env.rewards import make_relevance, make_reward
from refit_env.rewards.frequency import PersonalFrequency


def visits(items: list[int]) -> Dataset:
    """One person's, all but the last two to train on."""
    parts = [
        Interactions.from_pairs([0] * len(some), some, 1, 4)
        for some in (items[:-2], items[-2:-1], items[-1:])
    ]
    return Dataset("town", "sequential", *parts, time_ordered=True).episodes


@pytest.mark.parametrize(
    ("decay", "expected"), [(0.0, [2.0, 1.0, 1.0, 0.0]), (1.0, [1 / 2 + 1 / 4, 1 / 3, 1.0, 0.0])]
)
def test_counts_of_the_history(decay: float, expected: list[float]) -> None:
    rows = visits([0, 1, 0, 2, 3, 3])  # rows: > 1, > 0, > 2, then > 3 of validation, after 0 1 0 2
    reward = make_reward(
        "personal_frequency", rows, make_relevance("validation", rows, selection_share=0.0), k=2, decay=decay
    )
    assert isinstance(reward, PersonalFrequency)
    assert reward.predict(torch.tensor([3])).tolist() == [pytest.approx(expected)]


def test_the_reward_of_the_best_list_is_one_and_of_new_places_nothing() -> None:
    rows = visits([0, 1, 0, 2, 3, 3])
    reward = make_reward(
        "personal_frequency", rows, make_relevance("validation", rows, selection_share=0.0), k=2, decay=1.0
    )
    scores = torch.tensor([[0.2, 0.0, 0.9, 0.1], [0.0, 0.0, 0.0, 1.0]])
    earned = reward(scores, torch.tensor([3, 3])).value
    assert earned[0] == pytest.approx(1.0) and 0.0 <= float(earned[1]) < 0.6


def test_a_batch_has_the_rewards_of_its_rows() -> None:
    rows = synthesize_checkins(num_users=15, num_items=24, checkins=20).episodes
    reward = make_reward("personal_frequency", rows, make_relevance("train", rows), decay=0.5)
    users = torch.arange(16)
    scores = torch.rand(16, rows.num_items, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([reward(scores[n : n + 1], users[n : n + 1]).value for n in range(16)])
    assert torch.equal(reward(scores, users).value, alone)
    assert bool((alone >= 0).all()) and bool((alone <= 1 + 1e-6).all()) and float(alone.max()) > 0


@pytest.mark.parametrize("decay", [-0.1, float("inf")])
def test_the_decay_is_checked(decay: float) -> None:
    rows = visits([0, 1, 2, 3])
    with pytest.raises(ValueError, match="decay"):
        make_reward("personal_frequency", rows, make_relevance("train", rows), k=2, decay=decay)


def test_sets_that_hide_what_is_shown_are_refused() -> None:
    data = load_dataset("synthetic")
    with pytest.raises(
        ValueError, match=r"PersonalFrequency .* may not hold those: use it with sequential and check-in"
    ):
        make_reward("personal_frequency", data, make_relevance("train", data))
