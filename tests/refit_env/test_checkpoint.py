"""Tests of checkpoints: atomic writing, and no code in files."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from refit_env.checkpoint import (
    check_tensors,
    load_checkpoint,
    load_state,
    save_checkpoint,
    save_state,
    weights_digest,
)
from refit_env.errors import CheckpointError

DESCRIPTION = {
    "backbone": "diffrec",
    "backbone_config": {},
    "num_items": 3,
    "num_steps": 2,
    "exploration_std": 0.5,
}
WRITER = """
import sys, torch
from refit_env.checkpoint import save_state
n = 0
while True:
    save_state(sys.argv[1], {"w": torch.full((400_000,), float(n))}, {"n": n})
    n += 1
"""


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers(0, 4), max_size=4))
def test_what_is_saved_is_loaded(shapes: dict[str, int]) -> None:
    import tempfile

    tensors = {f"{i}.{name}": torch.randn(n, 2) for i, (name, n) in enumerate(shapes.items())}
    tensors["steps"], tensors["bytes"] = (
        torch.tensor(3, dtype=torch.int64),
        torch.arange(5, dtype=torch.uint8),
    )
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder) / "state", tensors, {"best": [float("-inf"), 0], "names": list(shapes)})
        again, meta = load_state(Path(folder) / "state")
    assert again.keys() == tensors.keys() and all(torch.equal(again[k], tensors[k]) for k in tensors)
    assert meta == {"best": [None, 0], "names": list(shapes)}  # JSON has no infinity


def test_tensors_that_share_memory_are_saved_apart(tmp_path: Path) -> None:
    w = torch.arange(4.0)
    save_state(tmp_path / "s", {"a": w, "b": w, "row": w[1:3]}, {})
    again, _ = load_state(tmp_path / "s")
    assert torch.equal(again["a"], again["b"]) and again["row"].tolist() == [1.0, 2.0]


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    """After kill -9 at any time the file is a complete state."""
    for delay in (0.02, 0.11, 0.23):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "state")])
        path = tmp_path / "state.safetensors"
        while not path.exists():
            time.sleep(0.01)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        tensors, meta = load_state(tmp_path / "state")
        assert torch.equal(tensors["w"], torch.full((400_000,), float(meta["n"])))
        path.unlink()


def test_a_pickle_is_never_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.mkdir, (str(tmp_path / "boom"),))

    (tmp_path / "policy.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "boom").exists()


def test_a_safetensors_file_of_another_library_is_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, str(tmp_path / "policy.safetensors"))
    with pytest.raises(CheckpointError, match="not made by this library"):
        load_checkpoint(tmp_path)


def test_the_readable_copy_must_equal_the_meta(tmp_path: Path) -> None:
    meta = {
        "backbone": "diffrec",
        "backbone_config": {},
        "num_items": 3,
        "num_steps": 2,
        "exploration_std": 0.5,
    }
    save_checkpoint(tmp_path / "deep" / "run", {"w": torch.ones(2)}, meta)
    meta = meta | {"weights": weights_digest({"w": torch.ones(2)})}
    assert load_checkpoint(tmp_path / "deep" / "run")[1] == meta
    assert json.loads((tmp_path / "deep" / "run" / "policy.json").read_text()) == meta
    assert sorted(p.name for p in (tmp_path / "deep" / "run").iterdir()) == [
        "policy.json",
        "policy.safetensors",
    ]


def test_a_full_disk_is_an_error_of_the_system_that_names_the_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    save_state(tmp_path / "state", {"w": torch.ones(3)}, {})
    before, former = (tmp_path / "state.safetensors").read_bytes(), tmp_path / "former.json"
    former.write_text("{}")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large: .*state\.safetensors") as refused:
            save_state(tmp_path / "state", {"w": torch.zeros(3000)}, {}, [former])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.errno == errno.EFBIG
    assert sorted(path.name for path in tmp_path.iterdir()) == ["former.json", "state.safetensors"]
    assert (tmp_path / "state.safetensors").read_bytes() == before
    save_state(tmp_path / "state", {"w": torch.zeros(3)}, {}, [former])
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_file_of_an_earlier_version_may_hold_infinity(tmp_path: Path) -> None:
    meta = '{"best": [-Infinity, 0], "loss": NaN, "name": "NaN, Infinity"}'
    save_file({"w": torch.zeros(1)}, str(tmp_path / "s.safetensors"), {"format": "refit-env/1", "meta": meta})
    assert load_state(tmp_path / "s")[1] == {"best": [None, 0], "loss": None, "name": "NaN, Infinity"}


@pytest.mark.parametrize("meta", ["[]", "3", "", "{", "[" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000])
def test_meta_that_is_not_an_object_is_refused(meta: str, tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, str(tmp_path / "s.safetensors"), {"format": "refit-env/1", "meta": meta})
    with pytest.raises(CheckpointError, match=r"s\.safetensors: meta: ") as refused:
        load_state(tmp_path / "s")
    assert len(str(refused.value)) < 400


def test_a_header_beyond_the_limit_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path / "s", {"w": torch.zeros(1)}, {"text": "x" * 5000})
    monkeypatch.setattr("refit_env.checkpoint.LARGEST_HEADER", 4000)
    with pytest.raises(CheckpointError, match="bytes; at most 4000 are read"):
        load_state(tmp_path / "s")
    monkeypatch.undo()
    monkeypatch.setattr("refit_env.checkpoint.MOST_TENSORS", 0)
    with pytest.raises(CheckpointError, match="1 tensors; at most 0 are read"):
        load_state(tmp_path / "s")


def test_tensors_that_cannot_replace_others_are_named() -> None:
    here = {"a": torch.zeros(2, 3), "b": torch.tensor([math.nan]), "n": torch.zeros(2, dtype=torch.int64)}
    check_tensors({name: tensor.clone() for name, tensor in here.items()}, here, "file")
    for found, message in [
        (here | {"a": torch.zeros(1)}, r"file: 'a' is float32 \[1\], the model's is float32 \[2, 3\]"),
        (here | {"n": torch.zeros(2)}, r"file: 'n' is float32 \[2\], the model's is int64 \[2\]"),
        (here | {"a": torch.full((2, 3), math.inf)}, "file: 'a' holds NaN or infinity"),
        (here | {"c": torch.zeros(1)}, "file: 'c' is not a tensor of the model's"),
        ({"a": here["a"]}, "file: 'b' is missing"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            check_tensors(found, here, "file")


def test_a_kill_between_the_two_files_leaves_no_policy_json_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta = {
        "backbone": "diffrec",
        "backbone_config": {},
        "num_items": 3,
        "num_steps": 2,
        "exploration_std": 0.5,
    }
    save_checkpoint(tmp_path, {"w": torch.ones(2)}, meta)

    def killed(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr("refit_env.checkpoint.write_json", killed)
    with pytest.raises(SystemExit):
        save_checkpoint(tmp_path, {"w": torch.ones(3)}, meta | {"num_steps": 1})
    state, again = load_checkpoint(tmp_path)
    assert state["w"].numel() == 3 and again["num_steps"] == 1
