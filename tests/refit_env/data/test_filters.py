from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refit_env.data.filters import RawRows, compact_rows, daily_sessions, k_core
from refit_env.errors import DataError

logs = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 5 * 86400)), min_size=1, max_size=25
)


def rows(log: list[tuple[int, int, int]]) -> RawRows:
    users, items, times = (np.array(column) for column in zip(*log, strict=True))
    return RawRows(users, items, times.astype(np.float64), social=np.array([[0, 1]]))


@given(logs, st.sampled_from([0.0, 8.0, -5.5]))
def test_a_session_is_a_day_of_a_user_and_sessions_are_numbered_by_time(
    log: list[tuple[int, int, int]], offset: float
) -> None:
    cut = daily_sessions(rows(log), offset)
    assert cut.timestamps is not None and np.all(np.diff(cut.timestamps) >= 0) and cut.social is None
    days: dict[int, set[tuple[int, int]]] = {}
    order = sorted(range(len(log)), key=lambda n: log[n][2])
    for session, n in zip(cut.users.tolist(), order, strict=True):
        user, _, time = log[n]
        days.setdefault(session, set()).add((user, int((time + 3600 * offset) // 86400)))
    assert all(len(found) == 1 for found in days.values())
    assert len({next(iter(found)) for found in days.values()}) == len(days)
    assert list(dict.fromkeys(cut.users.tolist())) == list(range(len(days)))
    assert cut.items.tolist() == [log[n][1] for n in order]


def test_sessions_need_timestamps() -> None:
    with pytest.raises(DataError, match="session='day' needs timestamps"):
        daily_sessions(RawRows(np.array([0]), np.array([0])))


@given(logs, st.integers(0, 4), st.integers(0, 4))
def test_users_and_items_have_their_own_least_numbers(
    log: list[tuple[int, int, int]], k: int, k_items: int
) -> None:
    core = k_core(rows(log), k, k_items)
    if len(core):
        assert np.unique(core.users, return_counts=True)[1].min() >= k
        assert np.unique(core.items, return_counts=True)[1].min() >= k_items


def test_one_pass_may_leave_users_with_fewer_rows() -> None:
    """User 2 has two rows, one of them with a rare item; after one pass it has one row."""
    log = RawRows(np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 1, 9]))
    assert k_core(log, 2, passes=1).users.tolist() == [0, 0, 1, 1, 2]
    assert k_core(log, 2, passes=2).users.tolist() == [0, 0, 1, 1] == k_core(log, 2).users.tolist()
    with pytest.raises(ValueError, match="k_core=-1"):
        k_core(log, -1)


def test_friends_and_places_are_numbered_like_the_rows() -> None:
    log = RawRows(
        np.array([30, 10, 30]),
        np.array(["x", "z", "x"], dtype=object),
        social=np.array([[10, 30], [10, 30], [30, 30], [30, 99], [98, 99]]),
        item_table={
            "item": np.array(["z", "y", "x"], dtype=object),
            "lat": np.array([1.0, 2.0, 3.0]),
        },
    )
    new, users, items = compact_rows(log)
    assert users.tolist() == [10, 30] and items.tolist() == ["x", "z"] and new.users.tolist() == [1, 0, 1]
    assert new.social is not None and new.social.tolist() == [
        [0, 1]
    ]  # no self-loop, no repeated edge, no user without rows
    assert new.item_table is not None and new.item_table["lat"].tolist() == [3.0, 1.0]
    assert new.item_table["item"].tolist() == [0, 1]


def test_an_item_that_is_missing_from_the_table() -> None:
    log = RawRows(np.array([0, 0]), np.array([5, 7]), item_table={"item": np.array([5])})
    with pytest.raises(DataError, match="item 7 has rows, but is not in the table of items"):
        compact_rows(log)


def test_taking_rows_keeps_social_edges_and_item_features() -> None:
    log = RawRows(np.array([0, 1]), np.array([5, 7]), social=np.array([[0, 1]]), dropped={"a time": 2})
    assert log.take(np.array([True, False])).social is log.social
    assert log.take(np.array([1])).dropped == {"a time": 2}
