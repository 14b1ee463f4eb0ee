"""Tests of the splits of Diff-POI and DreamRec; test_properties has the others."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refit_env.data import Dataset, Interactions, synthesize
from refit_env.data.splits import Parts, by_quantile, by_session, latest_as_validation

logs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8), st.integers(0, 50)), min_size=1, max_size=40)


def interactions(log: list[tuple[int, int, int]], timed: bool = True) -> Interactions:
    users, items, times = (
        np.array(column) for column in zip(*sorted(log, key=lambda row: row[2]), strict=True)
    )
    return Interactions.from_pairs(users, items, 6, 9, times if timed else None)


def all_rows(parts: Parts | tuple[Interactions]) -> Counter[tuple[int, int]]:
    return Counter(
        pair for part in parts for pair in zip(part.users.tolist(), part.items.tolist(), strict=True)
    )


@given(logs, st.sampled_from([(0.8, 0.9), (0.5, 0.5), (0.0, 1.0)]))
def test_quantiles_cut_each_users_time(log: list[tuple[int, int, int]], at: tuple[float, float]) -> None:
    rows = interactions(log)
    parts = by_quantile(rows, *at)
    assert all_rows(parts) == all_rows((rows,))
    for user in range(6):
        own = [time for u, _, time in log if u == user]
        if own:
            first, second = np.quantile(own, at)
            found = [part.select(part.users == user).timestamps for part in parts]
            train, valid, test = (times.tolist() if times is not None else [] for times in found)
            assert sorted(train) == sorted(t for t in own if t < first)
            assert sorted(valid) == sorted(t for t in own if first <= t < second)
            assert sorted(test) == sorted(t for t in own if t >= second)


@given(logs, st.sampled_from([(0.1, 0.1), (0.25, 0.25), (0.0, 0.5)]), st.booleans())
def test_whole_sessions_are_split_by_time(
    log: list[tuple[int, int, int]], shares: tuple[float, float], timed: bool
) -> None:
    rows = interactions(log, timed)
    parts = by_session(rows, *shares)
    assert all_rows(parts) == all_rows((rows,))
    owners = [set(part.users.tolist()) for part in parts]
    assert not (owners[0] & owners[1] or owners[0] & owners[2] or owners[1] & owners[2])
    held = len(set(rows.users.tolist()))
    assert [len(owners[2]), len(owners[1])] == [round(shares[1] * held), round(shares[0] * held)]
    begin = {u: min(t for v, _, t in log if v == u) if timed else u for u in set(rows.users.tolist())}
    for earlier, later in ((0, 1), (0, 2), (1, 2)):
        for one in owners[earlier]:
            assert all(begin[one] <= begin[other] for other in owners[later])


def test_impossible_quantiles_and_shares() -> None:
    rows = interactions([(0, 0, 0), (1, 1, 1)])
    for wrong in ((0.9, 0.8), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(ValueError, match="must ascend"):
            by_quantile(rows, *wrong)
    with pytest.raises(ValueError, match="needs timestamps"):
        by_quantile(interactions([(0, 0, 0)], timed=False))
    with pytest.raises(ValueError, match="valid_share"):
        by_session(rows, 0.5, 0.5)


def test_the_latest_train_items_become_the_validation_split() -> None:
    data = synthesize(num_users=30, num_items=40)
    derived = latest_as_validation(data, 0.25)
    for user in range(30):
        row, known = data.train.of(user), derived.train.of(user)
        assert len(row) - len(known) == round(0.25 * len(row))
        assert [*known, *derived.valid.of(user)] == row.tolist()
    assert derived.test is data.test and derived.name == "synthetic-latest"
    assert derived.meta["derived_from"]["fingerprint"] == data.fingerprint != derived.fingerprint


def test_the_record_states_the_new_split_and_keeps_the_old_one() -> None:
    recipe = {"format": "csv", "split": "random", "valid_share": 0.1}
    meta = {"split": "random per user, 7:1:2", "preparation": {"rows": {"read": 9}, "recipe": recipe}}
    derived = latest_as_validation(replace(synthesize(num_users=30, num_items=40), meta=meta), 0.25)
    by = "the latest 0.25 of each user's train items as validation"
    assert derived.meta["split"] == f"{by}; test as in synthetic (random per user, 7:1:2)"
    now = {"format": "csv", "split": "time", "valid_share": 0.25}
    assert derived.meta["preparation"] == {"rows": {"read": 9}, "recipe": now}
    assert derived.meta["derived_from"]["recipe"] == recipe == meta["preparation"]["recipe"]  # type: ignore[index]


@pytest.mark.parametrize("timed", [True, False])
def test_dislikes_of_the_new_validation_time_are_validation(timed: bool) -> None:
    """Two users: the first one's latest train item is of time 40, the second one's of time 4."""
    log = [(0, 0, 10), (0, 1, 20), (0, 2, 30), (0, 3, 40), (1, 4, 1), (1, 5, 2), (1, 6, 3), (1, 7, 4)]
    none, low = interactions([(0, 8, 60)]), [(0, 4, 39), (0, 5, 40), (0, 6, 45), (1, 0, 3), (1, 1, 9)]
    dislikes = interactions(low, timed), interactions([(0, 7, 50)], timed), interactions([(1, 2, 99)], timed)
    data = Dataset("low", "cf", interactions(log), none, none, time_ordered=True, dislikes=dislikes)
    derived = latest_as_validation(data, 0.25)
    assert derived.valid.items.tolist() == [3, 7]
    assert derived.dislikes is not None
    pairs = [sorted(all_rows((part,))) for part in derived.dislikes]
    late = [(0, 5), (0, 6), (1, 1)] if timed else []
    assert pairs == [sorted({(u, i) for u, i, _ in low} - set(late)), late, [(1, 2)]]


def test_a_row_keeps_a_train_item_and_wrong_calls_are_refused() -> None:
    data = synthesize(num_users=30, num_items=40)
    assert latest_as_validation(data, 0.999).train.counts.min() == 1
    train = replace(data.train, timestamps=np.full(len(data.train), 5.0))
    with pytest.raises(ValueError, match="train times of 'synthetic' are all equal"):
        latest_as_validation(replace(data, train=train))
    with pytest.raises(ValueError, match="not sorted by time"):
        latest_as_validation(replace(data, time_ordered=False))
    with pytest.raises(ValueError, match="above 0 and below 1"):
        latest_as_validation(data, 0.0)
