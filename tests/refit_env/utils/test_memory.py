"""Free memory is read from the kernel and from the container's limit; glibc keeps freed arrays for a time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from refit_env.utils import memory
from refit_env.utils.memory import LARGEST_KEPT, SPARE


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GB, of which the kernel can give out 5 GB, without a container."""
    (tmp_path / "meminfo").write_text("MemTotal: 8000000 kB\nMemAvailable: 5000000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    return tmp_path


def test_what_the_kernel_can_give_out_is_free(machine: Path) -> None:
    assert memory.free_memory("cpu") == 5_000_000 * 1024


def test_a_container_lowers_it_by_what_is_in_use_but_not_by_cached_files(machine: Path) -> None:
    (machine / "memory.max").write_text("3000000000\n")
    (machine / "memory.current").write_text("2500000000\n")
    (machine / "memory.stat").write_text("anon 1\ninactive_file 200000000\n")
    assert memory.free_memory("cpu") == 700_000_000
    (machine / "memory.max").write_text("max\n")
    assert memory.free_memory("cpu") == 5_000_000 * 1024


def test_without_meminfo_it_is_the_machines_memory(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "meminfo").unlink()
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}[name])
    assert memory.free_memory("cpu") == 4_096_000


def test_the_refusal_names_both_sizes_and_nothing_is_refused_where_they_are_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 3_210_000_000)
    memory.check_memory(3_210_000_000, "cpu", "a matrix")
    with pytest.raises(ValueError, match=r"a matrix needs 6.7 GB of memory; 3.2 GB are free"):
        memory.check_memory(6_718_000_000, "cpu", "a matrix")
    with pytest.raises(ValueError, match=r"needs 6.7 GB of memory on cuda; 3.2 GB are free"):
        memory.check_memory(6_718_000_000, "cuda", "a matrix")
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    memory.check_memory(10**18, "cpu", "a matrix")


KEPT = """
import os, torch
from refit_env.utils import memory
from refit_env.utils.memory import LARGEST_KEPT, arrays_kept

memory.free_memory = lambda device: {free}

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def use(size):  # allocates, fills and frees
    torch.ones(size // 4)

size = 4 * LARGEST_KEPT
start = resident()
use(size)
freed = resident() - start
with arrays_kept({largest}):
    with arrays_kept({largest}):
        use(size)
    kept = resident() - start
print(freed < size / 2, kept > size / 2, resident() - start < size / 2)
"""


def kept(largest: int, free: int | None, **variables: str) -> str:
    """Run ``KEPT`` in a process of its own: what was freed before, is kept within, and is freed after."""
    code = KEPT.format(largest=largest, free=free)
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize(
    ("case", "largest", "arrays"),
    [
        ("large", LARGEST_KEPT + 1, SPARE),
        ("small", LARGEST_KEPT, SPARE),
        ("little memory", LARGEST_KEPT + 1, SPARE - 1),
        ("own settings", LARGEST_KEPT + 1, SPARE),
    ],
)
def test_the_memory_of_large_arrays_is_kept_within_the_block_alone(
    case: str, largest: int, arrays: int
) -> None:
    variables = {"MALLOC_TRIM_THRESHOLD_": "100000"} if case == "own settings" else {}
    found = kept(largest, arrays * largest, **variables)
    assert found == ("True True True" if case == "large" else "True False True")


def test_without_glibc_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with memory.arrays_kept(10**12):
        pass
