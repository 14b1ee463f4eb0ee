"""Whose the measured rows of a data set are: one line a data set and split, beside the records of studies.

Rows of one user or session (of sequential sets, and of check-ins in order of time) are not independent, so
intervals draw whole users or sessions. Records hold metrics row by row, but not whose the rows are, and the
data need not be there when tables are made.

Letters: n rows, G users or sessions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.experiments.per_user import pack_counts, unpack_counts
from agents.experiments.provenance import Data, data_of_name, provenance_of
from agents.experiments.records import append_record, read_records
from refit_env.data.catalog import CATALOG
from refit_env.data.sequences import LENGTHS, episodes_are_rows
from refit_env.errors import DataError
from refit_env.evaluation.ranking import evaluated_groups
from refit_env.registration import entry

FILE = "row_groups.jsonl"
"""Name of the file, beside those of the records."""
Ids = npt.NDArray[np.int64]
Record = Mapping[str, Any]


@dataclass(frozen=True)
class RowGroups:
    """The users or sessions of the measured rows of several data sets."""

    ids: Mapping[str, Ids] = field(default_factory=dict)
    """Key of a line -> (n,) the number of each row's user or session, from 0."""

    def of(self, records: Iterable[Record]) -> Ids | None:
        """Return whose the rows of records are (n,).

        Args:
            records: of one environment; those without values of single users do not count.

        Returns:
            None if that is not known: of data without rows, of another fingerprint or number of rows, or if
            the records are not all of the same data.
        """
        held = [record for record in records if record.get("per_user")]
        keys = {None if (data := _data_of(r)) is None else line_key(data, r["split"]) for r in held}
        found = self.ids.get(keys.pop() or "") if len(keys) == 1 else None
        return None if found is None or any(r.get("users") != len(found) for r in held) else found


def line_key(data: Data, split: str) -> str:
    """Return the key of a line.

    Example:
        >>> line_key(Data("nyc", "6b90"), "test")
        'nyc_6b90_test'
    """
    return f"{data.name}_{data.fingerprint}_{split}"


def read_row_groups(folder: Path) -> RowGroups:
    """Read the file of a folder of records; nothing is known without one.

    Raises:
        DataError: for a line of another form.
    """
    path = folder / FILE
    found = {}
    for key, line in read_records(path).items():
        try:
            lengths = unpack_counts(line["lengths"])  # (G,)
        except (KeyError, ValueError) as error:
            raise DataError(f"{path}: {key}: lengths: {error}") from None
        found[key] = np.repeat(np.arange(len(lengths)), lengths)
    return RowGroups(found)


def write_row_groups(folder: Path, records: Iterable[Record]) -> None:
    """Write the lines that records need and the file lacks, of data that is in the data home.

    Args:
        folder: of the records.
        records: of any environments.
    """
    there = read_records(folder / FILE).keys()
    wanted: dict[str, tuple[Data, str]] = {}
    for record in records:
        data = _data_of(record)
        if record.get("per_user") and data is not None and entry(record["env"]).task in LENGTHS:
            wanted[line_key(data, record["split"])] = data, record["split"]
    for key, (data, split) in wanted.items():
        if key not in there and (lengths := _lengths(data, split)) is not None:
            line = {"key": key, "rows": int(lengths.sum()), "groups": len(lengths)}
            append_record(folder / FILE, line | {"lengths": pack_counts(lengths)})


def has_rows(env_id: str) -> bool:
    """Whether the episodes of an environment are rows, as far as that is known without its data.

    Example:
        >>> has_rows("ReFiT-NYC-v0"), has_rows("ReFiT-Foursquare-v0"), has_rows("ReFiT-Synthetic-v0")
        (True, False, False)
    """
    source = CATALOG.get(entry(env_id).dataset or "")
    return source is not None and episodes_are_rows(source.task, source.time_ordered)


def rows_note(drawn: Mapping[str, Collection[bool]]) -> str:
    """Return in words how the intervals of a table draw rows; empty where it has none of rows.

    Args:
        drawn: environment -> of each of its intervals over users, whether whole users or sessions are drawn.

    Example:
        >>> rows_note({"ReFiT-ML1M-v0": [False], "ReFiT-NYC-v0": [True]})
        'Intervals over rows draw whole users or sessions: rows of one are not independent.'
        >>> rows_note({"ReFiT-NYC-v0": [False, True], "ReFiT-TKY-v0": [False]}).partition(". ")[2]
        ... # doctest: +ELLIPSIS
        'Intervals of NYC (some), TKY draw each row alone and are too narrow: ...'
    """
    of_rows = {env: found for env, found in drawn.items() if found and has_rows(env)}
    whole = "Intervals over rows draw whole users or sessions: rows of one are not independent."
    sentences = [whole] if any(map(any, of_rows.values())) else []
    alone = [
        env.removeprefix("ReFiT-").removesuffix("-v0") + (" (some)" if any(found) else "")
        for env, found in of_rows.items()
        if not all(found)
    ]
    if alone:
        sentences.append(
            f"Intervals of {', '.join(alone)} draw each row alone and are too narrow: their records hold no "
            f"values of single rows, or {FILE} beside them does not state whose these are."
        )
    return " ".join(sentences)


def _data_of(record: Record) -> Data | None:
    """The data that a record was made on; None where it does not state it."""
    made = provenance_of(record)
    return None if made is None else made.data


def _lengths(data: Data, split: str) -> Ids | None:
    """Return how many consecutive rows each user or session has (G,); None without rows or the data.

    Raises:
        ValueError: if rows of one user or session are not consecutive.
    """
    from refit_env.data import load_dataset  # pandas, which tables need not wait for

    try:
        here = data_of_name(data.name)
    except DataError:  # it is not in the data home
        return None
    dataset = load_dataset(data.name) if here == data else None
    if dataset is None or not dataset.has_rows:
        return None
    ids = evaluated_groups(dataset, split)  # (n,)
    starts = np.flatnonzero(np.diff(ids, prepend=ids[0] - 1))  # (G,)
    if len(starts) != len(np.unique(ids)):
        raise ValueError(f"{data.name}, {split}: rows of one user or session are not consecutive")
    return np.diff(starts, append=len(ids))
