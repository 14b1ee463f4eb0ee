"""A folder is written beside its place and swapped in: at any moment the old or the new is there, whole."""

from __future__ import annotations

import ctypes
import glob
import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock

_EXCHANGE = 2
"""The flag of ``renameat2`` and of ``renamex_np`` that exchanges two names."""
_HERE = -100
"""Linux's AT_FDCWD: paths are taken as ``open`` takes them."""


def cache_folder() -> Path:
    """The user's cache folder of this package, which need not be there."""
    return Path(platformdirs.user_cache_dir("refit-env"))


def lock_of(folder: Path | str, purpose: str) -> FileLock:
    """The lock of a folder, kept in the cache folder, so that the folder's neighbours get no lock file.

    Args:
        folder: what is locked; another spelling of the same path has the same lock.
        purpose: what for, a word; two purposes are two locks.

    Returns:
        The lock, not yet taken.
    """
    digest = hashlib.sha256(os.fsencode(Path(folder).resolve())).hexdigest()[:32]
    place = cache_folder() / ".locks"
    try:
        place.mkdir(parents=True, exist_ok=True)
        usable = os.access(place, os.W_OK)
    except OSError:
        usable = False
    if not usable:
        owner = os.getuid() if hasattr(os, "getuid") else "user"
        place = Path(tempfile.gettempdir()) / f"refit-env-locks-{owner}"
        place.mkdir(exist_ok=True)
    return FileLock(str(place / f"{digest}.{purpose}.lock"))


@contextmanager
def atomic_folder(target: Path | str) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` to fill; it takes the target's place when the block ends well.

    After an error nothing is left of it, and the target is as it was. What earlier writers that were killed
    left beside the target is removed first. One process at a time writes a target; others wait.
    """
    target = Path(target).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with lock_of(target, "write"):
        restore(target)
        remove_leftovers(target)
        new = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        try:
            yield new
            umask = os.umask(0)  # mkdtemp makes folders for the owner alone; give what mkdir would have given
            os.umask(umask)
            new.chmod(0o777 & ~umask)
            _put(new, target)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def restore(target: Path) -> None:
    """Put the old folder back where a kill fell between the two renames of a swap.

    That can happen only where the system cannot exchange two names in one step.
    """
    aside = _aside(target)
    if not target.exists() and aside.is_dir():
        try:
            aside.rename(target)
        except OSError:  # another process was faster, or may write here
            return


def remove_leftovers(target: Path) -> None:
    """Remove what killed writers of ``target`` left beside it; its lock must be held."""
    for left in [*target.parent.glob(f"{glob.escape(_prefix(target))}*"), _aside(target)]:
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)


def _put(new: Path, target: Path) -> None:
    """Give ``new`` the name ``target``; what was there is then in ``new``, or removed."""
    if not target.exists():
        new.rename(target)
    elif not exchange(new, target):
        aside = _aside(target)
        target.rename(aside)
        new.rename(target)
        shutil.rmtree(aside, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system cannot."""
    names = os.fsencode(one), os.fsencode(other)
    system = platform.system()
    if system == "Linux":
        rename = getattr(ctypes.CDLL(None), "renameat2", None)  # None before glibc 2.28
        return rename is not None and bool(rename(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0)
    if system == "Darwin":
        rename = getattr(ctypes.CDLL(None), "renamex_np", None)
        return rename is not None and bool(rename(*names, _EXCHANGE) == 0)
    return False


def _prefix(target: Path) -> str:
    return f".{target.name}.writing-"


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")
