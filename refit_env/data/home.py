"""The data homes (folders that hold data sets) and ``load_dataset``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from refit_env.data.canonical import INFO, is_canonical, load_canonical
from refit_env.data.catalog import CATALOG, Source, known_names
from refit_env.data.dataset import Dataset
from refit_env.data.download import fetch, how_to_get
from refit_env.data.mapped import is_mapped, load_mapped
from refit_env.data.recipes import recipes_for
from refit_env.data.synthetic import synthesize
from refit_env.errors import DataError, unknown_name
from refit_env.utils.atomic_io import file_state
from refit_env.utils.content_cache import CACHE
from refit_env.utils.folders import cache_folder, held, lock_of, restore

HOME_VARIABLE = "REFIT_DATA_HOME"


def data_homes() -> list[Path]:
    """Return the folders that are searched: ``$REFIT_DATA_HOME`` if set, then the platform's cache folder."""
    cache = cache_folder()
    chosen = os.environ.get(HOME_VARIABLE)
    return [Path(chosen), cache] if chosen else [cache]


def load_dataset(name_or_folder: str | Path) -> Dataset:
    """Load a data set by catalogue name or from a canonical folder.

    The function searches every data home for ``<home>/<name>``. If the data set is not there but its official
    files are (``<home>/raw/<name>/``), it is prepared from them into the first writable home; otherwise it is
    downloaded, where the official host offers a download. A message on standard error announces both. Locks
    are in the cache folder, and a home that is not writable is only read. A data set is read once per
    process.

    Args:
        name_or_folder: a name of ``refit data list`` (a known one, or the user's own set in a data home),
            ``"synthetic"``, or a folder in canonical form or of ``refit_env.data.mapped``.

    Raises:
        ValueError: for a name that is neither known, nor in a data home, nor a folder, with a did-you-mean.
        DataError: if the files are missing (the message names which to get, from where, and where to put
            them), or break a rule; for a name that means two data sets.

    Example:
        >>> load_dataset("synthetic").num_items
        400
    """
    name = str(name_or_folder)
    if name == "synthetic":
        return CACHE.get("data set", ("synthetic",), synthesize)
    if name in CATALOG:
        folder = _find(name)
    elif isinstance(name_or_folder, Path) or os.sep in name:
        folder = Path(name_or_folder)
        restore(folder)
    else:
        meant = named_folder(name)
        if meant is None:
            raise unknown_name("data set", name, list_datasets())
        folder = meant
    if is_mapped(folder):
        return _load(folder.resolve(), load_mapped)
    if not is_canonical(folder):
        raise DataError(
            f"{folder}: no canonical data set there ({INFO} and interactions.parquet); "
            "'refit data prepare' creates one"
        )
    return _load(folder.resolve())


def named_folder(name: str) -> Path | None:
    """Return the folder of a name or path: of a data set in a data home, else a folder; None without either.

    Raises:
        DataError: for a name that is a data set in a data home and another one in the working directory.
    """
    here = Path(name)
    own = find_dataset(name) if len(here.parts) == 1 else None
    if own is None:
        return here if here.is_dir() else None
    if is_canonical(here) and here.resolve() != own.resolve():
        raise DataError(
            f"{name!r} is a data set in the data home, {own}, and another one in the working directory, "
            f"{here.resolve()}: write the whole path of the one that is meant"
        )
    return own


def find_dataset(name: str) -> Path | None:
    """Return the canonical folder of a data set, known or the user's own; None if no home holds it."""
    for home in data_homes():
        restore(home / name)
        if is_canonical(home / name):
            return home / name
    return None


def list_datasets() -> dict[str, Path | None]:
    """Return every known name with its canonical folder, or None where it is missing or ``synthetic``.

    The user's own sets in the data homes follow, sorted by name.
    """
    found = {name: None if name == "synthetic" else find_dataset(name) for name in known_names()}
    folders = [folder for home in data_homes() if home.is_dir() for folder in home.iterdir()]
    own = {folder.name for folder in folders if is_canonical(folder)} - set(found)
    return found | {name: find_dataset(name) for name in sorted(own)}


def find_raw(entry: Source) -> Path | None:
    """Return the folder with the official files for one of a data set's recipes, or None."""
    known = recipes_for(entry.name)
    for home in data_homes():
        for folder in (home / "raw" / entry.name, home / "raw" / f"{entry.name}_clean"):
            if any(recipe.found_in(entry.name, folder) for recipe in known):
                return folder
    return None


def writable_home() -> Path:
    """Return the first writable data home; create it if it does not exist.

    Raises:
        DataError: if no home is writable.
    """
    for home in data_homes():
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if (
            os.access(home, os.W_OK) and home.stat().st_mode & 0o200
        ):  # root can write anywhere: check the mode
            return home
    raise DataError(
        f"no data home can be written to: {', '.join(map(str, data_homes()))}; set {HOME_VARIABLE}"
    )


def check_available(name: str) -> None:
    """Check that a data set of the catalogue is in a data home, or can be made; nothing is read.

    Args:
        name: of the catalogue; other names are not checked.

    Raises:
        DataError: if its files are missing; the message names which to get, from where, and where to put
            them.
    """
    entry = CATALOG.get(name)
    if entry is not None and find_dataset(name) is None and find_raw(entry) is None and entry.url is None:
        raise DataError(how_to_get(entry, data_homes()))


def _find(name: str) -> Path:
    """Return the canonical folder of a known name; if missing, download or prepare it under a lock."""
    found = find_dataset(name)
    if found is not None:
        return found
    check_available(name)
    entry = CATALOG[name]
    raw = find_raw(entry)
    home = writable_home()
    folder = home / name
    with held(lock_of(folder, "prepare")):
        if is_canonical(folder):  # another process prepared it while this one waited
            return folder
        from refit_env.data.prepare import prepare

        if raw is None:
            _report(f"fetching {entry.url} into {home / 'raw' / name}")
            raw = fetch(entry, home)
        _report(f"preparing {name} from {raw} into {folder}, once")
        prepare(name, raw, out=folder)
    return folder


def _report(message: str) -> None:
    """Announce on standard error what is written into the user's folders."""
    print(f"refit-env: {message}", file=sys.stderr, flush=True)


def _load(folder: Path, load: Callable[[Path], Dataset] = load_canonical) -> Dataset:
    """Read a folder, or take its data set from the process's cache; a changed file is read again."""
    states = (file_state(file) for file in sorted(folder.iterdir()))
    return CACHE.get("data set", (str(folder), *states), lambda: load(folder))
