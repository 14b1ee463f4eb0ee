"""Sequential sets as rows: histories and targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refit_env.data import Dataset, Interactions, RowDataset, as_rows, load_dataset, synthesize
from refit_env.data.dataset import next_rows
from refit_env.data.synthetic_checkins import synthesize_checkins
from refit_env.data.synthetic_sessions import synthesize_sessions
from refit_env.errors import DataError
from refit_env.evaluation.ranking import evaluate

ITEMS = 9


def dataset(sessions: list[tuple[list[int], int]], time_ordered: bool = True) -> Dataset:
    """Build a data set from sessions (items, split)."""
    parts = []
    for code in range(3):
        pairs = [(u, i) for u, (items, split) in enumerate(sessions) for i in items if split == code]
        users, items = zip(*pairs, strict=True) if pairs else ((), ())
        parts.append(Interactions.from_pairs(users, items, len(sessions), ITEMS))
    return Dataset("shop", "sequential", *parts, time_ordered=time_ordered)


sessions = st.lists(
    st.tuples(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=7), st.integers(0, 2)), max_size=6
).map(lambda some: [([0, 1], 0), *some])


@settings(max_examples=60, deadline=None)
@given(sessions, st.integers(1, 4), st.booleans())
def test_a_row_is_a_history_and_a_target(
    some: list[tuple[list[int], int]], length: int, keep_empty: bool
) -> None:
    rows = as_rows(dataset(some), length, keep_empty)
    wanted = [
        (split, user, items[max(0, p - length) : p], items[p])
        for user, (items, split) in enumerate(some)
        for p in range(len(items))
        if p > 0 or keep_empty
    ]
    wanted.sort(key=lambda row: row[0])  # train rows first; the order of sessions and positions is kept
    assert rows.num_users == len(wanted)
    for r, (split, user, history, target) in enumerate(wanted):
        assert rows.split_of[r] == split and rows.sessions[r] == user and rows.lengths[r] == len(history)
        assert rows.train.of(r).tolist() == history
        assert rows.history[r].tolist() == history + [ITEMS] * (length - len(history))
        parts = {0: rows.targets, 1: rows.valid, 2: rows.test}
        assert {s: part.of(r).tolist() for s, part in parts.items()} == {
            s: [target] if s == split else [] for s in parts
        }
    for code, name in enumerate(("train", "valid", "test")):
        firsts = sum(split == code for _, split in some)
        assert rows.empty[name] == (0 if keep_empty else firsts)
        assert rows.population(name) == sum(len(items) for items, split in some if split == code)


def test_events_of_a_user_in_several_splits_are_concatenated() -> None:
    train = Interactions.from_pairs([0, 0], [1, 2], 1, ITEMS)
    valid, test = Interactions.from_pairs([0], [3], 1, ITEMS), Interactions.from_pairs([0], [4], 1, ITEMS)
    rows = as_rows(Dataset("shop", "sequential", train, valid, test, time_ordered=True))
    assert [rows.train.of(r).tolist() for r in range(3)] == [[1], [1, 2], [1, 2, 3]]
    assert rows.split_of.tolist() == [0, 1, 2]


def test_episodes_are_rows_where_a_user_has_many_and_users_elsewhere() -> None:
    data = synthesize_sessions()
    assert isinstance(data.episodes, RowDataset)
    assert data.episodes is data.episodes and data.episodes.episodes is data.episodes
    other = synthesize(num_users=20, num_items=30)
    assert other.episodes is other
    rows = data.episodes
    assert rows.groups_of([0, 1, 5]).tolist() == rows.sessions[[0, 1, 5]].tolist()
    assert data.groups_of([0, 1, 5]).tolist() == rows.sessions[[0, 1, 5]].tolist()
    assert other.groups_of([4, 2]).tolist() == [4, 2]


def test_sets_without_order_or_rows_are_refused() -> None:
    with pytest.raises(DataError, match="is not sorted by time"):
        as_rows(dataset([([0, 1], 0)], time_ordered=False))
    with pytest.raises(DataError, match="nothing to train on"):
        as_rows(dataset([([0], 0), ([1, 2], 1)]))
    with pytest.raises(ValueError, match="length=0"):
        as_rows(dataset([([0, 1], 0)]), length=0)


def test_evaluation_is_the_hit_rate_of_every_row_and_masks_nothing() -> None:
    data = dataset([([0, 1], 0), ([3, 3, 5], 2), ([2, 7], 2), ([4], 2)])
    scores = torch.zeros(data.episodes.num_users, ITEMS)
    ranks = {1: {3: 1}, 2: {5: 2}, 3: {7: 9}}  # row -> item -> rank; row 0 is the train row
    for row, item_ranks in ranks.items():
        scores[row] = -torch.arange(ITEMS).float() * 0.01
        for item, rank in item_ranks.items():
            others = [i for i in range(ITEMS) if i != item]
            order = [*others[: rank - 1], item, *others[rank - 1 :]]
            scores[row, order] = torch.arange(ITEMS, 0, -1).float()
    found = evaluate(lambda users: scores[users], data, "test", ks=(1, 2, 5))
    assert found.users.tolist() == [1, 2, 3]  # the row (3) -> 3 counts: repeated items are not masked
    assert found.per_user["recall@1"].tolist() == [1.0, 0.0, 0.0]
    assert found.per_user["recall@2"].tolist() == [1.0, 1.0, 0.0]
    assert found.per_user["ndcg@2"].tolist() == pytest.approx([1.0, 1 / np.log2(3), 0.0])
    assert found.means_over_all()["recall@1"] == pytest.approx(1 / 6)  # three rows have no history


def test_no_row_is_dropped_whatever_the_batch() -> None:
    data = synthesize_sessions(num_sessions=60)
    table = torch.rand(data.episodes.num_users, data.num_items, generator=torch.Generator().manual_seed(0))
    one, other = (
        evaluate(lambda users: table[users], data, "test", batch=batch).per_user for batch in (7, 1000)
    )
    assert len(one["recall@5"]) == len(data.episodes.test) and set(one) == set(other)
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert "recall@50" in one and "ndcg@20" in one


@pytest.mark.parametrize(("name", "empty"), [("zhihu", 1172), ("yoochoose", 2497), ("kuairec", 1808)])
def test_real_rows_are_counted(data_home: Path, name: str, empty: int) -> None:
    rows = load_dataset(name).episodes
    assert isinstance(rows, RowDataset)
    assert rows.empty["test"] == empty  # for Zhihu, the number in DreamRec's own files
    assert len(rows.test) + empty == rows.population("test")


def test_gaps_are_the_seconds_since_the_event_before() -> None:
    def part(items: list[int], times: list[float]) -> Interactions:
        return Interactions.from_pairs([0] * len(items), items, 1, ITEMS, times)

    town = Dataset("town", "poi", part([1, 2, 1], [10, 15, 35]), part([3], [100]), part([4], [101]), True)
    rows = as_rows(town, length=2)
    assert rows.train.items.tolist() == [1, 1, 2, 2, 1, 1, 3]
    assert rows.gaps is not None and rows.gaps.tolist() == [[0, 0], [0, 5], [5, 20], [20, 65]]
    items, gaps = rows.latest(1)
    assert items.ravel().tolist() == [1, 2, 1, 3] and gaps.ravel().tolist() == [0, 5, 20, 65]
    assert rows.latest(2)[0] is rows.history
    with pytest.raises(ValueError, match=r"3 items is not available; rows of 'town' have 1\.\.2"):
        rows.latest(3)


@settings(max_examples=30, deadline=None)
@given(sessions, st.integers(1, 4))
def test_the_latest_items_are_those_of_shorter_rows(some: list[tuple[list[int], int]], length: int) -> None:
    data = dataset(some)
    items, gaps = as_rows(data, 7).latest(length)
    assert np.array_equal(items, as_rows(data, length).history) and not gaps.any()


def test_checkins_are_rows_where_visits_are_sorted_by_time() -> None:
    town = synthesize_checkins(num_users=12)
    rows = town.episodes
    assert isinstance(rows, RowDataset) and rows.history.shape[1] == 50
    assert rows.num_users == 12 * 39 and rows.empty == {"train": 12, "valid": 0, "test": 0}
    assert rows.gaps is not None and rows.gaps.max() <= 24 * 3600
    assert rows.item_features is not None and not rows.masked("test").nnz
    again = rows.test.items[:, None] == rows.history[rows.rows_of("test")]
    assert 0.3 < again.any(1).mean() < 1  # most check-ins are repeats: all places are ranked
    unordered = replace(town, time_ordered=False)
    assert unordered.episodes is unordered  # sets of places
    with pytest.raises(DataError, match="is not sorted by time"):
        as_rows(unordered)


def test_synthetic_users_repeat_places_or_go_to_nearby_ones() -> None:
    town = synthesize_checkins(num_users=30, again=0.0, nearby=3)
    rows, places = town.episodes, town.item_features
    assert isinstance(rows, RowDataset) and places is not None
    where = np.stack([places["lat"], places["lon"]], 1)
    apart = np.square(where[:, None] - where[None]).sum(2)
    last = rows.history[np.arange(rows.num_users), rows.lengths - 1]
    moved = apart[last[rows.rows_of("test")], rows.test.items]
    assert (moved <= np.sort(apart[last[rows.rows_of("test")]], 1)[:, 3]).all()
    assert np.array_equal(synthesize_checkins(seed=3).train.items, synthesize_checkins(seed=3).train.items)
    with pytest.raises(ValueError, match="at least 10"):
        synthesize_checkins(checkins=9)
    with pytest.raises(ValueError, match="nearby=60"):
        synthesize_checkins(nearby=60)


@pytest.mark.parametrize(("name", "users", "rows"), [("nyc", 1083, 146_855), ("tky", 2173, 304_605)])
def test_real_checkins_are_counted(data_home: Path, name: str, users: int, rows: int) -> None:
    data = load_dataset(name)
    assert isinstance(data.episodes, RowDataset) and data.episodes.num_users == rows
    assert data.episodes.empty == {"train": users, "valid": 0, "test": 0}
    assert (data.episodes.gaps is None) == (name == "tky")


def test_sessions_predict_the_next_item() -> None:
    data = synthesize_sessions(num_sessions=400, num_items=30, focus=1.0)
    rows = data.episodes
    assert isinstance(rows, RowDataset)
    last = rows.history[np.arange(rows.num_users), rows.lengths - 1]
    seen = {}
    for item, target in zip(last[rows.rows_of("train")], rows.targets.items, strict=True):
        seen.setdefault(int(item), set()).add(int(target))
    assert max(len(after) for after in seen.values()) <= 3
    with pytest.raises(ValueError, match="at least 20"):
        synthesize_sessions(num_sessions=3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=7), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(0, 3),
    st.booleans(),
)
def test_the_served_row_has_the_history_of_the_next_event(
    histories: list[list[int]], length: int, seed: int, timed: bool
) -> None:
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(len(histories)), [len(items) + 1 for items in histories])
    items = np.concatenate([[*items, 0] for items in histories])  # with the next event
    times = np.sort(rng.integers(0, 10**9, users.size)).astype(np.float64)
    last = np.append(np.diff(users) > 0, True)
    split = np.where(last, 2, rng.integers(0, 3, users.size))
    split[~last] = np.concatenate([np.sort(split[(users == u) & ~last]) for u in range(len(histories))])

    def made(keep: np.ndarray) -> Dataset:
        parts = [
            Interactions.from_pairs(
                users[keep & (split == s)],
                items[keep & (split == s)],
                len(histories),
                ITEMS,
                times[keep & (split == s)] if timed else None,
            )
            for s in range(3)
        ]
        return Dataset("shop", "sequential", *parts, time_ordered=True)

    served = next_rows(made(~last), length)
    everything = Interactions.from_pairs(users, items, len(histories), ITEMS, times if timed else None)
    none = Interactions.from_pairs([], [], len(histories), ITEMS, [] if timed else None)
    later = as_rows(Dataset("shop", "sequential", everything, none, none, time_ordered=True), length)
    for user in range(len(histories)):
        row = int(np.flatnonzero(later.sessions == user)[-1])
        assert served.history[user].tolist() == later.history[row].tolist()
        assert served.lengths[user] == later.lengths[row]
        assert (served.gaps is None) == (later.gaps is None) == (not timed)
        if served.gaps is not None and later.gaps is not None:
            assert served.gaps[user].tolist() == later.gaps[row].tolist()
    with pytest.raises(ValueError, match="cannot be served"):
        _ = served.served
