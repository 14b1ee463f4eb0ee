"""The sha256 of a data set's content: data sets with equal fingerprints produce equal results."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from refit_env.data.dataset import Dataset

_VERSION = b"refit-env data 1"
"""Version of the hashing rule. It is hashed first, so that a new rule produces new fingerprints."""


def fingerprint(dataset: Dataset) -> str:
    """Hash the content of a data set that models and evaluation read.

    This content is the task, the numbers of users and items, each split's items by user in their order, the
    timestamps, the social edges and the numeric item features. Names, source ids, ratings, the files' layout
    and their compression are not hashed.

    Args:
        dataset: the data set.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> from refit_env.data import load_dataset
        >>> len(load_dataset("synthetic").fingerprint)
        64
    """
    digest = hashlib.sha256(_VERSION)
    digest.update(f"{dataset.task} {dataset.num_users} {dataset.num_items} {dataset.time_ordered}".encode())
    for split in (dataset.train, dataset.valid, dataset.test):
        _add(digest, "indptr", split.indptr, "<i8")
        _add(digest, "items", split.items, "<i4")
        if split.timestamps is not None:
            _add(digest, "timestamps", split.timestamps, "<f8")
    if dataset.social is not None:
        _add(digest, "social", dataset.social, "<i4")
    for name, values in sorted((dataset.item_features or {}).items()):
        if values.dtype.kind in "fiu":
            _add(digest, name, values, "<f8")
    return digest.hexdigest()


def _add(digest: Any, name: str, values: npt.NDArray[Any], kind: str) -> None:
    """Hash an array with its name and shape, in the same byte order on every machine."""
    digest.update(f"|{name} {values.shape}|".encode())
    digest.update(np.ascontiguousarray(values, dtype=kind).tobytes())
