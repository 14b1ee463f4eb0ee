"""Tests of the MATLAB files of Tang et al.: doubles that MATLAB stores in a smaller type."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from refit_env.data.readers import matlab
from refit_env.data.readers.formats import guess_format, read_rows
from refit_env.data.readers.tang import RATING_FILES, TRUST_FILES
from refit_env.data.recipes import RECIPES
from refit_env.errors import DataError

RATING = [[1, 200, 3, 5, 4], [2, 255, 3, 4, 1], [1, 256, 9, 1, 0]]
TRUST = [[1, 2], [2, 1], [2, 2]]


def put(
    folder: Path,
    rating: Any = None,
    trust: Any = None,
    dtype: Any = np.uint16,
    names: tuple[str, str] = ("", ""),
) -> Path:
    """Write both files, with numbers in the types of the published ones."""
    rating = np.array(RATING if rating is None else rating)
    trust = np.array(TRUST if trust is None else trust)
    for file, name, values in (("rating", names[0], rating), ("trustnetwork", names[1], trust)):
        stored = values.astype(dtype) if values.dtype.kind in "iu" else values
        scipy.io.savemat(str(folder / f"{file}.mat"), {name or file: stored}, do_compression=True)
    return folder


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float64])
def test_ratings_and_trust(dtype: Any, tmp_path: Path) -> None:
    rows = read_rows(put(tmp_path, dtype=dtype), "tang")
    assert guess_format(tmp_path) == "tang"
    assert rows.users.tolist() == [1, 2, 1] and rows.items.tolist() == [200, 255, 256]
    assert rows.users.dtype == np.int64 and rows.timestamps is None
    assert rows.ratings is not None and rows.ratings.tolist() == [5.0, 4.0, 1.0]
    assert rows.social is not None and rows.social.tolist() == TRUST


def test_small_types_do_not_overflow(tmp_path: Path) -> None:
    """In uint8, 250 * 2 is 244, so the types that loadmat returns by default would overflow."""
    put(tmp_path, rating=[[250, 250, 1, 5, 1]] * 2, trust=[[250, 3]], dtype=np.uint8)
    assert scipy.io.loadmat(str(tmp_path / "rating.mat"))["rating"].dtype == np.uint8
    rows = read_rows(tmp_path, "tang")
    assert (rows.users * 2).tolist() == [500, 500]


def test_the_files_with_timestamps_and_other_names(tmp_path: Path) -> None:
    timed = [[*row, 1_300_000_000 + n] for n, row in enumerate(RATING)]
    put(
        tmp_path, rating=timed, trust=[[1, 2, 7]], dtype=np.int64, names=("rating_with_timestamp", "whatever")
    )
    (tmp_path / "rating.mat").rename(tmp_path / "rating_with_timestamp.mat")
    (tmp_path / "trustnetwork.mat").rename(tmp_path / "trust.mat")
    rows = read_rows(tmp_path, "tang")
    assert rows.timestamps is not None and rows.timestamps.tolist() == [1.3e9, 1.3e9 + 1, 1.3e9 + 2]
    assert rows.social is not None and rows.social.tolist() == [[1, 2]]


def test_the_recipe_lists_the_same_names() -> None:
    for files in RECIPES["tang"].files.values():
        assert [file.split("|") for file in files] == [list(RATING_FILES), list(TRUST_FILES)]


BAD: list[tuple[dict[str, Any], str]] = [
    (
        {"rating": [[1.0, 2.5, 3.0, 4.0, 5.0]]},
        r"rating\.mat row 0: productid 2\.5 is not a whole number",
    ),
    ({"rating": [[1.0, 2, 3, 4, 5], [np.nan, 2, 3, 4, 5]]}, r"rating\.mat row 1: userid nan"),
    ({"rating": [[1.0, 2, 3, np.inf, 5]]}, r"rating\.mat row 0: rating is inf"),
    ({"rating": [[1, 2, 3, 4]]}, r"rating\.mat: expected rows of 5 or 6 columns, found .*\(1, 4\)"),
    ({"rating": np.array(["text"])}, r"rating\.mat: 'rating' is not a matrix of numbers"),
    ({"trust": [[-1, 2]], "dtype": np.int32}, r"trustnetwork\.mat row 0: userid -1 is not a whole number"),
    ({"trust": [[1, 2, 3, 4]]}, r"trustnetwork\.mat: expected rows of 2 or 3 columns"),
    ({"trust": np.zeros((0, 2))}, r"trustnetwork\.mat: expected rows of 2 or 3 columns, found .*\(0, "),
]


@pytest.mark.parametrize(("what", "message"), BAD)
def test_bad_matrices_are_named_with_row_and_rule(what: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(put(tmp_path, **what), "tang")


def test_a_missing_half_of_the_pair(tmp_path: Path) -> None:
    put(tmp_path)
    (tmp_path / "trustnetwork.mat").unlink()
    for source in (tmp_path, tmp_path / "rating.mat"):
        with pytest.raises(
            DataError, match=r"no trustnetwork\.mat or trust\.mat.*the folder holds rating\.mat"
        ):
            read_rows(source, "tang")


def test_files_that_are_not_matlab_files(tmp_path: Path) -> None:
    path = put(tmp_path) / "rating.mat"
    whole = path.read_bytes()
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF" * 99
    for content, message in (
        (whole[:-9], "not a whole MATLAB file"),
        (whole[:140], "not a whole MATLAB file|holds none"),
        (b"user,item\n1,2\n" * 99, "not a whole MATLAB file"),
        (header, r"MATLAB 7\.3 \(HDF5\) file; save it again with -v7"),
        (pickle.dumps(RATING), "this is a pickle"),
        (b"", "not a whole MATLAB file"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            read_rows(tmp_path, "tang")
        assert "rating.mat" in str(caught.value)


def test_variables_of_other_names_or_kinds(tmp_path: Path) -> None:
    put(tmp_path)
    scipy.io.savemat(str(tmp_path / "rating.mat"), {"a": [[1.0]], "b": [[2.0]]})
    with pytest.raises(DataError, match=r"rating\.mat: no variable 'rating'; the file holds a, b"):
        read_rows(tmp_path, "tang")
    scipy.io.savemat(str(tmp_path / "rating.mat"), {"rating": sp.csc_matrix(np.eye(5))})
    with pytest.raises(DataError, match="'rating' is a sparse matrix"):
        read_rows(tmp_path, "tang")


def test_a_matrix_far_larger_than_its_file_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path) / "rating.mat"
    zeros = np.zeros((2_200_000, 5), np.uint8)
    scipy.io.savemat(str(path), {"rating": zeros, "other": RATING}, do_compression=True)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(matlab, "_numbers", None)
    with pytest.raises(
        DataError,
        match=r"rating\.mat: .* bytes claim to hold 11,000,000 values; a file of this size may",
    ):
        read_rows(tmp_path, "tang")


def test_other_variables_are_ignored(tmp_path: Path) -> None:
    put(tmp_path)
    users = read_rows(tmp_path, "tang").users.tolist()
    more = {"rating": np.array(RATING, dtype=np.float64), "other": {"deep": [1, "x"]}}
    scipy.io.savemat(str(tmp_path / "rating.mat"), more)
    assert read_rows(tmp_path, "tang").users.tolist() == users


numbers = st.integers(0, 2**31)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(numbers, numbers, st.integers(1, 27), st.integers(1, 5), st.integers(0, 5)), min_size=1
    ),
    st.lists(st.tuples(numbers, numbers), min_size=1),
    st.sampled_from([np.int64, np.float64]),
)
def test_matrices_are_read_as_written(
    ratings: list[tuple[int, ...]], trust: list[tuple[int, int]], dtype: Any
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = read_rows(put(Path(folder), ratings, trust, dtype), "tang")
    assert rows.users.tolist() == [row[0] for row in ratings]
    assert rows.items.tolist() == [row[1] for row in ratings]
    assert rows.ratings is not None and rows.ratings.tolist() == [row[3] for row in ratings]
    assert rows.social is not None and rows.social.tolist() == [list(pair) for pair in trust]


DTYPES = ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{"format": "4"}, {}, {"do_compression": True}])
def test_matrices_of_every_type_are_what_scipy_reads(
    options: dict[str, Any], dtype: str, tmp_path: Path
) -> None:
    if "format" in options and dtype in ("i1", "u4", "i8", "u8"):
        pytest.skip("level 4 has no such type")
    path, values = tmp_path / "a.mat", np.arange(-20, 40).reshape(12, 5).astype(dtype)
    held = {"x": np.ones((2, 2)), "rating": values, "a_longer_name": np.zeros((1, 3))}
    scipy.io.savemat(str(path), held, **options)
    for name, wanted in held.items():
        found = matlab.read_matrix(path, (name,))
        assert found[0] == name and found[1].dtype == np.float64
        assert np.array_equal(found[1], wanted.astype(np.float64))
        assert np.array_equal(found[1], scipy.io.loadmat(str(path), mat_dtype=True)[name])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([[1 + 2j]]), "not a matrix of numbers"),
        ("text", "not a matrix of numbers"),
        ({"a": 1}, "not a matrix of numbers"),
        (np.array([[1, "a"]], dtype=object), "not a matrix of numbers"),
        (np.zeros((2, 5, 2)), "expected a matrix, found 3 dimensions"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_other_variables_are_not_matrices(value: Any, message: str, packed: bool, tmp_path: Path) -> None:
    put(tmp_path)
    scipy.io.savemat(str(tmp_path / "rating.mat"), {"rating": value}, do_compression=packed)
    with pytest.raises(DataError, match=rf"rating\.mat: .*{message}"):
        read_rows(tmp_path, "tang")
