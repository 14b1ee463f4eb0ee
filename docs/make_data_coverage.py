"""Write refit_env/data/measured.json: counts and fingerprint of each data set behind the published tables.

Run it where the data sets are (REFIT_DATA_HOME): ``python docs/make_data_coverage.py``. A set that is not
there keeps its entry. ``--check`` changes nothing and fails where an entry is not that of the data; after a
change, ``make docs`` renews the pages.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict

from refit_env.data import list_datasets, load_dataset
from refit_env.data.catalog import CATALOG, known_names
from refit_env.data.coverage import FILE, Measured, measured
from refit_env.data.home import find_raw
from refit_env.data.interactions import SPLITS
from refit_env.utils.atomic_io import write_json


def entries() -> dict[str, Measured]:
    """The entry of every known data set: of the data where they are, else the one that is written down."""
    out = {}
    for name, folder in list_datasets().items():
        if name not in known_names():
            continue  # one's own
        here = name not in CATALOG or folder is not None or find_raw(CATALOG[name]) is not None
        if here:
            data = load_dataset(name)
            rows = sum(len(data.split(split)) for split in SPLITS)
            out[name] = Measured(data.num_users, data.num_items, rows, data.fingerprint)
        elif FILE.is_file() and name in measured():
            out[name] = measured()[name]
    return out


def main(arguments: Sequence[str]) -> int:
    """Write the file, or with ``--check`` compare it."""
    found = entries()
    if "--check" not in arguments:
        write_json(FILE, {name: asdict(entry) for name, entry in sorted(found.items())})
        print(f"wrote {FILE.name}: {len(found)} data sets")
        return 0
    stale = [name for name, entry in found.items() if measured().get(name) != entry]
    for name in stale:
        print(
            f"{FILE.name}: {name} is {measured().get(name)}, the data here are {found[name]}", file=sys.stderr
        )
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
