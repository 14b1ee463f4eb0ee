"""Tests of ``Dataset.__repr__``."""

from refit_env.data import synthesize, synthesize_sessions
from refit_env.data.interactions import SPLITS


def test_a_data_set_prints_its_counts_and_no_arrays() -> None:
    data = synthesize(num_users=30, num_items=40)
    rows = " / ".join(f"{len(data.split(split))} {split}" for split in SPLITS)
    assert repr(data) == f"Dataset('synthetic', cf, 30 users, 40 items, {rows})"
    assert repr(data.train) == f"Interactions(30 users, 40 items, {len(data.train)} rows)"


def test_rows_print_their_counts_and_no_arrays() -> None:
    rows = synthesize_sessions(num_sessions=20, num_items=30).episodes
    assert repr(rows).startswith(f"RowDataset({rows.name!r}, sequential, {rows.num_users} users")
    assert "array" not in repr(rows)
