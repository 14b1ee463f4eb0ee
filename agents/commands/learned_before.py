"""What a model that is carried over has learned already of the items that the new data holds out.

Letters: N held-out interactions, M learned interactions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from agents.commands.target import choose_target
from agents.runs.folder import RunFolder
from refit_env.data import Dataset, load_dataset
from refit_env.data.identity import DataIdentity
from refit_env.data.interactions import Interactions
from refit_env.data.known_ids import KnownIds, former_numbers

SPLITS = {"valid": "validation", "test": "test"}
"""What is held out, and its name."""


def learned_before(run: Path, known: DataIdentity | None, dataset: Dataset) -> str | None:
    """Return a note where the model of a run has learned items that new data holds out; None if it has not.

    Args:
        run: the folder of the former run; its data set is read, if it is still where it was.
        known: identity of that data set.
        dataset: the new data.
    """
    former = _former(run, known)
    if former is None or dataset.has_rows:
        if known is None or not known.validation:
            return None
        return (
            f"note: the model of {run} was fitted to the validation items of {known.name!r}, too: figures on "
            f"those that {dataset.name!r} holds out again are too high"
        )
    counts = learned_counts(former, dataset, validation=known is not None and known.validation)
    parts = [
        f"{count:,} of {len(getattr(dataset, split)):,} {SPLITS[split]} items"
        for split, count in counts.items()
        if count
    ]
    if not parts:
        return None
    return (
        f"note: the model of {run} has learned {' and '.join(parts)} of {dataset.name!r}: figures on them "
        "are too high. Compare models on items that came later than the data of both"
    )


def learned_counts(former: Dataset, dataset: Dataset, *, validation: bool) -> dict[str, int]:
    """Count the held-out interactions of a data set that are train interactions of a former one.

    Users and items are found by their source's ids.

    Args:
        former: what a model was trained on.
        dataset: the new data.
        validation: whether the model was fitted to the former validation items, too.

    Returns:
        Split -> number.

    Example:
        >>> data = load_dataset("synthetic")
        >>> learned_counts(data, data, validation=False)
        {'valid': 0, 'test': 0}
        >>> learned_counts(data, data, validation=True)["valid"] == len(data.valid)
        True
    """
    ids, now = KnownIds.of(former), KnownIds.of(dataset)
    items = former_numbers(ids.items, now.items)  # (I,)
    users = former_numbers(ids.users or [], now.users or [])  # (U,)
    own = np.arange(former.num_users), np.arange(former.num_items)
    learned = _keys(former.train, *own, former.num_items)  # (M,)
    if validation:
        learned = np.append(learned, _keys(former.valid, *own, former.num_items))
    return {
        split: int(np.isin(_keys(getattr(dataset, split), users, items, former.num_items), learned).sum())
        for split in SPLITS
    }


def _former(run: Path, known: DataIdentity | None) -> Dataset | None:
    """The data set of a run; None if it is not found, is another one by now, or has rows."""
    try:
        former = load_dataset(choose_target(None, None, fallback=RunFolder.open(run).config).dataset)
    except (ValueError, OSError):
        return None
    if former.has_rows or known is None or known.fingerprint != former.fingerprint:
        return None
    return former


def _keys(
    pairs: Interactions, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64], num_items: int
) -> npt.NDArray[np.int64]:
    """Return one number (N,) for each interaction, by the numbers of its user and item; -1 for new ones."""
    user, item = users[pairs.users], items[pairs.items]
    return np.asarray(np.where((user < 0) | (item < 0), -1, user * num_items + item))
