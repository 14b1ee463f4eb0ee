"""Whose rows are, beside records: what is read, when it is not known, and what intervals then draw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.experiments.leaderboard import leaderboard_table, over, ranked
from agents.experiments.leaders import leaders_table
from agents.experiments.pairs import pairs_table
from agents.experiments.per_user import pack, pack_counts
from agents.experiments.provenance import data_of_name
from agents.experiments.records import append_record
from agents.experiments.row_groups import (
    FILE,
    RowGroups,
    has_rows,
    line_key,
    read_row_groups,
    rows_note,
    write_row_groups,
)
from agents.experiments.summary import Runs, summarise
from refit_env.data import load_dataset, save_dataset, synthesize_sessions
from refit_env.errors import DataError
from refit_env.evaluation.ranking import evaluated_users
from refit_env.evaluation.statistics import paired_bootstrap
from refit_env.registration import TABLE

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results"
ENV = "ReFiT-NYC-v0"
SESSIONS, ROWS = 100, 8
IDS = np.repeat(np.arange(SESSIONS), ROWS)
MADE = {"commit": {"id": None, "dirty": None}, "command": "", "versions": {}, "machine": {}}


def record(values: Any, fingerprint: str = "ab", **more: Any) -> dict[str, Any]:
    out = {"key": "k", "env": ENV, "seed": 0, "split": "test", "users": len(values)}
    out |= {"per_user": {"ndcg@20": pack(np.asarray(values, float))}}
    return out | {"provenance": MADE | {"data": {"name": "nyc", "fingerprint": fingerprint}}} | more


def known(*fingerprints: str) -> RowGroups:
    return RowGroups({f"nyc_{name}_test": IDS for name in fingerprints})


def correlated(rng: np.random.Generator, size: float = 0.1) -> Any:
    """Rows (n,) whose values are mostly those of their session, with mean .5."""
    return 0.5 + size * rng.standard_normal(SESSIONS)[IDS] + 0.02 * rng.standard_normal(IDS.size)


def board(before: Any, after: Any, groups: RowGroups) -> Any:
    made = [("ease", record(before)), ("rl", record(after))]
    runs = [Runs(ENV, "m" * (name == "rl"), name, name, "", (one,)) for name, one in made]
    runs = [replace(one, row_groups=groups.of(one.records)) for one in runs]
    level = [{"mean": one, "low": None, "high": None} for one in (0.1, 0.2)]
    entry = {"title": "", "budget": [], "device": "cpu", "seconds": 1.0, "slices": {}, "env": ENV}
    entries = [entry | {"model": r.model, "test": {"ndcg@20": x}} for r, x in zip(runs, level, strict=True)]
    return ranked(runs, entries, "test")


def test_intervals_of_a_board_draw_whole_sessions_and_cover_what_they_state() -> None:
    rng = np.random.default_rng(0)
    covered = {True: 0, False: 0}
    for _ in range(200):
        after = correlated(rng)
        for whole in covered:
            paired = over(rows := board(np.full(IDS.size, 0.5), after, known(*["ab"] * whole)), rows[1])
            found = paired.found[0]
            assert found is not None and paired.together == whole
            covered[whole] += found.low <= 0 <= found.high
    assert covered[True] >= 178 and covered[False] <= 120  # of 200; 190, standard error 3, are nominal
    rows = board(np.full(IDS.size, 0.5), after, known("ab"))
    whole, alone = over(rows, rows[1]).found[0], over(board(np.full(IDS.size, 0.5), after, known()), rows[1])
    assert whole is not None and whole.high - whole.low > 2 * (alone.found[0].high - alone.found[0].low)


def test_tables_state_how_they_draw_rows() -> None:
    after = correlated(np.random.default_rng(1))
    whole, alone = (board(np.full(IDS.size, 0.5), after, known(*names)) for names in (["ab"], ["other"]))
    for rows, text in (
        (whole, "draw whole users or sessions"),
        (alone, "of NYC draw each row alone and are too"),
    ):
        assert text in leaderboard_table("Best", "model", (), rows).note
        assert text in leaders_table("Leaders", [rows]).note
        runs = [replace(row.runs, model="m") for row in rows]
        table = pairs_table("Pairs", "start", [("rl", "ease")], runs)
        assert table is not None and text in table.note
    cells = [leaderboard_table("Best", "model", (), rows).rows[1][-1] for rows in (whole, alone)]
    assert cells[0].partition(" ")[0] == cells[1].partition(" ")[0] and cells[0] != cells[1]
    assert rows_note({"ReFiT-ML1M-v0": [False], ENV: []}) == ""


def test_an_older_interval_over_rows_is_worked_out_again() -> None:
    means = dict.fromkeys(("recall@10", "recall@20", "ndcg@10", "ndcg@20"), 0.5)
    facts = {
        "test": means,
        "cost": {"training_seconds": 1.0, "validation_seconds": 0.0, "peak_memory_mib": 1.0},
    }
    old = {"ndcg@20": {"mean_difference": 0.0, "low": 0.5, "high": 0.6}}
    before, after = np.full(IDS.size, 0.5), correlated(np.random.default_rng(2))
    start, tuned = record(before, **facts), record(after, over_parent=old, **facts)
    without = {name: value for name, value in tuned.items() if name != "per_user"}

    def over_users(one: dict[str, Any], groups: RowGroups) -> Any:
        runs = [Runs(ENV, "m", "a", "a", "", (start,)), Runs(ENV, "m", "b", "b", "a", (one,))]
        runs = [replace(made, row_groups=groups.of(made.records)) for made in runs]
        return summarise(runs)[1]["over_users"][0]

    found = over_users(tuned, known("ab"))
    expected = paired_bootstrap(before, after, groups=IDS)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=2e-5)
    assert found["groups"] == SESSIONS
    for one, groups in ((tuned, known()), (without, known("ab")), (tuned, known("other"))):
        assert over_users(one, groups) == old["ndcg@20"]


def test_whose_rows_are_is_known_of_the_same_data_and_number_of_rows() -> None:
    groups, values = known("ab", "cd"), np.zeros(IDS.size)
    assert groups.of([record(values), record(values)]) is IDS
    assert groups.of([record(values), record(values, "ef", per_user={})]) is IDS  # it has no interval
    for others in (
        [record(values), record(values, "cd")],  # of two data sets
        [record(values, "ef")],
        [record(values[:-1])],
        [record(values, split="valid")],
        [record(values, provenance=None)],
        [record(values, per_user={})],
        [],
    ):
        assert groups.of(others) is None


def test_a_file_that_is_damaged_is_named(tmp_path: Path) -> None:
    assert read_row_groups(tmp_path).ids == {}
    append_record(tmp_path / FILE, {"key": "nyc_ab_test", "lengths": pack_counts([2, 1])})
    assert read_row_groups(tmp_path).ids["nyc_ab_test"].tolist() == [0, 0, 1]
    append_record(tmp_path / FILE, {"key": "nyc_cd_test", "lengths": "?"})
    with pytest.raises(DataError, match=rf"{FILE}: nyc_cd_test: lengths: no packed values"):
        read_row_groups(tmp_path)


@pytest.fixture
def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data home whose ``zhihu`` is synthetic."""
    save_dataset(
        replace(synthesize_sessions(num_sessions=200, num_items=30), name="zhihu"), tmp_path / "zhihu"
    )
    monkeypatch.setenv("REFIT_DATA_HOME", str(tmp_path))
    data_of_name.cache_clear()
    yield tmp_path
    data_of_name.cache_clear()


def test_lines_are_written_once_of_the_data_that_is_here(sessions: Path, tmp_path: Path) -> None:
    data = load_dataset("zhihu")
    users = evaluated_users(data, "test")
    own = {"name": "zhihu", "fingerprint": data.fingerprint}
    here = record(np.zeros(len(users)), env="ReFiT-Zhihu-v0", provenance=MADE | {"data": own})
    other = {"provenance": MADE | {"data": own | {"fingerprint": "ab"}}}
    cf = record(
        np.zeros(3), env="ReFiT-Synthetic-v0", provenance=MADE | {"data": own | {"name": "synthetic"}}
    )
    for _ in range(2):
        write_row_groups(tmp_path, [here, here | other, here | {"provenance": None}, cf, record([0.0])])
    assert len((tmp_path / FILE).read_text().splitlines()) == 1
    ids = read_row_groups(tmp_path).of([here])
    groups = data.groups_of(users)
    assert ids is not None and len(np.unique(ids)) == len(np.unique(groups)) < len(users)
    assert np.array_equal(np.diff(ids) == 0, np.diff(groups) == 0)


def test_the_published_lines_are_those_of_the_data(data_home: Path) -> None:
    published = read_row_groups(RESULTS).ids
    names = [row.dataset for row in TABLE if has_rows(row.env_id) and row.dataset]
    assert [name for name in names if any(key.startswith(f"{name}_") for key in published)] == names
    for name in names:
        data = data_of_name(name)
        assert data is not None
        ids = published[line_key(data, "test")]
        dataset = load_dataset(name)
        groups = dataset.groups_of(evaluated_users(dataset, "test"))
        assert dataset.has_rows and np.array_equal(np.unique(groups, return_inverse=True)[1], ids)
