"""Readers of the official formats; each returns the rows of a file or of a folder of split files.

=========== ================================================ =========================================
format      files                                            line
=========== ================================================ =========================================
u.data      one file (MovieLens 100K)                        user, item, rating, seconds, by tabs
ratings.dat one file (MovieLens 1M, 10M)                     user::item::rating::seconds
diffrec     train_list.npy, valid_list.npy, test_list.npy    (n, 2) whole numbers: user, item
lightgcn    train.txt, test.txt, perhaps valid.txt           user item item item ...
inter       NAME.inter, or NAME.train.inter, NAME.valid...   tab-separated, header of name:type
csv         one file with a header, .csv or .tsv             named columns
yoochoose   yoochoose-clicks.dat, or yoochoose-buys.dat      session,time,item,...
kuairec     big_matrix.csv, or small_matrix.csv              header; user_id, video_id, timestamp ...
zhihu       inter_impression.csv, or zhihu1M.txt             user,answer,shown,clicked
tsmc2014    dataset_TSMC2014_NYC.txt, ..._TKY.txt            eight fields by tabs, Latin-1
lbsn        train.txt, tune.txt, test.txt                    USER_1 LOC_2 lat,lon HH:MM day, by tabs
tang        rating.mat, trustnetwork.mat                     MATLAB matrices
yelp        ..._review.json, ..._user.json                   a JSON object
recdiff     dataset.pkl, or dataset.pkl.zip                  a pickle of sparse matrices
dreamrec    train_data.df, val_data.df, test_data.df         pickles of tables seq, len_seq, next
=========== ================================================ =========================================

Letters: N rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from refit_env.data.arrays import read_pairs
from refit_env.data.filters import RawRows
from refit_env.data.ids import join_ids
from refit_env.data.interactions import SPLITS
from refit_env.data.messages import spelled
from refit_env.data.readers.checkins import read_lbsn, read_tsmc2014
from refit_env.data.readers.delimited import Layout, read_delimited, refuse_binary
from refit_env.data.readers.field_parsing import parse_field
from refit_env.data.readers.file_lookup import named, one_file, only, with_ending
from refit_env.data.readers.header_tables import ReadOptions, as_rows, read_csv, read_inter
from refit_env.data.readers.pickles import read_dreamrec, read_recdiff
from refit_env.data.readers.sessions import read_kuairec, read_yoochoose, read_zhihu
from refit_env.data.readers.tang import read_tang
from refit_env.data.readers.yelp import read_yelp
from refit_env.errors import DataError, unknown_name

_NO_NUMBERS = re.compile(rb"(?<![0-9])0[0-9]|[^0-9\s]")
"""What a line of plain numbers does not contain: a leading zero, or a character other than a digit or
blank."""


TABLES = ("csv", "inter")
"""Formats with named columns, which options can choose."""


def read_rows(source: Path | str, format: str, options: ReadOptions | None = None) -> RawRows:
    """Read official files.

    Args:
        source: the file, or the folder with it.
        format: a key of ``FORMATS``.
        options: settings such as the names of columns.

    Raises:
        ValueError: for an unknown format, with a did-you-mean.
        DataError: for a file that is missing or breaks a rule; the message names file, line and rule.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    source = Path(source)
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder")
    options = options or ReadOptions()
    _refuse_unused(format, options)
    return FORMATS[format](source, options)


def _refuse_unused(format: str, options: ReadOptions) -> None:
    """Raise an error for an option that the format does not use."""
    for name in ("columns", "ignore", "separator", "token_ids", "drop_blank"):
        formats = ("csv",) if name == "separator" else TABLES
        if getattr(options, name) and format not in formats:
            raise DataError(f"{spelled(name)} is for {' and '.join(formats)}, not for {format}")


def guess_format(source: Path | str) -> str:
    """Guess the format from the names of the files.

    Raises:
        DataError: if no name is known.
    """
    source = Path(source)
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder")
    there = [source] if source.is_file() else sorted(source.iterdir())
    names = [path.name.lower() for path in there]
    rules: tuple[tuple[str, Callable[[str], bool]], ...] = (
        ("u.data", lambda name: name == "u.data"),
        ("yoochoose", lambda name: name.startswith("yoochoose-")),
        ("kuairec", lambda name: name in ("big_matrix.csv", "small_matrix.csv")),
        ("zhihu", lambda name: name in ("inter_impression.csv", "zhihu1m.txt")),
        ("tsmc2014", lambda name: name.startswith("dataset_tsmc2014")),
        ("lbsn", lambda name: name == "tune.txt"),
        ("tang", lambda name: name.endswith(".mat")),
        ("yelp", lambda name: name.endswith("review.json")),
        ("recdiff", lambda name: name in ("dataset.pkl", "dataset.pkl.zip")),
        ("dreamrec", lambda name: name.endswith("_data.df")),
        ("ratings.dat", lambda name: name.endswith(".dat")),
        ("diffrec", lambda name: name.endswith("_list.npy")),
        ("inter", lambda name: name.endswith(".inter")),
        ("lightgcn", lambda name: name in ("train.txt", "test.txt")),
        ("csv", lambda name: name.endswith((".csv", ".tsv"))),
    )
    for format, fits in rules:
        if any(fits(name) for name in names):
            return format
    which = spelled("format", "NAME", "NAME")
    raise DataError(
        f"{source}: cannot guess the format from the names; {which} states it: {', '.join(FORMATS)}"
    )


def _u_data(source: Path, options: ReadOptions) -> RawRows:
    names = ("user", "item", "rating", "timestamp")
    layout = Layout(names, ("id", "id", "number", "number"), "\t")
    return as_rows(read_delimited(one_file(source, ("u.data",), ".data"), layout), unix=True)


def _ratings_dat(source: Path, options: ReadOptions) -> RawRows:
    names = ("user", "item", "rating", "timestamp")
    layout = Layout(names, ("id", "id", "number", "number"), "::", pattern="user::item::rating::timestamp")
    return as_rows(read_delimited(one_file(source, ("ratings.dat",), ".dat"), layout), unix=True)


def _csv(source: Path, options: ReadOptions) -> RawRows:
    usual = [f"{name}.{end}" for end in ("csv", "tsv") for name in ("ratings", "rating", "interactions")]
    ending = ".csv" if source.is_file() or with_ending(source, ".csv") else ".tsv"
    path = one_file(source, usual, ending)
    return _naming(source, path, read_csv(path, options))


def _recbole(source: Path, options: ReadOptions) -> RawRows:
    if source.is_file():
        return read_inter(source, options)
    parts = [with_ending(source, f".{split}.inter") for split in SPLITS]
    if parts[0] and parts[2]:
        found = {
            split: only(source, p, f"*.{split}.inter") for split, p in zip(SPLITS, parts, strict=True) if p
        }
        return _join(found, lambda path: read_inter(path, options), options)
    path = only(source, with_ending(source, ".inter"), "*.inter")
    return _naming(source, path, read_inter(path, options))


def _naming(source: Path, path: Path, rows: RawRows) -> RawRows:
    """Return the rows with a note on which file of a folder was read."""
    note = () if source.is_file() else (f"of the folder, {path.name} was read",)
    return replace(rows, notes=(*note, *rows.notes))


def _diffrec(source: Path, options: ReadOptions) -> RawRows:
    if source.is_file():
        source = source.parent
    return _join(_files_of_splits(source, "_list.npy"), read_pairs, options)


def _lightgcn(source: Path, options: ReadOptions) -> RawRows:
    folder = source.parent if source.is_file() else source
    files = _files_of_splits(folder, ".txt")
    if not files["valid"].is_file():
        del files["valid"]
    return _join(files, _adjacency, options)


def _files_of_splits(folder: Path, ending: str) -> dict[str, Path]:
    """Return the file of each split; its usual name where there is none."""
    return {s: named(folder, [f"{s}{ending}"]) or folder / f"{s}{ending}" for s in SPLITS}


def _adjacency(path: Path) -> RawRows:
    """Read lines ``user item item ...``; a user without items is allowed, and has no row."""
    refuse_binary(path)
    users: list[int] = []
    items: list[list[int]] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        if _NO_NUMBERS.search(line):  # int() would also accept '007', '+7' and '1_0'
            raise DataError(f"{path} line {number}: {_wrong_word(line)}")
        try:
            user, *row = map(int, line.split())
        except ValueError:  # thousands of digits
            raise DataError(f"{path} line {number}: {_wrong_word(line)}") from None
        users.append(user)
        items.append(row)
    counts = [len(row) for row in items]
    try:
        flat = np.fromiter(chain.from_iterable(items), dtype=np.int64, count=sum(counts))
        return RawRows(np.repeat(np.array(users, dtype=np.int64), counts), flat)
    except OverflowError:
        raise DataError(f"{path}: an id does not fit 64 bits") from None


def _wrong_word(line: bytes) -> str:
    """Return the message for a faulty line of ids."""
    for word in line.decode("utf-8", "replace").split():
        try:
            if isinstance(parse_field(word, "id"), str):
                raise ValueError(f"{word[:40]!r} has a leading zero, and this format's ids are numbers")
        except ValueError as error:
            return f"id {error}; expected 'user item item ...', separated by spaces"
    return f"expected 'user item item ...', found {line[:60]!r}"


def _join(files: Mapping[str, Path], read: Callable[[Path], RawRows], options: ReadOptions) -> RawRows:
    """Concatenate the files of the splits; a column that one of them lacks is dropped."""
    parts = {split: read(path) for split, path in files.items()}
    for split, path in files.items():
        _check_range(path, "user", parts[split].users, options.num_users)
        _check_range(path, "item", parts[split].items, options.num_items)
    tables = list(parts.values())
    if len({table.unix for table in tables if table.timestamps is not None}) > 1:
        raise DataError(
            f"{next(iter(files.values())).parent}: the times are dates in some files, numbers in others"
        )

    def together(name: str) -> npt.NDArray[np.float64] | None:
        values = [getattr(table, name) for table in tables]
        return None if any(v is None for v in values) else np.concatenate(values)

    labels = np.concatenate([np.full(len(t), SPLITS.index(s), np.int8) for s, t in parts.items()])
    return RawRows(
        join_ids([t.users for t in tables]),
        join_ids([t.items for t in tables]),
        together("timestamps"),
        together("ratings"),
        labels,
        unix=tables[0].unix,
        dropped=dict(sum((Counter(table.dropped) for table in tables), Counter())),
    )


def _check_range(path: Path, who: str, ids: npt.NDArray[np.generic], count: int | None) -> None:
    """Raise an error if a numeric id is not below the stated count."""
    if count is not None and ids.dtype.kind in "iu" and ids.size and int(ids.max()) >= count:
        row = int(np.flatnonzero(ids >= np.int64(count))[0])
        raise DataError(f"{path} interaction {row}: {who} {ids[row]} is outside 0..{count - 1} (num_{who}s)")


FORMATS: dict[str, Callable[[Path, ReadOptions], RawRows]] = {
    "u.data": _u_data,
    "ratings.dat": _ratings_dat,
    "diffrec": _diffrec,
    "lightgcn": _lightgcn,
    "inter": _recbole,
    "csv": _csv,
    "yoochoose": read_yoochoose,
    "kuairec": read_kuairec,
    "zhihu": read_zhihu,
    "tsmc2014": read_tsmc2014,
    "lbsn": read_lbsn,
    "tang": read_tang,
    "yelp": read_yelp,
    "recdiff": read_recdiff,
    "dreamrec": read_dreamrec,
}
"""Name of a format -> its reader."""
