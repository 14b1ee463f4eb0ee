"""Several processes make the training of one; a killed one ends it, or its launcher starts them again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from agents.cli import main
from agents.runs.log import read_log
from agents.training import world
from agents.training.world import world_of
from refit_env.policy import DiffusionPolicy
from tests.agents.training.train_both import train_both

ROOT = Path(__file__).resolve().parents[3]
SIZES = {"finetune": 60, "pretrain": 70}
"""Users in a batch; pretraining divides those that no number of processes divides."""
ROUNDING = 1e-4
"""A tenth of a step: Adam divides a gradient by its size, so that rounding moves weights with one near 0."""
LOGGED = ("reward/mean", "train/gradient_norm", "train/loss", "valid/ndcg@20", "work/forward")


def test_one_process_needs_no_engine() -> None:
    alone = world_of(torch.device("cpu"))
    assert (alone.rank, alone.size, alone.any(False)) == (0, 1, False)
    assert alone.gather(torch.arange(3)).tolist() == [0, 1, 2] and alone.of_first(lambda: 5) == 5
    assert alone.total([1.5, 2]) == [1.5, 2]


def test_a_closed_form_is_fitted_in_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    words = [
        "pretrain",
        "--env",
        "ReFiT-Synthetic-v0",
        "--backbone",
        "linear",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(words) == 2
    assert "'linear' is fitted in closed form, in one process" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("backend", "left"), [("gloo", 1), ("nccl", 0), (None, 0)])
def test_processes_of_cpus_leave_the_group_at_their_end(
    backend: str | None, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: backend is not None)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: backend)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: calls.append(None))
    world._leave()
    assert len(calls) == left


def test_a_process_that_joins_others_will_leave_them(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = pytest.importorskip("accelerate")
    registered: list[object] = []
    monkeypatch.setattr("atexit.register", registered.append)
    try:
        world.DistributedWorld(torch.device("cpu"))
    finally:
        accelerate.PartialState._reset_state()
    assert world._leave in registered


# ---------------------------------------------------------------------- real processes


def start(*words: str) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *words]
    return subprocess.Popen(command, env=env, text=True, stderr=subprocess.PIPE, cwd=ROOT)


def test_two_processes_have_the_state_of_one(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the extra distributed: pip install -e '.[distributed]'")
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    running = start(*launcher, "tests/agents/training/train_both.py", str(tmp_path))
    _, said = running.communicate(timeout=600)
    assert running.returncode == 0, said
    expected = train_both()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            if "generator" in name:
                assert torch.equal(found[name], value), name
            else:
                assert torch.allclose(found[name], value, rtol=1e-4, atol=ROUNDING), name


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("accelerate", reason="the extra distributed: pip install -e '.[distributed]'")
    out = tmp_path_factory.mktemp("start") / "pretrained"
    assert (
        main(["pretrain", "--env", "ReFiT-Synthetic-v0", "--out", str(out), "--epochs", "1", "--quiet"]) == 0
    )
    return out


def words_of(command: str, pretrained: Path, out: Path, length: int, every: int) -> list[str]:
    size = ["--users-per-batch", str(SIZES[command]), "--quiet", "--device", "cpu"]
    size += ["--eval-every", str(every), "--out", str(out)]
    if command == "pretrain":
        return [command, "--env", "ReFiT-Synthetic-v0", *size, "--patience", "0", "--epochs", str(length)]
    return [
        command,
        "--init",
        str(pretrained),
        "--algorithm",
        "reinforce",
        *size,
        "--iterations",
        str(length),
    ]


def worker_of(launcher: subprocess.Popen[str]) -> int:
    """The last process that the launcher started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return int([pid for pid in children if b"agents" in Path(f"/proc/{pid}/cmdline").read_bytes()][-1])


def kill_a_worker(launcher: subprocess.Popen[str], state: Path) -> None:
    """End the last process by force, when a state is saved."""
    while not state.exists() and launcher.poll() is None:
        time.sleep(0.1)
    os.kill(worker_of(launcher), signal.SIGKILL)


STATES = {"finetune": "resume.safetensors", "pretrain": "pretrain.safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize("command", SIZES)
def test_three_processes_make_the_training_of_one(command: str, pretrained: Path, tmp_path: Path) -> None:
    for name, processes in (("one", 1), ("several", 3)):
        words = words_of(command, pretrained, tmp_path / name, length=4, every=2)
        assert start("agents", *words, "--processes", str(processes)).wait() == 0
    one, several = (read_log(tmp_path / name) for name in ("one", "several"))
    assert len(one) == len(several) == 5
    for a, b in zip(one, several, strict=True):
        for name in LOGGED:
            if name in a:
                assert b[name] == pytest.approx(a[name], rel=1e-4), name
    first, second = (DiffusionPolicy.load(tmp_path / name).state_dict() for name in ("one", "several"))
    for name, value in first.items():
        assert torch.allclose(value, second[name], rtol=1e-4, atol=ROUNDING), name


@pytest.mark.slow
@pytest.mark.parametrize("command", SIZES)
def test_a_killed_process_ends_the_run_which_another_number_of_processes_continues(
    command: str, pretrained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = words_of(command, pretrained, out, length=60, every=5)
    running = start("agents", *words, "--processes", "2")
    kill_a_worker(running, out / STATES[command])
    _, said = running.communicate(timeout=300)
    assert running.returncode == 2
    assert "was killed (SIGKILL)" in said and "--resume continues it" in said and "Traceback" not in said
    assert all(line.startswith("refit: error: ") for line in said.splitlines())
    assert not (out / "metrics.json").exists()
    assert start("agents", *words, "--resume").wait() == 0
    assert len(read_log(out)) == 61 and (out / "metrics.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", SIZES)
def test_torchrun_starts_the_processes_again_which_go_on(
    command: str, pretrained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = words_of(command, pretrained, out, length=60, every=5)
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    running = start(*launcher, "-m", "agents", *words)
    kill_a_worker(running, out / STATES[command])
    _, said = running.communicate(timeout=300)
    assert running.returncode == 0, said
    assert len(read_log(out)) == 61 and (out / "metrics.json").exists()
