"""Which data set a model was trained on, so that it meets no other one unnoticed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from refit_env.errors import DataError

if TYPE_CHECKING:
    from refit_env.data.dataset import Dataset

SHORT = 12
"""Digits of a fingerprint in messages."""


@dataclass(frozen=True)
class DataIdentity:
    """A data set, as far as it matters which one it is."""

    name: str
    """Of the catalogue or of a folder."""
    fingerprint: str | None
    """Of its content; None where a model was saved before fingerprints were."""
    source: str = ""
    """Where it was taken from."""

    @classmethod
    def of(cls, dataset: Dataset) -> DataIdentity:
        """The identity of a data set; rows and parts of one have that of the whole.

        Example:
            >>> from refit_env.data import load_dataset
            >>> data = load_dataset("synthetic")
            >>> DataIdentity.of(data).name, DataIdentity.of(data).fingerprint == data.fingerprint
            ('synthetic', True)
        """
        source = dataset.meta.get("source", "")
        listed = source if isinstance(source, list | tuple) else [source]
        return cls(dataset.name, dataset.fingerprint, ", ".join(str(part) for part in listed)[:200])

    def __str__(self) -> str:
        """Name, short fingerprint and source."""
        digits = "unknown" if self.fingerprint is None else self.fingerprint[:SHORT]
        return f"{self.name!r} (fingerprint {digits}{f', source {self.source!r}' if self.source else ''})"


def check_same_data(
    trained_on: DataIdentity | None, dataset: Dataset, what: str, advice: str | None = None
) -> None:
    """Refuse a data set that is not the one that a model was trained on.

    Models of which that is not known pass: they were made in memory, or saved by an earlier version.

    Args:
        trained_on: the model's.
        dataset: what it is to rank, or to be trained on.
        what: the model, for the message.
        advice: what would be right, for the message; None names the ways to allow another data set.

    Raises:
        DataError: if the fingerprints differ; it names both.
    """
    if trained_on is None or trained_on.fingerprint in (None, dataset.fingerprint):
        return
    if advice is None:
        advice = (
            "What is held out here may have been trained on there. Take the data set of the model; or, if "
            "another one is meant, pass --other-data (in Python other_data=True, to DiffusionPolicy.load or "
            "to the environment)"
        )
    raise DataError(
        f"{what} was trained on {trained_on}; this data set is {DataIdentity.of(dataset)}. {advice}"
    )
