"""Atomic writing of folders: a folder is written beside the target, then exchanged with it.

At any time the target is the complete old folder or the complete new one.
"""

from __future__ import annotations

import ctypes
import glob
import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
from filelock import FileLock, UnixFileLock

_EXCHANGE = 2
"""The flag of ``renameat2`` and of ``renamex_np`` that exchanges two names."""
_HERE = -100
"""Linux's AT_FDCWD: relative paths start at the working directory."""


def cache_folder() -> Path:
    """Return the user's cache folder of this package, which may not exist."""
    return Path(platformdirs.user_cache_dir("refit-env"))


def lock_of(folder: Path | str, purpose: str) -> FileLock:
    """Return the lock of a folder; its lock file is in the cache folder.

    Args:
        folder: folder to lock; another spelling of the same path has the same lock.
        purpose: name of the purpose; each purpose has its own lock.

    Returns:
        The lock, not acquired.
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


def release(lock: FileLock) -> None:
    """Release a lock and remove its file.

    The file is removed while the lock is held: a process that waits for it then finds that it holds the lock
    of a removed file, and makes the file anew (filelock >= 3.30). On Windows filelock removes it.

    Args:
        lock: acquired once, by this process.
    """
    if isinstance(lock, UnixFileLock):
        with suppress(OSError):
            os.unlink(lock.lock_file)
    lock.release()


@contextmanager
def held(lock: FileLock) -> Iterator[None]:
    """Acquire a lock for the block; after it the lock file is removed."""
    lock.acquire()
    try:
        yield
    finally:
        release(lock)


@contextmanager
def atomic_folder(target: Path | str) -> Iterator[Path]:
    """Yield an empty folder beside ``target``; it replaces the target if the block ends without an error.

    After an error the new folder is removed and the target unchanged. Temporary folders of killed processes
    are removed first. One process at a time writes a target; others wait.
    """
    target = Path(target).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with held(lock_of(target, "write")):
        restore(target)
        remove_leftovers(target)
        new = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        try:
            yield new
            umask = os.umask(0)  # mkdtemp creates private folders; set the permissions that mkdir would set
            os.umask(umask)
            new.chmod(0o777 & ~umask)
            _put(new, target)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def restore(target: Path) -> None:
    """Restore the old folder if a process was killed between the two renames of an exchange.

    This can happen only where the system cannot exchange two names in one step.
    """
    aside = _aside(target)
    if not target.exists() and aside.is_dir():
        try:
            aside.rename(target)
        except OSError:  # another process restored it, or this one may not write here
            return


def remove_leftovers(target: Path) -> None:
    """Remove temporary folders of killed processes beside ``target``; the caller must hold its lock."""
    for left in [*target.parent.glob(f"{glob.escape(_prefix(target))}*"), _aside(target)]:
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)


def _put(new: Path, target: Path) -> None:
    """Rename ``new`` to ``target``; the old target becomes ``new``, or is removed."""
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
