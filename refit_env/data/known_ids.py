"""The source's ids of the users and items that a model was trained on: ``ids.json`` in its run folder.

A data set numbers its users and items from 0, and another preparation numbers them differently. By their ids
a model meets the data of the next week (``refit_env.backbones.carry_over``).

Letters: I items of the new data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from refit_env.data.dataset import Dataset, RowDataset
from refit_env.errors import CheckpointError, DataError
from refit_env.utils.atomic_io import read_record, write_json

IDS = "ids.json"
"""File in a run folder."""
LARGEST_IDS = 256 * 2**20
"""Most bytes of it."""


class IdsFile(TypedDict):
    """The content of ``ids.json``."""

    data_fingerprint: str
    """Fingerprint of the data set."""
    items: list[str]
    """The source's id of each item, by number; the number itself where the source keeps no ids."""
    users: list[str] | None
    """The same of the users; null where the rows of the data do not name them."""


def former_numbers(former: Sequence[str], now: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the former number of each id (n,), -1 for a new one.

    Example:
        >>> former_numbers(["a", "b"], ["b", "c"]).tolist()
        [1, -1]
    """
    places = {name: number for number, name in enumerate(former)}
    return np.array([places.get(name, -1) for name in now], np.int64)


@dataclass(frozen=True)
class Counts:
    """How many ids are in the new data alone, in both, and in the former data alone."""

    new: int
    known: int
    gone: int

    @classmethod
    def of(cls, former: Sequence[str], now: Sequence[str]) -> Counts:
        """Count the ids of two data sets; each id counts once.

        Example:
            >>> print(Counts.of(["a", "b"], ["b", "c", "d"]))
            2 new, 1 known, 1 gone
        """
        one, other = set(former), set(now)
        return cls(len(other - one), len(one & other), len(one - other))

    def __str__(self) -> str:
        """Return the three numbers with their names."""
        return f"{self.new:,} new, {self.known:,} known, {self.gone:,} gone"


@dataclass(frozen=True)
class KnownIds:
    """The ids of a model's data."""

    items: list[str]
    """(I,) ids by number."""
    users: list[str] | None
    """(U,) the same; None where they are not known."""

    @classmethod
    def of(cls, dataset: Dataset) -> KnownIds:
        """Return the ids of a data set, as text."""
        items = [str(value) for value in dataset.items_by_id.take(np.arange(dataset.num_items)).tolist()]
        if isinstance(dataset, RowDataset) and dataset.user_ids is None:  # its numbers are those of rows
            return cls(items, None)
        users = dataset.users_by_id.take(np.arange(dataset.num_users)).tolist()
        return cls(items, list(dict.fromkeys(str(value) for value in users)))

    @classmethod
    def load(cls, folder: Path | str, num_items: int, fingerprint: str | None) -> KnownIds:
        """Read ``ids.json`` of a run folder.

        Args:
            folder: the run folder.
            num_items: I of its model.
            fingerprint: of the data set that its model was trained on.

        Raises:
            CheckpointError: if there is no such file, it is damaged, or it belongs to another model.
        """
        path = Path(folder) / IDS
        if not path.exists():
            raise CheckpointError(
                f"{path}: there is no such file, so the ids of the model's items are not known (runs of "
                f"earlier versions have none): `refit pretrain --init {folder} --epochs 1 --out OTHER`, on "
                "the data of its training, makes a run that has one"
            )
        found = read_record(path, IdsFile, error=CheckpointError, limit=LARGEST_IDS)
        if found["data_fingerprint"] != fingerprint or len(found["items"]) != num_items:
            raise CheckpointError(
                f"{path}: {len(found['items'])} items of the data {found['data_fingerprint'][:12]!r}; the "
                f"model has {num_items} of the data {str(fingerprint)[:12]!r}: restore the file that belongs "
                "to it"
            )
        if len(set(found["items"])) < num_items:
            raise CheckpointError(f"{path}: an item is listed twice; restore the file that the run wrote")
        return cls(found["items"], found["users"])

    def save(self, folder: Path | str, fingerprint: str) -> None:
        """Write ``ids.json`` into a run folder.

        Args:
            folder: the run folder.
            fingerprint: of the data set.
        """
        content = IdsFile(data_fingerprint=fingerprint, items=self.items, users=self.users)
        write_json(Path(folder) / IDS, content)

    def numbers_in(self, dataset: Dataset) -> npt.NDArray[np.int64]:
        """Return (I,) the former number of each item of ``dataset``, -1 for a new one.

        Raises:
            DataError: if no item is known.

        Example:
            >>> from refit_env.data import load_dataset
            >>> data = load_dataset("synthetic")
            >>> KnownIds(["7", "2", "gone"], None).numbers_in(data)[:9].tolist()
            [-1, -1, 1, -1, -1, -1, -1, 0, -1]
        """
        ids = KnownIds.of(dataset).items
        numbers = former_numbers(self.items, ids)  # (I,)
        if not (numbers >= 0).any():
            raise DataError(
                f"the model knows no item of {dataset.name!r}: the first ids there are "
                f"{', '.join(map(repr, ids[:3]))}, the model's {', '.join(map(repr, self.items[:3]))}. "
                "Prepare the data from a source with the same ids, or train without --init"
            )
        return numbers

    def changes(self, dataset: Dataset) -> str:
        """Return in one line how many users and items of ``dataset`` are new, known and gone."""
        now = KnownIds.of(dataset.episodes)  # of rows, the users who have one
        users = (
            "not known" if None in (self.users, now.users) else Counts.of(self.users or [], now.users or [])
        )
        return f"users: {users}; items: {Counts.of(self.items, now.items)}"
