"""Tests of the rows that are held apart: which they are, and what is left."""

from __future__ import annotations

import numpy as np
import pytest

from refit_env.backbones.held_rows import APART, held_rows, without_rows
from refit_env.data import Dataset, RowDataset, synthesize_checkins, synthesize_sessions

SETS = {
    "sequential": synthesize_sessions(num_sessions=60, num_items=24),
    "poi": synthesize_checkins(num_users=15, num_items=24, checkins=20),
}


def rows_of(data: Dataset) -> RowDataset:
    rows = data.episodes
    assert isinstance(rows, RowDataset)
    return rows


@pytest.mark.parametrize("task", SETS)
@pytest.mark.parametrize("share", [0.1, 0.25, 0.6])
def test_a_share_of_the_train_rows_is_held_and_no_other_row(task: str, share: float) -> None:
    rows = rows_of(SETS[task])
    held = held_rows(rows, share)
    assert held.any() and not held[rows.rows_of("valid")].any() and not held[rows.rows_of("test")].any()
    assert held.sum() / len(rows.rows_of("train")) == pytest.approx(share, abs=0.12)
    assert np.array_equal(held, held_rows(rows, share))


def test_of_sessions_whole_ones_are_held() -> None:
    rows = rows_of(SETS["sequential"])
    held, train = held_rows(rows, 0.25), rows.rows_of("train")
    assert not set(rows.sessions[held]) & set(rows.sessions[train][~held[train]])


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_of_sessions_as_many_long_ones_are_held_as_of_the_others(share: float) -> None:
    """At equal distances from the longest to the shortest: of each so many, one is held."""
    rows = rows_of(SETS["sequential"])
    train = rows.rows_of("train")
    counts = np.bincount(rows.sessions[train])
    held = np.bincount(rows.sessions[held_rows(rows, share)], minlength=counts.size) > 0
    lengths = np.sort(counts[counts > 0])[::-1]
    group = round(1 / share)
    expected = lengths[group // 2 - (group % 2 == 0) :: group]  # the middle one of each group
    assert np.array_equal(np.sort(counts[held])[::-1], expected)


def test_of_checkins_the_latest_of_each_user_are_held() -> None:
    rows = rows_of(SETS["poi"])
    held, train = held_rows(rows, 0.25), rows.rows_of("train")
    for user in range(SETS["poi"].num_users):
        own = held[train[rows.sessions[train] == user]]  # in order of time
        assert own.sum() == len(own) - np.ceil(0.75 * len(own)) > 0
        assert own[len(own) - own.sum() :].all()


@pytest.mark.parametrize("task", SETS)
def test_no_row_of_the_served_data_is_held(task: str) -> None:
    """They have no target, and a deployed model ranks all of them by the whole fit."""
    assert not held_rows(rows_of(SETS[task].served), 0.9).any()


@pytest.mark.parametrize("task", SETS)
def test_the_rest_has_the_other_train_rows_and_their_targets(task: str) -> None:
    rows = rows_of(SETS[task])
    held = held_rows(rows, 0.25)
    rest = without_rows(rows, held)
    train = rows.rows_of("train")
    assert np.array_equal(rest.rows_of("train"), train[~held[train]])
    assert np.array_equal(np.flatnonzero(rest.split_of == APART), np.flatnonzero(held))
    assert np.array_equal(rest.targets.users, rest.rows_of("train"))
    for row in rest.rows_of("train")[::7]:
        assert rest.targets.of(row).tolist() == rows.targets.of(row).tolist()
    for split in ("valid", "test"):
        assert np.array_equal(rest.rows_of(split), rows.rows_of(split))
