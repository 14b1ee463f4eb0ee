"""The source's ids: numbers if all ids of a column are written as plain numbers, otherwise text.

A data set numbers its users and items from 0; ``IdMap`` maps these numbers to the source's ids and back.

Letters: N values, n ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from refit_env.utils.text import shown

NUMBER = r"(?:0|[1-9][0-9]*)"
"""A plain whole number; ``007`` and ``+7`` do not match, because an int would lose the zeros or the sign."""

_DIGITS = re.compile("[0-9]+")
_NUMBER = re.compile(NUMBER)
_LEADING = re.compile(r"(?<![0-9])0+(?=[0-9])")
_COMPARED = 20_000
"""The number of ids that are compared with a mistyped one."""


def parse_id(text: str) -> int | str:
    """Parse one id of digits.

    Returns:
        The number; the text itself if it has leading zeros, which an int would lose.

    Raises:
        ValueError: for anything but digits, or a number that does not fit 64 bits.

    Example:
        >>> parse_id("108"), parse_id("0108")
        (108, '0108')
    """
    if not _DIGITS.fullmatch(text):
        what = "is negative" if re.fullmatch(r"-[0-9]+", text) else "is not a whole number"
        raise ValueError(f"{shown(text)} {what}; ids are whole numbers >= 0")
    if not _NUMBER.fullmatch(text):
        return text
    if len(text) > 19 or int(text) >= 2**63:
        raise ValueError(f"{shown(text)} does not fit 64 bits")
    return int(text)


def id_column(ids: Sequence[int | str]) -> npt.NDArray[Any]:
    """Return the ids as one column (N,): int64, or text objects if any of them is text.

    Example:
        >>> id_column([7, 12]), id_column([7, "007"])
        (array([ 7, 12]), array(['7', '007'], dtype=object))
    """
    if any(isinstance(value, str) for value in ids):
        return np.array([str(value) for value in ids], dtype=object)
    return np.array(ids, dtype=np.int64)


def join_ids(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Concatenate columns of ids into (N,); numbers become text if another part has text.

    Only plain numbers are parsed as int64, so converting them back restores the source's text.

    Example:
        >>> join_ids([np.array([7, 12]), np.array(["007"], dtype=object)])
        array(['7', '12', '007'], dtype=object)
    """
    if any(part.dtype == object for part in parts):
        parts = [part if part.dtype == object else part.astype(str).astype(object) for part in parts]
    return np.concatenate(parts)


class IdMap:
    """Maps the numbers of a data set's users or items to the source's ids, and back.

    Attributes:
        kind: ``"user"`` or ``"item"``.
        count: n.
        ids: (n,) the source's ids by number, int64 or text; None where the data set stores none, so that the
            numbers themselves are the ids.
        where: the data set's name, for messages.
        rows: whether the numbers are those of rows, of which a user may have several.

    Example:
        >>> users = IdMap("user", 2, np.array(["ann", "bob"], dtype=object), "shop")
        >>> users.number("bob"), users.of(0), users.take([1, 0]).tolist(), users.named(1)
        (1, 'ann', ['bob', 'ann'], "user 'bob' (number 1)")
        >>> users.number("bop")
        Traceback (most recent call last):
            ...
        ValueError: unknown user 'bop'. Did you mean 'bob'? 'shop' has 2 users, from 'ann' to 'bob'
    """

    def __init__(
        self, kind: str, count: int, ids: npt.NDArray[Any] | None, where: str, rows: bool = False
    ) -> None:
        """Store the ids; the inverse map is built at its first use."""
        self.kind, self.count, self.ids, self.where, self.rows = kind, count, ids, where, rows

    def __len__(self) -> int:
        """Return n."""
        return self.count

    @property
    def known(self) -> bool:
        """Whether the data set stores the source's ids."""
        return self.ids is not None

    def of(self, number: int) -> int | str:
        """Return the source's id of a number; the number itself where no ids are stored."""
        if self.ids is None:
            return int(number)
        value = self.ids[number]
        return value if isinstance(value, str) else int(value)

    def take(self, numbers: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return the source's ids of numbers of any shape, in that shape: int64, or text objects."""
        places = np.asarray(numbers, dtype=np.int64)
        return places.copy() if self.ids is None else self.ids[places]

    def named(self, number: int) -> str:
        """Format the user or item for messages and titles."""
        if self.ids is None:
            return f"{'row' if self.rows else self.kind} {number}"
        return f"{self.kind} {shown(self.of(number))} ({'row' if self.rows else 'number'} {number})"

    def number(self, given: int | str) -> int:
        """Return the number of the source's id; text must equal the id, leading zeros included.

        Raises:
            ValueError: for an unknown id, with a did-you-mean, or an id that several rows share.
        """
        text = str(given)
        if self.ids is None:
            if _NUMBER.fullmatch(text) and len(text) <= 19 and int(text) < self.count:
                return int(text)
            raise ValueError(
                f"{self.kind} {shown(text)} must lie in 0..{self.count - 1}; {self.where!r} keeps no ids of "
                "its source, so its numbers are the ids"
            )
        found = self._numbers.get(text)
        if found is None:
            raise ValueError(self._unknown(text))
        if len(self._numbers) < self.count and len(rows := np.flatnonzero(self.ids == self.ids[found])) > 1:
            raise ValueError(
                f"{self.kind} {shown(text)} has {len(rows)} rows in {self.where!r}; choose one by number, "
                f"{', '.join(map(str, rows[:3]))} ..."
            )
        return found

    def find(self, given: int | str) -> int | None:
        """Return the number of the source's id; None for an unknown id, or one that several rows share."""
        text = str(given)
        if self.ids is None:
            known = _NUMBER.fullmatch(text) and len(text) <= 19 and int(text) < self.count
            return int(text) if known else None
        found = self._numbers.get(text)
        shared = found is not None and len(self._numbers) < self.count
        return None if shared and (self.ids == self.ids[found]).sum() > 1 else found

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Text of an id -> the first number with that id."""
        assert self.ids is not None
        return {str(value): n for n, value in reversed(list(enumerate(self.ids.tolist())))}

    def _unknown(self, text: str) -> str:
        """Return the message for an unknown id."""
        near = [
            known
            for known in self._numbers
            if abs(len(known) - len(text)) <= 2 and (known[:1] == text[:1] or known[-1:] == text[-1:])
        ]
        bare = _bare(text)
        alike = [known for known in self._numbers if _bare(known) == bare]
        close = alike or get_close_matches(text, near[:_COMPARED], n=1)
        hint = f" Did you mean {shown(close[0])}?" if close else ""
        first, last = (shown(str(self.of(n))) for n in (0, self.count - 1))
        total = f"{len(self._numbers):,} {self.kind}s, from {first} to {last}"
        return f"unknown {self.kind} {shown(text)}.{hint} {self.where!r} has {total}"


def _bare(text: str) -> str:
    """Return an id without surrounding blanks, letter case and leading zeros of its numbers."""
    return _LEADING.sub("", text.strip()).casefold()
