"""Writes the lists of all users of a data set to one Parquet file, a batch at a time.

Memory holds the data set and one batch, whatever the number of users.

Letters: U users, B users in a batch, I items, K list length, n rows of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from agents.serving.ranker import Query, Ranker
from refit_env.data.ids import IdMap
from refit_env.utils.atomic_io import atomic_path

Numbers = dict[str, npt.NDArray[Any]]
"""Columns ``user``, ``rank``, ``item`` and ``score``, each (n,); users and items are numbers."""


@dataclass(frozen=True)
class Lists:
    """What lists are made."""

    top: int
    """K; a list is shorter where fewer items are left."""
    hidden: tuple[int, ...] = ()
    """Items that no list holds."""
    batch: int = 256
    """B."""
    repeats: bool = False
    """Whether lists may hold items that the user has."""

    def of(self, ranker: Ranker, users: npt.NDArray[np.int64]) -> Numbers:
        """Return the lists of ``users`` (B,), a row for each user and rank."""
        queries = [Query(int(user), hidden=self.hidden, repeats=self.repeats) for user in users]
        ranked = ranker.rank(queries, self.top)
        lengths = [one.items.size for one in ranked]
        return {
            "user": np.repeat(users, lengths),
            "rank": np.concatenate([np.arange(1, length + 1, dtype=np.int32) for length in lengths]),
            "item": np.concatenate([one.items for one in ranked]),
            "score": np.concatenate([one.scores for one in ranked]),
        }

    def batches(self, ranker: Ranker) -> Iterator[Numbers]:
        """Yield the lists of all users in order, a batch at a time."""
        count = ranker.dataset.num_users
        for first in range(0, count, self.batch):
            yield self.of(ranker, np.arange(first, min(first + self.batch, count), dtype=np.int64))


@dataclass(frozen=True)
class Columns:
    """The ids of the file."""

    users: IdMap
    """Ids of the users."""
    items: IdMap
    """Ids of the items."""

    @property
    def schema(self) -> pa.Schema:
        """The columns and their types."""
        return pa.schema(
            [
                ("user", self._type(self.users)),
                ("rank", pa.int32()),
                ("item", self._type(self.items)),
                ("score", pa.float32()),
            ]
        )

    def table(self, numbers: Numbers) -> pa.Table:
        """Return a batch with ids in place of numbers."""
        ids = {"user": self.users.take(numbers["user"]), "item": self.items.take(numbers["item"])}
        return pa.table({**numbers, **ids}, schema=self.schema)

    @staticmethod
    def _type(ids: IdMap) -> pa.DataType:
        return pa.string() if ids.ids is not None and ids.ids.dtype == object else pa.int64()


def write_lists(
    path: Path,
    batches: Iterable[Numbers],
    columns: Columns,
    about: Mapping[str, object],
    *,
    total: int,
    progress: bool = False,
) -> int:
    """Write batches to one file, which replaces an earlier one when it is complete.

    Args:
        path: the file.
        batches: the lists.
        columns: the ids.
        about: metadata of the file.
        total: U, for the progress bar.
        progress: whether to draw it.

    Returns:
        The number of rows.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    rows = 0
    text = {f"refit.{name}": str(value) for name, value in about.items()}
    schema = columns.schema.with_metadata(text)
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema) as writer,
        tqdm(total=total, unit="user", disable=not progress) as bar,
    ):
        for numbers in batches:
            writer.write_table(columns.table(numbers).replace_schema_metadata(text))
            rows += numbers["user"].size
            bar.update(np.unique(numbers["user"]).size)
    return rows
