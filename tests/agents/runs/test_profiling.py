from __future__ import annotations

import json
import mmap
import subprocess
import sys
import time

import pytest

from agents.runs.profiling import measure, peak_memory_mib

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets the high-water mark")


def touch(mib: int) -> None:
    """Use fresh pages; an array may be given memory that an earlier test has freed."""
    with mmap.mmap(-1, mib * 2**20) as pages:
        for page in range(0, len(pages), mmap.PAGESIZE):
            pages[page] = 1


def test_seconds_are_those_of_the_block() -> None:
    before = time.perf_counter()
    with measure() as usage:
        time.sleep(0.05)
    assert 0.05 <= usage.seconds <= time.perf_counter() - before
    assert json.loads(json.dumps(usage.to_json()))["seconds"] == round(usage.seconds, 3)


@linux
def test_each_block_has_a_peak_of_its_own() -> None:
    with measure() as big:
        touch(200)
    with measure() as small:
        touch(1)
    assert big.peak_memory_mib > small.peak_memory_mib + 150


@linux
def test_a_nested_block_does_not_hide_the_outer_peak() -> None:
    with measure() as outer:
        touch(200)
        with measure() as first:
            touch(1)
        with measure() as second:
            touch(100)
    assert outer.peak_memory_mib > first.peak_memory_mib + 150
    assert second.peak_memory_mib > first.peak_memory_mib + 50


def test_the_usage_is_filled_in_when_the_block_fails() -> None:
    with pytest.raises(RuntimeError), measure() as usage:
        raise RuntimeError
    assert usage.seconds > 0 and usage.peak_memory_mib > 0
    with measure() as later:  # the failed block is not open any more
        touch(1)
    assert later.peak_memory_mib > 0


def test_peak_memory_is_plausible() -> None:
    assert 5 < peak_memory_mib() < 100_000


def test_measuring_does_not_import_torch() -> None:
    code = """
import sys
from agents.runs.profiling import measure
with measure():
    pass
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
