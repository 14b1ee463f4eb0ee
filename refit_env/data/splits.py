"""Splits of interactions into disjoint train, validation and test parts that together hold every row.

Letters: U users, N interactions, n_u interactions of a user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from refit_env.data.dataset import Dataset
from refit_env.data.interactions import Interactions
from refit_env.data.messages import spelled

Parts = tuple[Interactions, Interactions, Interactions]
"""Train, valid, test."""


def by_time(rows: Interactions, valid_share: float = 0.1, test_share: float = 0.2) -> Parts:
    """Split each user's row by time: the latest items are test, those before them validation.

    Args:
        rows: sorted by time within each user.
        valid_share: share of the row, rounded; at least one item of the row is train.
        test_share: share of the row, rounded.

    Raises:
        ValueError: if the shares are not in 0..1 or leave nothing to train on.
    """
    return _by_place(rows, rows.places, valid_share, test_share)


def random_per_user(
    rows: Interactions, valid_share: float = 0.1, test_share: float = 0.2, seed: int = 0
) -> Parts:
    """Split each user's row at random.

    Args:
        rows: in any order, which each part keeps.
        valid_share: share of the row, rounded; at least one item of the row is train.
        test_share: share of the row, rounded.
        seed: seed of the random order.
    """
    place = rows.shuffled_places(np.random.default_rng(seed))
    return _by_place(rows, place, valid_share, test_share)


def by_quantile(rows: Interactions, valid_from: float = 0.8, test_from: float = 0.9) -> Parts:
    """Split each user's row at two quantiles of its timestamps, as Diff-POI does.

    An event before the first quantile is train, an event at or after the second is test. A quantile is a
    time, not a position in the row, so the shares depend on the distribution of the times; if all times of a
    row are equal, the whole row is test.

    Args:
        rows: with timestamps, sorted by time.
        valid_from: quantile of the times at which validation begins.
        test_from: quantile of the times at which test begins.

    Raises:
        ValueError: if the quantiles do not ascend within 0..1, or the rows have no timestamps.

    Example:
        >>> rows = Interactions.from_pairs([0] * 5, range(5), 1, 5, timestamps=[0, 1, 2, 3, 4])
        >>> [part.items.tolist() for part in by_quantile(rows, 0.5, 0.75)]
        [[0, 1], [2], [3, 4]]
    """
    if not 0 <= valid_from <= test_from <= 1:
        raise ValueError(f"quantiles {valid_from} and {test_from} must ascend within 0..1")
    if rows.timestamps is None:
        raise ValueError("a split by quantiles of time needs timestamps")
    part = np.zeros(len(rows), dtype=np.int64)
    for start, stop in zip(rows.indptr[:-1], rows.indptr[1:], strict=True):
        if stop > start:
            times = rows.timestamps[start:stop]
            first, second = np.quantile(times, [valid_from, test_from])
            part[start:stop] = (times >= first).astype(np.int64) + (times >= second)
    return _parts(rows, part)


def by_session(rows: Interactions, valid_share: float = 0.1, test_share: float = 0.2) -> Parts:
    """Split whole rows: the sessions that begin last are test, those before them validation.

    Without timestamps, sessions are assumed to be numbered in order of time.

    Args:
        rows: one user is one session.
        valid_share: share of the sessions, rounded.
        test_share: share of the sessions, rounded.

    Raises:
        ValueError: if the shares are not in 0..1 or leave nothing to train on.

    Example:
        >>> rows = Interactions.from_pairs([0, 1, 1, 2], [5, 6, 7, 8], 3, 9, timestamps=[9, 1, 2, 5])
        >>> [part.users.tolist() for part in by_session(rows, 1 / 3, 1 / 3)]
        [[1, 1], [2], [0]]
    """
    _check_shares(valid_share, test_share)
    held = np.flatnonzero(rows.counts)
    begin = held if rows.timestamps is None else rows.timestamps[rows.indptr[held]]
    held = held[np.argsort(begin, kind="stable")]
    test, valid = round(test_share * held.size), round(valid_share * held.size)
    split = np.zeros(rows.num_users, dtype=np.int64)  # (U,)
    split[held[held.size - test - valid :]] = 1
    split[held[held.size - test :]] = 2
    return _parts(rows, split[rows.users])


def leave_one_out(rows: Interactions) -> Parts:
    """Split each user's row: the last item is test, the one before it validation, the rest train.

    A row of two items has no validation item; a row of one item is train.
    """
    left = rows.counts[rows.users] - rows.places  # (N,) 1 for the last of a row
    long = rows.counts[rows.users]
    return _parts(rows, np.where((left == 1) & (long >= 2), 2, np.where((left == 2) & (long >= 3), 1, 0)))


def latest_as_validation(dataset: Dataset, share: float = 0.125) -> Dataset:
    """Return a data set whose validation split is the latest part of the train split.

    Where the published validation items are not the ones that follow the train items (in DiffRec's ML-1M the
    test items are), this split chooses settings for the nearest future. The published validation items are
    left out; the test split is unchanged, and so is the published data set, on which a model with the chosen
    settings is trained and tested. ``meta`` states the new split (``valid_share`` of the train items);
    ``meta["derived_from"]`` names the published data set and has its recipe.

    Args:
        dataset: users and their interactions, each row sorted by time.
        share: of each user's train items, rounded; a row keeps at least one train item.

    Raises:
        ValueError: if the rows are not sorted by time, their times are all equal, or the share is not above 0
            and below 1.
    """
    if not dataset.time_ordered:
        raise ValueError(f"the rows of {dataset.name!r} are not sorted by time: none of them is the latest")
    times = dataset.train.timestamps
    if times is not None and times.size and times.min() == times.max():
        raise ValueError(f"the train times of {dataset.name!r} are all equal: none of the rows is the latest")
    if not 0 < share < 1:
        raise ValueError(f"{spelled('valid_share', f'{share:g}', f'{share:g}')} must be above 0 and below 1")
    train, valid, _ = _by_place(dataset.train, dataset.train.places, share, 0.0)
    return replace(
        dataset,
        name=f"{dataset.name}-latest",
        train=train,
        valid=valid,
        meta=_later_meta(dataset, share),
        mixed_validation=False,
        dislikes=_later_dislikes(dataset, valid),
    )


def _later_meta(dataset: Dataset, share: float) -> dict[str, Any]:
    """Return the facts of a data set with the new split; ``derived_from`` keeps the old one."""
    done = dataset.meta.get("preparation") or {}
    recipe = done.get("recipe")
    recipe = dict(recipe) if isinstance(recipe, Mapping) else {}
    by = f"the latest {share:g} of each user's train items as validation"
    before = dataset.meta.get("split")
    origin = {"name": dataset.name, "fingerprint": dataset.fingerprint, "by": by, "recipe": recipe}
    return {
        **dataset.meta,
        "split": f"{by}; test as in {dataset.name}" + (f" ({before})" if before else ""),
        "preparation": {**done, "recipe": {**recipe, "split": "time", "valid_share": share}},
        "derived_from": origin,
    }


def _later_dislikes(dataset: Dataset, valid: Interactions) -> Parts | None:
    """Return the dislikes with the train ones from each user's first item of ``valid`` on as validation.

    The published validation dislikes are left out; without times no train dislike is validation.
    """
    if dataset.dislikes is None:
        return None
    train, _, test = dataset.dislikes
    times = -np.inf if train.timestamps is None else train.timestamps
    late = times >= valid.first_times()[train.users]  # (N,)
    return train.select(~late), train.select(late), test


def _by_place(
    rows: Interactions, place: npt.NDArray[np.int64], valid_share: float, test_share: float
) -> Parts:
    """Split each row by position: train first, then validation, then test."""
    _check_shares(valid_share, test_share)
    counts = rows.counts
    test = np.minimum(np.round(test_share * counts), np.maximum(counts - 1, 0)).astype(np.int64)  # (U,)
    valid = np.minimum(np.round(valid_share * counts), np.maximum(counts - 1 - test, 0)).astype(np.int64)
    train = counts - test - valid
    part = (place >= train[rows.users]).astype(np.int64) + (place >= (train + valid)[rows.users])
    return _parts(rows, part)


def _check_shares(valid_share: float, test_share: float) -> None:
    if not (0 <= valid_share < 1 and 0 <= test_share < 1 and valid_share + test_share < 1):
        shares = {"valid_share": f"{valid_share:g}", "test_share": f"{test_share:g}"}
        found = " and ".join(spelled(name, text, text) for name, text in shares.items())
        raise ValueError(f"{found} must be in 0..1 and leave train rows")


def _parts(rows: Interactions, part: npt.NDArray[np.int64]) -> Parts:
    """Return the interactions of part 0, 1 and 2."""
    return rows.select(part == 0), rows.select(part == 1), rows.select(part == 2)
