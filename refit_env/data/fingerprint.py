"""The sha256 of a data set's content: data sets with equal fingerprints produce equal results."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from refit_env.data.interactions import Interactions

_VERSION = b"refit-env data 1"
"""Version of the hashing rule. It is hashed first, so that a new rule produces new fingerprints."""


def fingerprint(
    task: str,
    splits: Sequence[Interactions],
    time_ordered: bool,
    social: npt.NDArray[np.int32] | None,
    item_features: Mapping[str, npt.NDArray[Any]] | None,
    dislikes: Sequence[Interactions] | None = None,
) -> str:
    """Hash the content of a data set that models and evaluation read.

    Names, source ids, ratings, the files' layout and their compression are not hashed.

    Args:
        task: its task.
        splits: train, valid and test; each user's items in their order, and the timestamps.
        time_ordered: whether each user's rows are sorted by time.
        social: (S, 2) directed user pairs, or None.
        item_features: name -> (I,) values, of which the numeric ones are hashed.
        dislikes: items that users rated low, in train, valid and test, or None.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> from refit_env.data import load_dataset
        >>> len(load_dataset("synthetic").fingerprint)
        64
    """
    digest = hashlib.sha256(_VERSION)
    digest.update(f"{task} {splits[0].num_users} {splits[0].num_items} {time_ordered}".encode())
    for split in splits:
        _add(digest, "indptr", split.indptr, "<i8")
        _add(digest, "items", split.items, "<i4")
        if split.timestamps is not None:
            _add(digest, "timestamps", split.timestamps, "<f8")
    if social is not None:
        _add(digest, "social", social, "<i4")
    for name, values in sorted((item_features or {}).items()):
        if values.dtype.kind in "fiu":
            _add(digest, name, values, "<f8")
    for split in dislikes or ():
        _add(digest, "dislikes indptr", split.indptr, "<i8")
        _add(digest, "dislikes", split.items, "<i4")
    return digest.hexdigest()


def _add(digest: Any, name: str, values: npt.NDArray[Any], kind: str) -> None:
    """Hash an array with its name and shape, in the same byte order on every machine."""
    digest.update(f"|{name} {values.shape}|".encode())
    digest.update(np.ascontiguousarray(values, dtype=kind).tobytes())
