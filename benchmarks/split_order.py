"""Measures in which order of time a data set's splits follow each other, by consecutive items.

    python -m benchmarks.split_order ml-1m nyc

Two items that follow each other in many train rows have a large lift:

    lift(i, j) = N * count(i then j) / (count(i) * count(j)),    counts of the train rows, N interactions.

If the test items follow the train items directly, the mean lift of (last train item, first test item) is
larger than that of (last train item, first validation item). Nothing is trained or chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from refit_env.data import Dataset, load_dataset
from refit_env.data.interactions import SPLITS, Interactions

Items = npt.NDArray[np.int32]


def lifts(dataset: Dataset) -> dict[tuple[str, str], float]:
    """Return the mean lift of (last item of one split, first item of another) for each pair of splits.

    Args:
        dataset: each row sorted by time.

    Raises:
        ValueError: if the rows are not sorted by time.
    """
    if not dataset.time_ordered:
        raise ValueError(f"the rows of {dataset.name!r} are not sorted by time")
    train = dataset.train
    counts = np.bincount(train.items, minlength=train.num_items) + 1.0  # (I,)
    same = train.users[1:] == train.users[:-1]
    pairs = train.items[:-1][same], train.items[1:][same]
    table = sp.csr_matrix((np.ones(same.sum()), pairs), (train.num_items, train.num_items))  # (I, I)
    full = np.all([dataset.split(name).counts > 0 for name in SPLITS], axis=0)  # (U,) has items in all splits
    out = {}
    for before in SPLITS:
        for after in SPLITS:
            if before != after:
                last, first = _last(dataset.split(before))[full], _first(dataset.split(after))[full]
                together = np.asarray(table[last, first]).ravel()
                out[before, after] = float((len(train) * together / (counts[last] * counts[first])).mean())
    return out


def _first(rows: Interactions) -> Items:
    """Return each user's first item (U,); any item for an empty row."""
    return rows.items[np.minimum(rows.indptr[:-1], len(rows) - 1)]


def _last(rows: Interactions) -> Items:
    """Return each user's last item (U,); any item for an empty row."""
    return rows.items[np.maximum(rows.indptr[1:] - 1, 0)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line a data set and pair of splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", nargs="+", help="names or folders of data sets")
    for name in parser.parse_args(arguments).data:
        for (before, after), lift in lifts(load_dataset(name)).items():
            print(f"{name}: last {before} item -> first {after} item: mean lift {lift:.1f}")


if __name__ == "__main__":
    main()
