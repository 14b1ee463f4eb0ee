"""Properties of filters, splits, saving and loading for any set of interactions."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refit_env.data import Dataset, Interactions, load_dataset, save_dataset
from refit_env.data.filters import RawRows, at_least, compact, compact_rows, k_core, merge_duplicates
from refit_env.data.interactions import SPLITS
from refit_env.data.prepare import prepare
from refit_env.data.recipe import Recipe
from refit_env.data.splits import Parts, by_time, leave_one_out, random_per_user
from refit_env.errors import DataError

shares = st.sampled_from([(0.1, 0.2), (0.0, 0.2), (0.2, 0.0), (0.45, 0.45), (0.05, 0.9), (0.9, 0.05)])


@st.composite
def raw_rows(draw: st.DrawFn, timed: bool | None = None, base: bool = False) -> RawRows:
    """Draw interactions of few users and items, so that repeats and small cores are common.

    With ``base``, two more users have eight items each, so that no split is empty.
    """
    pairs = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), min_size=1, max_size=40))
    pairs += [(user, item) for user in (0, 1) for item in range(8)] if base else []
    users, items = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    columns = []
    for low, high, wanted in ((0, 9, timed), (1, 5, None)):
        some = draw(st.booleans()) if wanted is None else wanted
        values = st.lists(st.integers(low, high), min_size=len(pairs), max_size=len(pairs))
        columns.append(np.array(draw(values), dtype=np.float64) if some else None)
    return RawRows(users, items, *columns)


def grouped(rows: RawRows) -> Interactions:
    return Interactions.from_pairs(rows.users, rows.items, 7, 9, rows.timestamps, rows.ratings)


def as_rows(part: Interactions) -> list[tuple[float, ...]]:
    """Return every interaction with all its values, in order."""
    extra = [column.tolist() for column in (part.timestamps, part.ratings) if column is not None]
    return list(zip(part.users.tolist(), part.items.tolist(), *extra, strict=True))


@given(raw_rows(), st.integers(0, 4))
def test_k_core_is_the_largest_part_with_enough_rows(rows: RawRows, k: int) -> None:
    core = k_core(rows, k)
    for ids in (core.users, core.items):
        assert all(count >= k for count in Counter(ids.tolist()).values())
    # the largest: it contains every set of users and items with enough rows
    left = list(zip(rows.users.tolist(), rows.items.tolist(), strict=True))
    while True:
        users, items = Counter(u for u, _ in left), Counter(i for _, i in left)
        kept = [(u, i) for u, i in left if users[u] >= k and items[i] >= k]
        if kept == left:
            break
        left = kept
    assert list(zip(core.users.tolist(), core.items.tolist(), strict=True)) == left


@given(raw_rows())
def test_merging_keeps_the_earliest_of_each_pair_and_counts_the_rest(rows: RawRows) -> None:
    merged, dropped = merge_duplicates(rows)
    pairs = list(zip(rows.users.tolist(), rows.items.tolist(), strict=True))
    kept = list(zip(merged.users.tolist(), merged.items.tolist(), strict=True))
    assert len(kept) == len(set(kept)) and set(kept) == set(pairs)
    assert dropped == len(pairs) - len(kept)
    if rows.timestamps is not None and merged.timestamps is not None:
        for pair, time in zip(kept, merged.timestamps.tolist(), strict=True):
            assert time == min(t for p, t in zip(pairs, rows.timestamps, strict=True) if p == pair)


@given(raw_rows())
def test_new_ids_are_dense_and_map_back(rows: RawRows) -> None:
    new, users, items = compact_rows(rows)
    assert sorted(set(new.users.tolist())) == list(range(users.size))
    assert np.array_equal(users[new.users], rows.users) and np.array_equal(items[new.items], rows.items)


@given(raw_rows(), st.integers(1, 5))
def test_the_rating_threshold_keeps_exactly_the_rows_above(rows: RawRows, least: int) -> None:
    if rows.ratings is None:
        with pytest.raises(DataError, match="ratings"):
            at_least(rows, least)
    else:
        kept = at_least(rows, least).ratings
        assert kept is not None and kept.tolist() == [r for r in rows.ratings.tolist() if r >= least]


@given(st.lists(st.text(min_size=1), min_size=1))
def test_tokens_are_numbered_in_order(tokens: list[str]) -> None:
    new, known = compact(np.array(tokens, dtype=object))
    assert known.tolist() == sorted(set(tokens))
    assert [known[n] for n in new] == tokens


@given(raw_rows(), shares, st.integers(0, 3))
def test_splits_are_disjoint_and_lose_nothing(rows: RawRows, share: tuple[float, float], seed: int) -> None:
    valid, test = share
    everything = grouped(rows)
    results: list[Parts] = [
        by_time(everything, valid, test),
        random_per_user(everything, valid, test, seed),
        leave_one_out(everything),
    ]
    for parts in results:
        together = Counter(row for part in parts for row in as_rows(part))
        assert together == Counter(as_rows(everything))
        assert np.array_equal(
            parts[0].counts > 0, everything.counts > 0
        )  # every user with rows has train rows
        for part in parts:  # each part keeps the order of the rows
            left = iter(as_rows(everything))
            assert all(row in left for row in as_rows(part))
    for part in (results[0][2], results[1][2]):
        wanted = np.minimum(np.round(test * everything.counts), np.maximum(everything.counts - 1, 0))
        assert np.array_equal(part.counts, wanted)


@given(raw_rows(timed=True), st.sampled_from([0.0, 0.1, 0.45]))
def test_a_split_by_time_puts_earlier_items_first(rows: RawRows, share: float) -> None:
    rows = rows.take(np.lexsort((rows.timestamps, rows.users)))  # type: ignore[arg-type]
    for parts in (by_time(grouped(rows), share, 0.2), leave_one_out(grouped(rows))):
        for user in range(7):
            times = [part.select(part.users == user).timestamps for part in parts]
            joined = np.concatenate([t for t in times if t is not None])
            assert np.all(np.diff(joined) >= 0)


def test_a_random_split_depends_on_the_seed_only() -> None:
    rows = Interactions.from_pairs(np.repeat(np.arange(5), 20), np.tile(np.arange(20), 5), 5, 20)
    once, again, other = (random_per_user(rows, 0.1, 0.2, seed) for seed in (0, 0, 1))
    assert as_rows(once[2]) == as_rows(again[2]) != as_rows(other[2])


@pytest.mark.parametrize("wrong", [(-0.1, 0.2), (0.5, 0.5), (0.1, 1.0), (float("nan"), 0.2)])
def test_impossible_shares_are_refused(wrong: tuple[float, float]) -> None:
    rows = Interactions.from_pairs([0, 0], [0, 1], 1, 2)
    for split in (by_time, random_per_user):
        with pytest.raises(ValueError, match="valid_share"):
            split(rows, *wrong)


@settings(max_examples=60)
@given(raw_rows(base=True), st.sampled_from(["random", "time", "leave-one-out"]), st.sampled_from([0, 2]))
def test_prepare_then_load_is_the_identity(rows: RawRows, split: str, core: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ratings.csv"
        columns = {
            "user": rows.users,
            "item": rows.items,
            "rating": rows.ratings,
            "timestamp": rows.timestamps,
        }
        known = {name: values.tolist() for name, values in columns.items() if values is not None}
        lines = [",".join(known), *(",".join(map(str, row)) for row in zip(*known.values(), strict=True))]
        path.write_text("\n".join(lines))
        recipe = Recipe(
            columns={} if rows.ratings is None else {"rating": "rating"},
            time_unit=None if rows.timestamps is None else "s",
            split=split,
            k_core=core,
            valid_share=0.25,
            test_share=0.25,
            time_ordered=split != "random" or rows.timestamps is not None,
        )
        made = prepare("shop", path, recipe, Path(folder) / "shop")
        assert_equal(load_dataset(Path(folder) / "shop"), made)
        again = save_dataset(load_dataset(Path(folder) / "shop"), Path(folder) / "copy")
        assert_equal(load_dataset(again), made)


def assert_equal(one: Dataset, other: Dataset) -> None:
    """Assert equality of every value and type."""
    for name in ("name", "task", "time_ordered", "num_users", "num_items"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("user_ids", "item_ids"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    for split in SPLITS:
        for name in ("indptr", "items", "timestamps", "ratings"):
            left, right = getattr(one.split(split), name), getattr(other.split(split), name)
            assert (left is None) == (right is None)
            if left is not None:
                assert left.dtype == right.dtype and np.array_equal(left, right)
