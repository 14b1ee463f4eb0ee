"""Reads Ciao and Epinions as published by Tang et al.: MATLAB matrices of ratings and of trust.

Letters: N ratings, S trust statements.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from refit_env.data.filters import RawRows
from refit_env.data.messages import listed
from refit_env.data.readers.file_lookup import all_files
from refit_env.data.readers.header_tables import ReadOptions
from refit_env.data.readers.matlab import read_matrix
from refit_env.errors import DataError

RATING_FILES = ("rating.mat", "rating_with_timestamp.mat", "epinions_rating_with_timestamp.mat")
"""Usual names of the ratings; columns userid, productid, categoryid, rating, helpfulness, optionally time."""
TRUST_FILES = ("trustnetwork.mat", "trust.mat", "epinion_trust_with_timestamp.mat")
"""Usual names of the trust statements; columns userid, userid, optionally time."""


def read_tang(source: Path, options: ReadOptions) -> RawRows:
    """Read rows of ``rating.mat`` and social edges of ``trustnetwork.mat``: who trusts whom.

    The files store whole numbers in the smallest type (uint8, uint16). They are read as doubles, so that
    nothing overflows, and checked before they become int64.

    Raises:
        DataError: if one of the two files is missing, is not a MATLAB file, or breaks a rule; the message
            names file and row.
    """
    rating_path, trust_path = all_files(source, (RATING_FILES, TRUST_FILES))
    rating = _matrix(rating_path, ("rating", "rating_with_timestamp"), (5, 6))  # (N, 5 or 6)
    trust = _matrix(trust_path, ("trustnetwork", "trust", "trust_with_timestamp"), (2, 3))  # (S, 2 or 3)
    users = _whole(rating_path, "userid", rating[:, 0])
    items = _whole(rating_path, "productid", rating[:, 1])
    stars = _finite(rating_path, "rating", rating[:, 3])
    times = _finite(rating_path, "time", rating[:, 5]) if rating.shape[1] == 6 else None
    social = np.stack([_whole(trust_path, "userid", trust[:, n]) for n in (0, 1)], axis=1)
    return RawRows(users, items, times, stars, unix=times is not None, social=social)


def _matrix(path: Path, names: tuple[str, ...], widths: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Read the matrix of a file: the variable with a usual name, or the only variable."""
    _, matrix = read_matrix(path, names)
    if matrix.ndim != 2:
        raise DataError(f"{path}: expected a matrix, found {matrix.ndim} dimensions")
    if matrix.shape[1] not in widths or not matrix.shape[0]:
        wanted, found = " or ".join(map(str, widths)), listed(map(str, matrix.shape))
        raise DataError(f"{path}: expected rows of {wanted} columns, found a matrix of shape ({found})")
    return matrix


def _whole(path: Path, name: str, values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Convert values (N,) to ids; raise an error unless they are whole numbers >= 0."""
    wrong = ~((values >= 0) & (values < 2**53) & (values == np.floor(values)))  # includes NaN
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{path} row {row}: {name} {values[row]:g} is not a whole number >= 0")
    return values.astype(np.int64)


def _finite(path: Path, name: str, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if (wrong := ~np.isfinite(values)).any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{path} row {row}: {name} is {values[row]}, expected a finite number")
    return values
