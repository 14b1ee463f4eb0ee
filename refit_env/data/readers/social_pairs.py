"""Reads a table of friends, with a header: the first two columns are ids of users.

Letters: L lines, N rows, S social edges.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from refit_env.data.filters import RawRows
from refit_env.data.limits import MOST_COLUMNS
from refit_env.data.messages import listed, spelled
from refit_env.data.readers.delimited import Layout, read_delimited, read_header
from refit_env.data.readers.field_parsing import Kind
from refit_env.errors import DataError
from refit_env.utils.text import shown

SEPARATORS = (",", "\t", ";", "|")
ENDS = ("one", "other")
"""Names of the two columns that are read."""


def read_social(path: Path, rows: RawRows) -> tuple[npt.NDArray[Any], str]:
    """Read the social edges between the users of a table of interactions.

    Args:
        path: the file: a header, then a line for each edge. The first user trusts, or is a friend of, the
            second; a friendship in both directions has two lines. Further columns are not read.
        rows: the interactions (N,), whose ids of users are numbers or text.

    Returns:
        (S, 2) pairs of ids of users who have a row, each pair once, none of a user with itself; and a note
        on how many lines they come from.

    Raises:
        DataError: if the file is damaged, has no second column or no header, or no pair names two users who
            have a row; the message names file and line.
    """
    separator = max(SEPARATORS, key=lambda one: _columns(path, one))
    header = read_header(path, separator)
    if len(header) < len(ENDS):
        raise DataError(f"{path} line 1: friends need two columns of user ids; it has {listed(header)}")
    text = rows.users.dtype == object
    users = np.asarray(pd.unique(rows.users))
    known = set(map(str, users.tolist()))
    if known.issuperset(header[: len(ENDS)]):
        pair = " and ".join(map(shown, header[: len(ENDS)]))
        raise DataError(f"{path} line 1: {pair} are users; the first line must name the columns: user,friend")
    kinds: list[Kind] = ["token" if text else "id"] * len(ENDS)
    kinds += ["skip"] * (len(header) - len(ENDS))
    layout = Layout(
        (*ENDS, *(f"column {name}" for name in header[len(ENDS) :])),
        tuple(kinds),
        separator,
        header=1,
        pattern=separator.join(header),
        hint=f"; {spelled('token_ids', 'True')} accepts ids of any text",
        quoted=True,
    )
    columns = read_delimited(path, layout)
    pairs = np.stack([columns[end] for end in ENDS], 1)  # (L, 2)
    ends = pd.Index(users).get_indexer(pairs.reshape(-1)).reshape(-1, 2)  # (L, 2) -1 where unknown
    of_two = (ends >= 0).all(1) & (ends[:, 0] != ends[:, 1])
    if not of_two.any():
        first = ", ".join(shown(str(value)) for value in pairs[:1].reshape(-1).tolist())
        raise DataError(
            f"{path}: no line names two users who are left; its first one has {first}, the interactions have "
            f"{', '.join(shown(str(user)) for user in users[:3].tolist())}"
        )
    found = np.unique(ends[of_two], axis=0)
    note = f"{len(found):,} social edges of {len(pairs):,} lines: each pair once, of users who are left"
    return users[found], note


def _columns(path: Path, separator: str) -> int:
    """Return the number of columns by a separator; of a line that is damaged by it, too many."""
    try:
        return len(read_header(path, separator))
    except DataError:
        return MOST_COLUMNS + 1  # chosen, so that reading the header raises the error again
