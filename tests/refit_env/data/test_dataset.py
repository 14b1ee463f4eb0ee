"""Tests of a data set's text, and of the order of items that were validation items."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from refit_env.data import Dataset, Interactions, load_dataset, synthesize, synthesize_sessions
from refit_env.data.canonical import load_canonical
from refit_env.data.interactions import SPLITS
from refit_env.data.saving import save_dataset


def test_a_data_set_prints_its_counts_and_no_arrays() -> None:
    data = synthesize(num_users=30, num_items=40)
    rows = " / ".join(f"{len(data.split(split))} {split}" for split in SPLITS)
    assert repr(data) == f"Dataset('synthetic', cf, 30 users, 40 items, {rows})"
    assert repr(data.train) == f"Interactions(30 users, 40 items, {len(data.train)} rows)"


def test_rows_print_their_counts_and_no_arrays() -> None:
    rows = synthesize_sessions(num_sessions=20, num_items=30).episodes
    assert repr(rows).startswith(f"RowDataset({rows.name!r}, sequential, {rows.num_users} users")
    assert "array" not in repr(rows)


def shop(times: bool, mixed: bool) -> Dataset:
    """Two users; the first one's items 0..5 are in order of time, items 2 and 4 are for validation."""

    def part(users: list[int], items: list[int]) -> Interactions:
        stamps = np.asarray(items, np.float64) if times else None
        return Interactions.from_pairs(users, items, num_users=2, num_items=9, timestamps=stamps)

    train, valid, test = part([0, 0, 0, 0, 1], [0, 1, 3, 5, 7]), part([0, 0], [2, 4]), part([0, 1], [6, 8])
    return Dataset("shop", "cf", train, valid, test, time_ordered=True, mixed_validation=mixed)


def test_learned_validation_items_are_where_their_times_put_them() -> None:
    for mixed in (False, True):
        data = shop(times=True, mixed=mixed)
        assert data.learning_validation_of(np.array([0, 1])).train.of(0).tolist() == [0, 1, 2, 3, 4, 5]
        assert data.served.train.of(0).tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_without_times_validation_items_are_last_or_evenly_among_the_train_items() -> None:
    for mixed, order in ((False, [0, 1, 3, 5, 2, 4]), (True, [0, 2, 1, 3, 4, 5])):
        data = shop(times=False, mixed=mixed)
        assert data.learning_validation_of(np.array([0, 1])).train.of(0).tolist() == order
        assert data.served.train.of(0).tolist() == [*order, 6]
        assert data.served.train.of(1).tolist() == [7, 8]
        assert data.learning_validation_of(np.array([1])).train.of(0).tolist() == [0, 1, 3, 5]


def test_a_folder_states_whether_its_validation_items_are_mixed(tmp_path: Path) -> None:
    for mixed in (False, True):
        save_dataset(replace(shop(times=False, mixed=mixed), name="gowalla"), tmp_path / str(mixed))
        assert load_canonical(tmp_path / str(mixed)).mixed_validation == mixed
    assert not load_dataset("synthetic").mixed_validation
