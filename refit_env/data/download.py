"""Downloads from official hosts, checked by checksum."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from refit_env.data.catalog import Source
from refit_env.data.recipes import recipes_for
from refit_env.errors import DataError


def fetch(entry: Source, home: Path) -> Path:
    """Download the official file of a data set into ``home/raw/<name>``.

    Returns:
        The folder.

    Raises:
        DataError: if the host does not answer or the checksum differs; the message names the file, the page
            to get it from, and the folder to put it in.
    """
    if entry.url is None or entry.sha256 is None:
        raise DataError(how_to_get(entry, [home]))
    import pooch  # slow to import, and rarely needed

    folder = home / "raw" / entry.name
    file = entry.url.rsplit("/", 1)[-1]
    try:
        pooch.retrieve(entry.url, f"sha256:{entry.sha256}", fname=file, path=folder)
    except Exception as error:  # requests, urllib3, pooch and the system each raise different types
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(
            f"{entry.url} could not be fetched ({reason}); {how_to_get(entry, [home])}"
        ) from error
    return folder


def how_to_get(entry: Source, homes: Sequence[Path]) -> str:
    """Return instructions: which files to fetch, from where, and into which folder (the first data home)."""
    ways = dict.fromkeys(  # several recipes may read the same file
        f"{recipe.files_in_words(entry.name)} from {recipe.page or entry.page}"
        for recipe in recipes_for(entry.name)
    )
    return (
        f"data set {entry.name!r} is not here: get {', or '.join(ways)} ({entry.licence}) and put it "
        f"into {homes[0] / 'raw' / entry.name}, or run 'refit data prepare {entry.name} --source FOLDER'. "
        f"Searched: {', '.join(map(str, homes))} (REFIT_DATA_HOME sets the first)."
    )
