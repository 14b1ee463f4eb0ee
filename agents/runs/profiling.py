"""The cost of a piece of work: wall-clock seconds and peak memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MIB = 1024.0 * 1024.0
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_OPEN: dict[int, tuple[Usage, float]] = {}
"""Open measurements and their start times: an inner one must not reset the peak of an outer one."""


@dataclass
class Usage:
    """Cost of a piece of work; filled in when its ``measure`` block ends."""

    seconds: float = 0.0
    """Wall-clock time."""
    peak_memory_mib: float = 0.0
    """Peak resident memory of the process within the block, in MiB (libraries and data included).

    On Linux the kernel's high-water mark is reset when the block begins; elsewhere it is the peak of
    the process so far.
    """
    peak_device_memory_mib: float = 0.0
    """Peak memory that torch held on the CUDA device, in MiB; 0 where none is used."""

    def __add__(self, later: Usage) -> Usage:
        """The cost of two pieces of work, one after the other: the sum of the times, the higher peaks."""
        return Usage(
            self.seconds + later.seconds,
            max(self.peak_memory_mib, later.peak_memory_mib),
            max(self.peak_device_memory_mib, later.peak_device_memory_mib),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, rounded."""
        return {
            "seconds": round(self.seconds, 3),
            "peak_memory_mib": round(self.peak_memory_mib, 1),
            "peak_device_memory_mib": round(self.peak_device_memory_mib, 1),
        }


@contextmanager
def measure() -> Iterator[Usage]:
    """Measure the cost of a ``with`` block; the yielded usage is filled in at its end.

    Blocks may be nested; an outer block's peak is at least that of each inner one.

    Example:
        >>> with measure() as usage:
        ...     _ = sum(range(1000))
        >>> usage.seconds > 0 and usage.peak_memory_mib > 0
        True
    """
    usage = Usage()
    _note_peaks()
    _reset_peaks()
    _OPEN[id(usage)] = usage, time.perf_counter()
    try:
        yield usage
    finally:
        _wait_for_device()
        up_to_now(usage)
        del _OPEN[id(usage)]


def up_to_now(usage: Usage) -> Usage:
    """Fill in what a ``measure`` block has cost until now, if it is still under way; returns the usage."""
    if id(usage) in _OPEN:
        usage.seconds = time.perf_counter() - _OPEN[id(usage)][1]
        _note_peaks()
    return usage


def peak_memory_mib() -> float:
    """Return the peak resident memory of this process in MiB since the last reset (Linux) or its start."""
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / _MIB
    if sys.platform == "linux":
        peak = _high_water_mark()
        if peak is not None:
            return peak
    import resource

    unit = 1.0 if sys.platform == "darwin" else 1024.0  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB


def _note_peaks() -> None:
    """Raise every open measurement's peaks to what was reached since the last reset."""
    if not _OPEN:
        return
    memory, device = peak_memory_mib(), _device_peak_mib()
    for usage, _ in _OPEN.values():
        usage.peak_memory_mib = max(usage.peak_memory_mib, memory)
        usage.peak_device_memory_mib = max(usage.peak_device_memory_mib, device)


def _reset_peaks() -> None:
    """Begin new high-water marks where the platform can."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:  # not Linux, or not allowed: the peak is then that of the process so far
        pass
    if _cuda_in_use():
        import torch

        torch.cuda.reset_peak_memory_stats()


def _high_water_mark() -> float | None:
    """Return Linux's VmHWM in MiB."""
    try:
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024.0 / _MIB
    except OSError:
        return None
    return None


def _device_peak_mib() -> float:
    """Return the peak of torch's CUDA allocator in MiB."""
    if not _cuda_in_use():
        return 0.0
    import torch

    return torch.cuda.max_memory_allocated() / _MIB


def _wait_for_device() -> None:
    """Wait for queued kernels, so that their time is counted."""
    if _cuda_in_use():
        import torch

        torch.cuda.synchronize()


def _cuda_in_use() -> bool:
    """Return whether this process has begun to use CUDA; never the first to do so, nor to import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())
