"""rl-zoo3: the commands that ``hyperparams/*.yml`` begin with, as a person types them, and a short search."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from refit_env.policy import DiffusionPolicy

ROOT = Path(__file__).resolve().parents[3]
ENV_ID = "ReFiT-Synthetic-v0"
pytestmark = pytest.mark.slow

SEED = "2"
"""Its first two random trials have rollouts of 32 steps; others have thousands."""
SHORT = {
    "ppo": ["n_envs:4", "n_steps:8", "batch_size:16"],
    "a2c": ["n_envs:4", "n_steps:8"],
    "trpo": ["n_envs:4", "n_steps:8", "batch_size:32"],
    "sac": ["n_envs:2", "learning_starts:16", "batch_size:16", "gradient_steps:1"],
}
"""What makes each algorithm's file short enough for a test."""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A Python command in ``folder``; its output as text."""
    environment = dict(os.environ) | {"COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def zoo(folder: Path, algo: str, *words: str) -> subprocess.CompletedProcess[str]:
    """``python -m rl_zoo3.train`` with the algorithm's own file, its logs under ``logs``."""
    file = str(ROOT / "hyperparams" / f"{algo}.yml")
    known = ["--algo", algo, "--env", ENV_ID, "--gym-packages", "refit_env", "--conf-file", file]
    return run(folder, "-m", "rl_zoo3.train", *known, "-f", "logs", "--seed", SEED, *words)


@pytest.fixture(scope="module")
def folder(need: Callable[[str, str], ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the zoo is started: the pretrained run that the files name is in it."""
    need("rl_zoo3", "zoo")
    folder = tmp_path_factory.mktemp("zoo")
    words = ["pretrain", "--env", ENV_ID, "--out", f"runs/zoo/{ENV_ID}", "--epochs", "20", "--quiet"]
    done = run(folder, "-m", "agents.cli", *words)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("algo", ["ppo", "a2c", "trpo", "sac"])
def test_a_training_run(algo: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rl_zoo3

    done = zoo(folder, algo, "-n", "64", "--eval-freq", "-1", "-params", *SHORT[algo])
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.chdir(folder)  # the zoo's policies name their run relative to where the zoo is started
    (saved,) = (folder / "logs" / algo).glob(f"{ENV_ID}_*/{ENV_ID}.zip")
    model = rl_zoo3.ALGOS[algo].load(saved, device="cpu")
    assert model.num_timesteps >= 64
    if algo == "sac":  # low-rank residual actions
        assert model.action_space.shape == (32,)
        return
    pretrained = DiffusionPolicy.load(folder / "runs" / "zoo" / ENV_ID)
    gaps = [
        float((mine - before).abs().max().detach())
        for mine, before in zip(model.policy.actor.parameters(), pretrained.parameters(), strict=True)
    ]
    assert 0 < max(gaps) < 0.01  # fine-tuned, from the pretrained weights


def test_two_trials_of_a_search(folder: Path) -> None:
    search = ["-optimize", "--n-trials", "2", "--n-jobs", "1", "--n-startup-trials", "1"]
    search += ["--n-evaluations", "1", "--eval-episodes", "4", "--n-eval-envs", "1", "--no-optim-plots"]
    search += ["--sampler", "random", "--pruner", "none"]
    done = zoo(folder, "ppo", "-n", "64", "-params", "n_envs:1", *search)
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = (folder / "logs" / "ppo").glob("report_*.csv")
    with report.open(newline="", encoding="utf-8") as file:
        trials = list(csv.DictReader(file))
    assert len(trials) == 2 and {trial["state"] for trial in trials} == {"COMPLETE"}
    values = [float(trial["value"]) for trial in trials]
    assert all(math.isfinite(value) and 0 <= value <= 1 for value in values)  # NDCG of four episodes
    assert trials[0]["params_learning_rate"] != trials[1]["params_learning_rate"]


def test_without_the_pretrained_run_the_error_names_it(folder: Path, tmp_path: Path) -> None:
    done = zoo(tmp_path, "ppo", "-n", "64", "-params", *SHORT["ppo"])
    assert done.returncode != 0
    assert f"runs/zoo/{ENV_ID}" in done.stderr
    assert torch.__version__.startswith("2.13.0")  # what the integrations are pinned to
