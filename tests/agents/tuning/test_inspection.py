"""How a split is recognised: by times, by what preparation noted, by the table of environments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.tuning.inspection import inspect_data, split_of
from refit_env.data import Dataset, synthesize
from refit_env.data.interactions import Interactions
from refit_env.data.splits import by_time, latest_as_validation, random_per_user


def timed(split: str) -> Dataset:
    """40 users with 20 timed items each, split one way or the other."""
    users, items = np.repeat(np.arange(40), 20), np.tile(np.arange(20), 40)
    rows = Interactions.from_pairs(users, items, 40, 20, timestamps=1e9 + np.arange(800.0))
    parts = by_time(rows) if split == "time" else random_per_user(rows)
    return Dataset("shop", "cf", *parts, time_ordered=True)


def without_times(data: Dataset, **changes: object) -> Dataset:
    parts = {name: replace(data.split(name), timestamps=None) for name in ("train", "valid", "test")}
    return replace(data, **parts, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["time", "random"])
def test_times_decide_whatever_was_noted(split: str) -> None:
    data = replace(timed(split), meta={"preparation": {"recipe": {"split": "random"}}})
    assert split_of(data)[0] == inspect_data(data).split == split


def test_a_user_whose_times_are_all_equal_says_nothing() -> None:
    users, items, times = [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2], [5.0, 5.0, 5.0, 1.0, 2.0, 3.0]
    rows = Interactions.from_pairs(users, items, 2, 3, timestamps=times)
    held = np.array([False, True, False, True, False, False])  # of user 1, the oldest item
    data = Dataset("shop", "cf", rows.select(~held), rows.select(held), rows.select(held), time_ordered=True)
    assert split_of(data)[0] == "random"


@pytest.mark.parametrize(
    "noted, ordered, expected",
    [
        ("time", True, "time"),
        ("leave-one-out", True, "time"),
        ("random", True, "random"),
        ("published", True, "time"),  # assumed: the rows are sorted by time
        (None, False, "random"),  # assumed: no times
    ],
)
def test_without_times_what_was_noted_decides(noted: str | None, ordered: bool, expected: str) -> None:
    meta = {} if noted is None else {"preparation": {"recipe": {"split": noted}}}
    data = without_times(timed("random"), meta=meta, time_ordered=ordered)
    assert split_of(data)[0] == expected


def test_after_a_resplit_the_new_split_is_the_noted_one() -> None:
    data = without_times(timed("random"), meta={"preparation": {"recipe": {"split": "random"}}})
    assert split_of(data)[0] == "random"
    assert split_of(latest_as_validation(data)) == ("time", "as prepared")


def test_the_table_of_environments_knows_published_sets() -> None:
    data = without_times(timed("time"), name="anime")
    assert split_of(data) == ("random", "as ReFiT-Anime-v0 states")
    assert split_of(replace(data, name="ml-1m"))[0] == "time"
    split, why = split_of(replace(data, name="gowalla", mixed_validation=True))
    # Its test items are later than its train items, its validation items are not.
    assert split == "random" and "refit data resplit" in why


def test_facts_in_words() -> None:
    data = synthesize(num_users=60, num_items=50)
    first, second = inspect_data(data).lines()
    assert "60 users, 50 items" in first and f"{len(data.train):,} train interactions" in first
    assert "times are known; split by time" in second
