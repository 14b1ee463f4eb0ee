from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refit_env.data import synthesize
from refit_env.data.known_ids import IDS, KnownIds
from refit_env.errors import CheckpointError, DataError


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    data = synthesize(num_users=20, num_items=24)
    names = ["007", "x", "é", "7", *(f"item {n}" for n in range(20))]
    data = replace(data, item_ids=np.array(names, object))
    KnownIds.of(data).save(tmp_path, data.fingerprint)
    ids = KnownIds.load(tmp_path, 24, data.fingerprint)
    assert ids.items == names
    assert ids.users == [str(n) for n in range(20)]  # it keeps no ids of users: the numbers are the ids
    assert ids.numbers_in(replace(data, item_ids=np.arange(7, 31))).tolist() == [3, *[-1] * 23]


def test_rows_without_ids_of_users_count_no_users() -> None:
    from refit_env.data.dataset import as_rows
    from refit_env.data.synthetic_sessions import synthesize_sessions

    rows = as_rows(synthesize_sessions())
    assert KnownIds.of(rows).users is None
    assert KnownIds.of(rows).changes(rows).startswith("users: not known; items: 0 new")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": ["a", "b", "b"]}, "listed twice"),
        ({"items": ["a", "b"]}, r"2 items of the data 'f+'; the model has 3"),
        ({"data_fingerprint": "other"}, "3 items of the data 'other'"),
        ({"items": [1, 2, 3]}, "items"),
        ({"users": "ann"}, "users"),
    ],
)
def test_a_damaged_file_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    whole = {"data_fingerprint": "f" * 64, "items": ["a", "b", "c"], "users": None}
    (tmp_path / IDS).write_text(json.dumps(whole))
    assert KnownIds.load(tmp_path, 3, "f" * 64).users is None
    (tmp_path / IDS).write_text(json.dumps(whole | change))
    with pytest.raises(CheckpointError, match=message) as failure:
        KnownIds.load(tmp_path, 3, "f" * 64)
    assert str(tmp_path / IDS) in str(failure.value)


def test_data_without_any_known_item_is_refused() -> None:
    data = synthesize(num_users=20, num_items=24)
    with pytest.raises(DataError, match="no item of 'synthetic': the first ids there are '0', '1', '2', the"):
        KnownIds(["a", "b"], None).numbers_in(data)
