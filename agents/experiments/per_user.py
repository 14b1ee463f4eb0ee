"""A metric user by user in a few characters, so that records can be compared over users later.

Values are in [0, 1] and are kept to 1 / 65535, which changes no mean by more than 8e-6.

Letters: n users.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from refit_env.errors import DataError
from refit_env.evaluation.statistics import PairedBootstrap, paired_bootstrap

LARGEST = 65_535
"""What a value of 1 is written as."""
LARGEST_USERS = 10**8
"""Users of the largest record that is read."""
_VALUES, _COUNTS = "<u2", "<u4"
"""Numbers of packed values, and of packed counts."""


def pack(values: npt.NDArray[np.float64]) -> str:
    """Write (n,) values as text.

    Example:
        >>> unpack(pack(np.array([0.0, 0.5, 1.0]))).round(4).tolist()
        [0.0, 0.5, 1.0]
    """
    return pack_counts(np.rint(np.clip(values, 0, 1) * LARGEST), _VALUES)


def unpack(text: str) -> npt.NDArray[np.float64]:
    """Read what ``pack`` wrote: (n,) values.

    Raises:
        ValueError: if the text is another one.
    """
    return unpack_counts(text, _VALUES) / LARGEST


def pack_counts(counts: npt.ArrayLike, kind: str = _COUNTS) -> str:
    """Write (n,) whole numbers as text.

    Args:
        counts: from 0 to the largest one of ``kind``.
        kind: how NumPy calls a number of the text.

    Example:
        >>> unpack_counts(pack_counts([3, 0, 70_000])).tolist()
        [3, 0, 70000]
    """
    content = np.asarray(counts).astype(kind).tobytes()
    return base64.b64encode(zlib.compress(content, 9)).decode("ascii")


def unpack_counts(text: str, kind: str = _COUNTS) -> npt.NDArray[np.int64]:
    """Read what ``pack_counts`` wrote: (n,) whole numbers.

    Raises:
        ValueError: if the text is another one.
    """
    try:
        unpacker, size = zlib.decompressobj(), np.dtype(kind).itemsize
        content = unpacker.decompress(base64.b64decode(text, validate=True), size * LARGEST_USERS)
        if not unpacker.eof:
            raise ValueError("they end too early, or are too many")
        return np.frombuffer(content, kind).astype(np.int64)
    except (zlib.error, TypeError, ValueError) as error:
        raise ValueError(f"no packed values: {error}") from None


def values_of(record: Mapping[str, Any], metric: str) -> npt.NDArray[np.float64]:
    """A metric of a record user by user: (n,).

    Raises:
        DataError: if the record does not hold it.
    """
    text = (record.get("per_user") or {}).get(metric)
    if text is None:
        raise DataError(f"the record of {record.get('key')} holds no {metric} of single users")
    return unpack(text)


def paired(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    metric: str,
    groups: npt.NDArray[np.int64] | None = None,
) -> PairedBootstrap:
    """Bootstrap over users of ``after - before``, of two records that measured the same users.

    Args:
        before: a record.
        after: the other one.
        metric: of both.
        groups: (n,) users with one number are drawn together; None draws each alone.

    Raises:
        DataError: if one of them does not hold the metric, or they have other numbers of users.
    """
    old, new = values_of(before, metric), values_of(after, metric)
    if old.shape != new.shape:
        raise DataError(f"{before.get('key')} has {old.size} users, {after.get('key')} has {new.size}")
    return paired_bootstrap(old, new, groups=groups)


def over_users(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    metric: str,
    groups: npt.NDArray[np.int64] | None = None,
) -> dict[str, float | None]:
    """What records keep of ``paired``: the difference, its interval and, with ``groups``, their number.

    The ends are None where the interval is not known, of a single user or group.
    """
    found = paired(before, after, metric, groups)
    whole = found.to_json()
    out = {name: whole[name] for name in ("mean_difference", "low", "high")}
    return out if groups is None else out | {"groups": len(np.unique(groups))}
