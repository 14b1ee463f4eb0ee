"""Tests of RecDiff's and DreamRec's pickles, as old and new libraries write them."""

from __future__ import annotations

import pickle
import tempfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from refit_env.data.prepare import prepare
from refit_env.data.readers.formats import guess_format, read_rows
from refit_env.data.recipe import Recipe
from refit_env.errors import DataError

PAD, SIZE = 30, 4
Sessions = list[list[int]]


class Named:
    """A function or class that a pickle names, whether it is installed or not."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self) -> None:
        """Pickle needs a callable."""


class Made:
    """An object that a pickle creates by calling ``what`` and setting the state."""

    def __init__(self, what: Named, arguments: tuple[Any, ...], state: Any = None) -> None:
        self.recipe = (what, arguments) if state is None else (what, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.recipe


class OldPickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Pickles ``Named`` as its name."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Named):
            self.write(b"c" + obj.module.encode() + b"\n" + obj.name.encode() + b"\n")
        else:
            super().save(obj, save_persistent_id)


def old_frame(columns: dict[str, Any]) -> bytes:
    """Build a data frame as pandas 1.1 on Python 3.6 pickled it: the manager's state, in protocol 4."""
    blocks = [
        {"values": np.array([values]) if name != "seq" else row_of(values), "mgr_locs": slice(n, n + 1, 1)}
        for n, (name, values) in enumerate(columns.items())
    ]
    index = Named("pandas.core.indexes.base", "_new_Index")
    labels = {"data": np.array(list(columns), dtype=object), "name": None}
    names = Made(index, (Named("pandas.core.indexes.base", "Index"), labels))
    length = {"name": None, "start": 0, "stop": len(columns["next"]), "step": 1}
    rows = Made(index, (Named("pandas.core.indexes.range", "RangeIndex"), length))
    axes = [names, rows]
    state = (axes, [b["values"] for b in blocks], [names], {"0.14.1": {"axes": axes, "blocks": blocks}})
    manager = Made(Named("pandas.core.internals.managers", "BlockManager"), (), state)
    frame = Made(
        Named("pandas.core.frame", "DataFrame"), (), {"_data": manager, "_typ": "dataframe", "_metadata": []}
    )
    buffer = BytesIO()
    OldPickler(buffer, 4).dump(frame)
    return buffer.getvalue()


def row_of(values: list[Any]) -> Any:
    """(1, N) objects."""
    out = np.empty((1, len(values)), dtype=object)
    for n, value in enumerate(values):
        out[0, n] = value
    return out


def new_frame(columns: dict[str, Any]) -> bytes:
    """Pickle a data frame with the installed pandas, with labels that are not Arrow text."""
    frame = pd.DataFrame({n: columns[name] for n, name in enumerate(columns)})
    frame.columns = pd.Index(list(columns), dtype=object)
    return pickle.dumps(frame, 4)


def table(sessions: Sessions, kind: type = float) -> dict[str, Any]:
    """Return the rows that DreamRec's script writes for sessions."""
    seq, lengths, targets = [], [], []
    for session in sessions:
        for n, target in enumerate(session):
            history = [kind(item) for item in session[max(0, n - SIZE) : n]]
            seq.append(history + [PAD] * (SIZE - len(history)))
            lengths.append(max(1, len(history)))
            targets.append(kind(target))
    return {"seq": seq, "len_seq": lengths, "next": targets}


SESSIONS: Sessions = [[1, 2, 3, 4, 5, 6, 7], [3, 3, 3], [29, 0]]
WRITERS = {"old": old_frame, "new": new_frame}


def put(folder: Path, write: Callable[[dict[str, Any]], bytes] = new_frame, **tables: Any) -> Path:
    """Write the three files, by default with sessions 0, 0..1 and 0..2."""
    for n, name in enumerate(("train", "val", "test")):
        content = tables.get(name, table(SESSIONS[: n + 1]))
        (folder / f"{name}_data.df").write_bytes(content if isinstance(content, bytes) else write(content))
    return folder


@pytest.mark.parametrize("form", sorted(WRITERS))
@pytest.mark.parametrize("kind", [int, float])
def test_dreamrecs_rows_are_joined_to_sessions(form: str, kind: type, tmp_path: Path) -> None:
    tables = {name: table(SESSIONS, kind) for name in ("train", "val", "test")}
    rows = read_rows(put(tmp_path, WRITERS[form], **tables), "dreamrec")
    assert guess_format(tmp_path) == "dreamrec"
    assert rows.items.tolist() == [item for session in SESSIONS for item in session] * 3
    lengths = [len(session) for session in SESSIONS] * 3
    assert rows.users.tolist() == np.repeat(np.arange(9), lengths).tolist()
    assert rows.split is not None and rows.split.tolist() == np.repeat([0, 1, 2], 12).tolist()
    assert rows.shape == (9, PAD)


def test_the_statistics_state_the_number_of_items(tmp_path: Path) -> None:
    folder = put(tmp_path)
    (folder / "data_statis.df").write_bytes(new_frame({"seq_size": [SIZE], "item_num": [PAD]}))
    assert read_rows(folder, "dreamrec").shape == (6, PAD)
    (folder / "data_statis.df").write_bytes(new_frame({"seq_size": [SIZE], "item_num": [PAD + 1]}))
    with pytest.raises(DataError, match=r"train_data\.df row 0: the history differs from the items"):
        read_rows(folder, "dreamrec")
    (folder / "data_statis.df").write_bytes(new_frame({"seq_size": [SIZE]}))
    with pytest.raises(DataError, match=r"data_statis\.df: expected one row with 'item_num', found seq_size"):
        read_rows(folder, "dreamrec")


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in table(SESSIONS).items() if key != name}


def changed(name: str, row: int, value: Any) -> dict[str, Any]:
    out = table(SESSIONS)
    out[name][row] = value
    return out


BAD = [
    (without("next"), "no column 'next'; it has seq, len_seq"),
    (without("seq"), "no column 'seq'"),
    (changed("next", 3, 4.5), r"next 4\.5 \(value 3\) is not a whole number"),
    (changed("next", 3, float("nan")), r"next nan \(value 3\)"),
    (changed("next", 11, PAD), rf"row 11: next is {PAD}, items must be below the pad item {PAD}"),
    (changed("next", 3, 9.0), "row 4: the history differs from the items"),
    (
        changed("seq", 5, [1.0, 2.0, 3.0, 4.0]),
        "row 5: the history differs from the items",
    ),
    (
        changed("seq", 0, [1.0, PAD, PAD, PAD]),
        "row 0: the history differs from the items",
    ),
    (changed("seq", 5, [1.0]), "should be lists of one length"),
    (changed("seq", 5, "1"), "should be lists of one length"),
    (changed("seq", 5, [1.0, 2.0, "x", 4.0]), "'seq' should hold numbers"),
    ({"seq": [], "len_seq": [], "next": []}, "should be lists of one length|found 0"),
    (new_frame(table(SESSIONS))[:-30], "not a whole pickle"),
    (pickle.dumps({"seq": []}), "not a table as published by DreamRec"),
    (b"seq,len_seq,next\n", "not a whole pickle"),
    (b"", "not a whole pickle"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_bad_tables_are_named_with_row_and_rule(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_rows(put(tmp_path, val=content), "dreamrec")
    assert "val_data.df" in str(caught.value)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    (put(tmp_path) / "val_data.df").unlink()
    with pytest.raises(DataError, match=r"no val_data\.df or Val_data\.df; the folder holds test_data\.df"):
        read_rows(tmp_path, "dreamrec")
    (tmp_path / "Val_data.df").write_bytes(new_frame(table(SESSIONS)))
    assert len(read_rows(tmp_path, "dreamrec")) == 7 + 12 + 12


sessions = st.lists(st.lists(st.integers(0, PAD - 1), min_size=1, max_size=9), min_size=1, max_size=4)


@settings(max_examples=40)
@given(sessions, sessions, sessions, st.sampled_from(sorted(WRITERS)))
def test_sessions_are_read_as_written(train: Sessions, val: Sessions, test: Sessions, form: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        put(Path(folder), WRITERS[form], train=table(train), val=table(val), test=table(test))
        rows = read_rows(folder, "dreamrec")
    found: Sessions = [[] for _ in range(int(rows.users.max()) + 1)]
    for user, item in zip(rows.users.tolist(), rows.items.tolist(), strict=True):
        found[user].append(item)
    assert found == train + val + test


class Trap:
    """Records whether it was unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Trap, "sprung", True))


def matrix(pairs: list[tuple[int, int]], shape: tuple[int, int] = (4, 6), dtype: Any = np.float64) -> Any:
    rows, columns = (list(column) for column in zip(*pairs, strict=True)) if pairs else ([], [])
    return sp.coo_matrix((np.ones(len(pairs), dtype=dtype), (rows, columns)), shape=shape)


def stored(**changes: Any) -> dict[str, Any]:
    """Return RecDiff's dictionary."""
    return {
        "train": matrix([(0, 1), (1, 2), (2, 5), (3, 0)]),
        "val": matrix([(0, 2), (3, 3)], dtype=np.int64),
        "test": matrix([(1, 0)], dtype=np.float32),
        "category": matrix([(0, 0)], (6, 2)),
        "trust": matrix([(0, 3), (3, 0), (2, 2), (1, 3)], (4, 4)),
        "userCount": 4,
        "itemCount": 6,
        "categoryCount": 2,
    } | changes


def old_scipy(value: Any) -> Any:
    """Return a matrix as SciPy 1.7 pickled it: row and col in the state of ``coo_matrix``."""
    if not isinstance(value, sp.coo_matrix):
        return value
    state = {
        "_shape": value.shape,
        "maxprint": 50,
        "row": value.row,
        "col": value.col,
        "data": value.data,
        "has_canonical_format": False,
    }
    return Made(Named("scipy.sparse.coo", "coo_matrix"), (), state)


def dump(value: Any, form: str = "new") -> bytes:
    if form == "new":
        return pickle.dumps(value, 4)
    buffer = BytesIO()
    OldPickler(buffer, 4).dump({key: old_scipy(item) for key, item in value.items()})
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["old", "new"])
@pytest.mark.parametrize("packed", [True, False])
def test_recdiffs_matrices_and_trust(form: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / ("dataset.pkl.zip" if packed else "dataset.pkl")
    if packed:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("ciao/dataset.pkl", dump(stored(), form))
            archive.writestr("__MACOSX/ciao/._dataset.pkl", b"Mac OS X")
    else:
        path.write_bytes(dump(stored(), form))
    assert guess_format(tmp_path) == guess_format(path) == "recdiff"
    rows = read_rows(tmp_path, "recdiff")
    assert rows.users.tolist() == [0, 1, 2, 3, 0, 3, 1] and rows.items.tolist() == [1, 2, 5, 0, 2, 3, 0]
    assert rows.split is not None and rows.split.tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert rows.social is not None and rows.social.tolist() == [[0, 3], [1, 3], [3, 0]]  # no loops
    assert rows.shape == (4, 6)


def holes() -> Any:
    """Return a matrix with a stored zero, which is not an interaction."""
    values = matrix([(0, 1), (1, 2), (2, 5), (3, 0)])
    values.data[1] = 0.0
    return values


def test_a_stored_zero_is_not_an_interaction(tmp_path: Path) -> None:
    (tmp_path / "dataset.pkl").write_bytes(dump(stored(train=holes())))
    assert read_rows(tmp_path, "recdiff").users.tolist() == [0, 2, 3, 0, 3, 1]


def broken(**state: Any) -> Any:
    return Made(Named("scipy.sparse.coo", "coo_matrix"), (), old_scipy(matrix([(0, 1)])).recipe[2] | state)


BAD_MATRICES: list[tuple[Any, str]] = [
    ([1, 2], "expected a dictionary of matrices, found list"),
    (stored(userCount=4.5), r"'userCount' and 'itemCount' should be whole numbers, found 4\.5 and 6"),
    (stored(itemCount=None), r"should be whole numbers"),
    (stored(val=None), "'val' should be a matrix in coordinate form"),
    (stored(test=matrix([(0, 0)], (4, 7))), r"'test' is of shape \(4, 7\), expected \(4, 6\)"),
    (stored(trust=matrix([(0, 0)], (4, 6))), r"'trust' is of shape \(4, 6\), expected \(4, 4\)"),
    (stored(train=broken(col=np.array([6]))), "'train' has a value outside its shape"),
    (stored(train=broken(row=np.array([-1]))), "'train' has a value outside its shape"),
    (stored(train=broken(row=np.array([0, 1]))), "rows, columns and values of 'train' differ in number"),
    (stored(train=broken(row=[0])), "'train' should hold numbers"),
    (stored(train=broken(row=np.array(["a"], dtype=object))), "'train' should hold numbers"),
]


@pytest.mark.parametrize(("value", "message"), BAD_MATRICES)
def test_bad_matrices_are_named_with_the_rule(value: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "dataset.pkl"
    path.write_bytes(dump(value, "old") if isinstance(value, dict) else dump(value))
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path, "recdiff")
    assert "dataset.pkl" in str(caught.value)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dataset.pkl.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/dataset.pkl", dump(stored()))
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(DataError, match=r"dataset\.pkl\.zip: not a whole zip archive"):
        read_rows(path, "recdiff")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", b"hello")
    with pytest.raises(DataError, match=r"expected one dataset\.pkl in the archive, found 0"):
        read_rows(path, "recdiff")
    (tmp_path / "dataset.pkl.zip").unlink()
    with pytest.raises(DataError, match=r"no dataset\.pkl or dataset\.pkl\.zip"):
        read_rows(tmp_path, "recdiff")


def test_a_malicious_file_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    (tmp_path / "dataset.pkl").write_bytes(pickle.dumps(stored(extra=Trap())))
    with pytest.raises(DataError, match=r"dataset\.pkl: this pickle uses builtins\.setattr.*nothing was run"):
        read_rows(tmp_path, "recdiff")
    put(tmp_path, train=pickle.dumps(Trap()))
    with pytest.raises(DataError, match=r"train_data\.df: this pickle uses builtins\.setattr"):
        read_rows(tmp_path, "dreamrec")
    put(tmp_path)
    (tmp_path / "data_statis.df").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=r"data_statis\.df: this pickle uses builtins\.setattr"):
        read_rows(tmp_path, "dreamrec")
    assert not Trap.sprung


pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), unique=True)


@settings(max_examples=40)
@given(
    pairs,
    pairs,
    pairs,
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3))),
    st.sampled_from(["old", "new"]),
)
def test_matrices_are_read_as_written(train: Any, val: Any, test: Any, trust: Any, form: str) -> None:
    value = stored(train=matrix(train), val=matrix(val), test=matrix(test), trust=matrix(trust, (4, 4)))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "dataset.pkl").write_bytes(dump(value, form))
        rows = read_rows(folder, "recdiff")
    assert list(zip(rows.users.tolist(), rows.items.tolist(), strict=True)) == train + val + test
    assert rows.social is not None
    assert [tuple(edge) for edge in rows.social.tolist()] == sorted({(a, b) for a, b in trust if a != b})


def nested(depth: int = 40) -> list[Any]:
    """Return nested lists of two references each: printing them needs 2 ** depth steps."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value, value]
    return value


@pytest.mark.parametrize("name", ["userCount", "itemCount", "train", "trust"])
def test_found_values_are_shortened_in_messages(name: str, tmp_path: Path) -> None:
    path = tmp_path / "dataset.pkl"
    for value in (nested(), "x" * 10**6, 10**5000, [1] * 10**6):
        path.write_bytes(dump(stored(**{name: value})))
        with pytest.raises(DataError, match=r"dataset\.pkl: ") as caught:
            read_rows(path, "recdiff")
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("values", [["12", "1_0"], [nested(5), 3], [10**5000, 1], [None, 2.0]])
def test_items_are_numbers(values: list[Any], tmp_path: Path) -> None:
    bad = {"seq": [[PAD] * SIZE, [1] + [PAD] * (SIZE - 1)], "len_seq": [1, 1], "next": row_of(values)[0]}
    with pytest.raises(DataError, match=r"'next' should hold numbers"):
        read_rows(put(tmp_path, old_frame, train=bad), "dreamrec")
    inside = {"seq": [[value, PAD, PAD, PAD] for value in values], "len_seq": [1, 1], "next": [1, 2]}
    with pytest.raises(DataError, match=r"'seq' should hold numbers"):
        read_rows(put(tmp_path, old_frame, train=inside), "dreamrec")


def test_one_history_shared_by_many_rows_is_refused(tmp_path: Path) -> None:
    long: list[int] = [PAD] * 5_000
    bad = {"seq": [long] * 5_000, "len_seq": [1] * 5_000, "next": [1] * 5_000}
    with pytest.raises(DataError, match=r"train_data\.df: .* bytes claim to hold 25,000,000 values"):
        read_rows(put(tmp_path, old_frame, train=bad), "dreamrec")


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dataset.pkl.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("dataset.pkl", b"N" * (2 * 10**8))
    with pytest.raises(DataError, match=r"would unpack to 200,000,000 bytes; a file of this size may"):
        read_rows(path, "recdiff")


def test_counts_that_the_rows_cannot_have_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dataset.pkl"
    large = 10**9
    shaped = {name: matrix([(0, 0), (1, 2)], (large, 6)) for name in ("train", "val", "test")}
    content = stored(userCount=large, trust=matrix([(0, 1)], (large, large)), **shaped)
    path.write_bytes(dump(content))
    with pytest.raises(DataError, match=r"the number of users is 1,000,000,000, too many for"):
        prepare("shop", path, Recipe(format="recdiff", task="social", split="published"))
