"""Free memory of the machine or of a GPU, a refusal of work that needs more, and what the C library keeps."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from refit_env.utils.locks import fork_lock

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
"""Limits of a container (version 2 of control groups)."""
LARGEST_KEPT = 32 * 2**20
"""Bytes of the largest array that glibc keeps when it is freed; larger ones go back to the kernel."""
SPARE = 32
"""Least number of arrays that must fit into the free memory before it is kept."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of glibc's ``mallopt``."""
_keeping = 0
"""Number of contexts of ``arrays_kept`` that are open."""
_LOCK = fork_lock()
_OWN_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def check_memory(needed: int, device: torch.device | str, what: str) -> None:
    """Refuse work that needs more memory than is free; where that is not known, nothing is refused.

    Args:
        needed: bytes.
        device: where they are needed.
        what: the work, for the message: ``a system of 40,981 equations``.

    Raises:
        ValueError: with what is needed and what is free.
    """
    device = torch.device(device)
    free = free_memory(device)
    if free is not None and needed > free:
        where = f" on {device}" if device.type != "cpu" else ""
        raise ValueError(
            f"{what} needs {_size(needed)} of memory{where}; {_size(free)} are free, "
            f"{_size(needed - free)} too few"
        )


def free_memory(device: torch.device | str) -> int | None:
    """Return the bytes that are free on a device, or None where that is not known.

    On a GPU the memory that torch holds and does not use counts as free; on Linux so does what the kernel
    can take back, within the limit of the container.
    """
    device = torch.device(device)
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if device.type != "cpu":
        return None
    known = [bytes_ for bytes_ in (_available(), _container()) if bytes_ is not None]
    return min(known, default=None)


def _available() -> int | None:
    """Bytes that the kernel can give out; without ``/proc/meminfo``, all of the machine's."""
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _container() -> int | None:
    """Bytes up to the container's limit, cached files not counted; None without a limit."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        lines = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(lines.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None


@contextmanager
def arrays_kept(largest: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Return a context in which the memory of freed arrays is kept for the next ones.

    glibc returns arrays above ``LARGEST_KEPT`` bytes to the kernel when they are freed, and the kernel clears
    the memory of the next one page by page, which is slower than filling it. Within the context they are
    kept; at the end of the outermost one what is free goes back. Arrays of different sizes leave gaps, so
    that the peak is higher. Nothing changes where the arrays are smaller or on a GPU, where fewer than
    ``SPARE`` of them fit into the free memory, where the C library is another one, or where environment
    variables set its allocator.

    Args:
        largest: bytes of the arrays that are allocated again and again.
        device: where they are.
    """
    libc = _glibc()
    own = any(name in os.environ for name in _OWN_SETTINGS)
    small = largest <= LARGEST_KEPT or torch.device(device).type != "cpu"
    if libc is None or own or small or (free_memory(device) or 0) < SPARE * largest:
        yield
        return
    global _keeping
    with _LOCK:
        _keeping += 1
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        with _LOCK:
            _keeping -= 1
            if not _keeping:  # what glibc reaches by itself after large arrays were freed
                libc.mallopt(_MMAP_MAX, 65_536)
                libc.mallopt(_MMAP_THRESHOLD, LARGEST_KEPT)
                libc.mallopt(_TRIM_THRESHOLD, 2 * LARGEST_KEPT)
                libc.malloc_trim(0)


@cache
def _glibc() -> Any:
    """Return glibc; None where the C library is another one."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def _size(count: int) -> str:
    """Format bytes: ``6.7 GB``."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
