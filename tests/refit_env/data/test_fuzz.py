"""Every damaged file of every format either loads or raises an error of one short line."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

from refit_env.data.readers.formats import FORMATS
from tests.fuzzing import generators
from tests.fuzzing_data import Case, Files, binary_cases, text_cases

resource = pytest.importorskip("resource", reason="needs Unix's limits of time and memory")

LONGEST = 500
"""Most characters of a message."""
GROWTH = 2**30
"""Most bytes by which a test may raise the peak of memory."""
HANG = 60
"""Time limit of a reader in seconds; a usual file needs milliseconds."""

TEXTS = "u.data ratings.dat csv inter lightgcn yoochoose kuairec zhihu zhihu1M tsmc2014 lbsn yelp".split()
BINARIES = "diffrec tang recdiff dreamrec pickle canonical".split()
CASES = (*TEXTS, "csv of text", *BINARIES, "canonical places")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path_factory.mktemp("cache")))
        return text_cases() | binary_cases(tmp_path_factory.mktemp("made"))


@contextmanager
def guarded() -> Iterator[None]:
    """Raise an error in a reader that exceeds the time limit."""

    def stop(number: int, frame: object) -> None:
        raise AssertionError(f"a file hung its reader for {HANG} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak() -> int:
    """Return the peak memory of this process in bytes."""
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


def write(folder: Path, files: Files) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_every_format_is_tried() -> None:
    assert set(FORMATS) <= set(CASES)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", CASES)
def test_damaged_files_are_read_or_refused_by_a_short_line(
    name: str, cases: dict[str, Case], tmp_path: Path
) -> None:
    case, before = cases[name], peak()
    case.read(write(tmp_path / "f", case.files))  # without damage, they are read
    refused = 0
    for number, rng in enumerate(islice(generators(), CASES.index(name), None, len(CASES))):
        file = rng.choice(sorted(case.mutate))
        content = case.mutate[file](case.files[file], rng)
        folder = write(tmp_path / "f", case.files | {file: content})
        try:
            with guarded():
                case.read(folder)
        except ValueError as error:
            assert len(str(error)) < LONGEST and "\n" not in str(error), (number, str(error)[:2000])
            refused += 1
    assert refused, "no damage was detected"
    assert peak() - before < GROWTH
