"""The identity of the data set that a model was trained on, and a check against another data set."""

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
    """Name, fingerprint and source of a data set."""

    name: str
    """Name in the catalogue, or of a folder."""
    fingerprint: str | None
    """Fingerprint of the content; None for a model that was saved by a version without fingerprints."""
    source: str = ""
    """Source of the data."""
    validation: bool = False
    """Whether the model was fitted to the validation items, too (``refit refit``)."""

    @classmethod
    def of(cls, dataset: Dataset) -> DataIdentity:
        """Return the identity of a data set; a derived data set has the identity of its origin.

        Example:
            >>> from refit_env.data import load_dataset
            >>> data = load_dataset("synthetic")
            >>> DataIdentity.of(data).name, DataIdentity.of(data).fingerprint == data.fingerprint
            ('synthetic', True)
        """
        source = dataset.meta.get("source", "")
        listed = source if isinstance(source, list | tuple) else [source]
        text = ", ".join(str(part) for part in listed)[:200]
        return cls(dataset.name, dataset.fingerprint, text, dataset.validation_learned)

    def differs(self, dataset: Dataset) -> bool:
        """Return whether ``dataset`` is known to be another one."""
        return self.fingerprint not in (None, dataset.fingerprint)

    def __str__(self) -> str:
        """Return name, short fingerprint and source."""
        digits = "unknown" if self.fingerprint is None else self.fingerprint[:SHORT]
        return f"{self.name!r} (fingerprint {digits}{f', source {self.source!r}' if self.source else ''})"


def check_same_data(
    trained_on: DataIdentity | None, dataset: Dataset, what: str, advice: str | None = None
) -> None:
    """Raise an error if a data set is not the one that a model was trained on, with the same train items.

    A model without an identity passes: it was made in memory, or saved by an earlier version.

    Args:
        trained_on: the identity of the model's data set.
        dataset: the data set on which the model is to be used.
        what: the model, for the message.
        advice: how to correct it, for the message; None names the ways to allow another data set.

    Raises:
        DataError: if the fingerprints differ (the message names both), or the model was fitted to validation
            items that are none of the data set's train items.
    """
    if trained_on is None:
        return
    if trained_on.validation and not dataset.validation_learned and not trained_on.differs(dataset):
        raise DataError(
            f"{what} was fitted to the validation items of {dataset.name!r}, too, so that none is left to "
            "choose by. Use the run that it was made from; in Python `dataset.learning_validation()` has "
            "these items in its train split, to measure the model on test"
        )
    if not trained_on.differs(dataset):
        return
    if advice is None:
        advice = (
            "The model may have been trained on items that are held out here. Use the model's data set, or "
            "pass --other-data to use another one (in Python other_data=True, to DiffusionPolicy.load or to "
            "the environment)"
        )
    raise DataError(
        f"{what} was trained on {trained_on}; this data set is {DataIdentity.of(dataset)}. {advice}"
    )
