"""The hardware and the versions of a measurement."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("refit-env", "torch", "gymnasium", "numpy", "scipy", "pandas", "stable-baselines3")
"""What a measurement depends on."""


def machine() -> dict[str, Any]:
    """Processor, threads, load and GPU; JSON-plain. Values from torch are None where it is not imported."""
    torch = sys.modules.get("torch")
    return {
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability() if torch else None,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads() if torch else None,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None,
    }


def machine_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the machine of a cell's record; older records hold it at their top level.

    Example:
        >>> machine_of({"provenance": {"machine": {"gpu": "H200"}}}), machine_of({})
        ({'gpu': 'H200'}, {})
    """
    found: Mapping[str, Any] = (record.get("provenance") or record).get("machine") or {}
    return found


def made_with() -> dict[str, str]:
    """Return the versions and machine for ``config.json``."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # a source tree on the path, not installed
            versions[package] = "unknown"
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
    } | versions


def _processor() -> str:
    """Return the processor's name, if the system has it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
