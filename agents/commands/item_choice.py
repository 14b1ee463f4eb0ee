"""Which items may be in a list, by files of ids; and the ids that a person uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from refit_env.data import Dataset
from refit_env.data.ids import IdMap


class UsesIds(Protocol):
    """The option that chooses the ids."""

    @property
    def internal_ids(self) -> bool:
        """Numbers instead of the source's ids."""


@dataclass(frozen=True)
class Choice:
    """What a list is made from besides the data's users, and which items may be in it; all are numbers."""

    history: tuple[int, ...] = ()
    """Items of a person who is in no data set, oldest first."""
    allow: frozenset[int] | None = None
    """The only items that may be in the list; None for all."""
    deny: frozenset[int] | None = None
    """Items that may not be in it."""

    def hidden(self, num_items: int) -> npt.NDArray[np.int64]:
        """Return the items (n,) that neither ``allow`` nor ``deny`` leaves."""
        every = range(num_items)
        out = set(self.deny or ()) | (set() if self.allow is None else set(every) - self.allow)
        return np.array(sorted(out), dtype=np.int64)


EVERYTHING = Choice()
"""No history; every item may be in the list."""


def items_in(path: Path, option: str, items: IdMap, *, may_be_empty: bool = False) -> frozenset[int]:
    """Read the numbers of the items that a file lists, one id a line; blank lines are skipped.

    Raises:
        ValueError: naming the option, the file and the line, for an unknown id (with a did-you-mean), a file
            without items unless it ``may_be_empty``, or one that is no text or cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{option} {path}: is no text in UTF-8; expected one item id a line") from None
    except OSError as error:
        raise ValueError(f"{option} {path}: {error.strerror or error}") from None
    out = set()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                out.add(items.number(line.strip()))
            except ValueError as error:
                raise ValueError(f"{option} {path} line {number}: {error}") from None
    if not out and not may_be_empty:
        raise ValueError(f"{option} {path}: holds no item; expected one item id a line")
    return frozenset(out)


def ids_of(command: UsesIds, kind: str, dataset: Dataset) -> IdMap:
    """Return the ids that a person uses: the source's, or the numbers."""
    known = dataset.users_by_id if kind == "user" else dataset.items_by_id
    return IdMap(kind, known.count, None, known.where) if command.internal_ids else known
