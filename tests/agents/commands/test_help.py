"""Help comes without PyTorch and pandas, for every command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from agents.cli import COMMANDS

HEAVY = {
    "matplotlib", "pandas", "pooch", "pyarrow", "safetensors", "scipy", "stable_baselines3", "tensorboard",
    "torch", "tqdm",
}  # fmt: skip
HELPS = [
    *([name] for name in COMMANDS),
    ["compare", "backbones"],
    ["compare", "algorithms"],
    *(["data", name] for name in ("list", "info", "prepare", "synthesize")),
    *(["reward", name] for name in ("list", "check")),
    ["finetune", "--algorithm", "ppo", "--preset", "ddpo"],
    ["pretrain", "--env", "ReFiT-Ciao-v0"],
]
PROGRAM = """
import contextlib, io, json, sys
from agents.cli import main
found = {}
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([*words, "--help"])
    found[" ".join(words)] = [code, out.getvalue()]
loaded = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps({"helps": found, "loaded": loaded}))
"""


@pytest.fixture(scope="module")
def printed() -> dict[str, object]:
    """Every help of a fresh interpreter, and the top-level modules that it then has."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(HELPS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_help_of_every_command_loads_nothing_heavy(printed: dict[str, object]) -> None:
    loaded = printed["loaded"]
    assert isinstance(loaded, list) and "tyro" in loaded
    assert HEAVY & set(loaded) == set()


def test_help_shows_each_command_and_its_options(printed: dict[str, object]) -> None:
    helps = printed["helps"]
    assert isinstance(helps, dict)
    for words in HELPS:
        code, text = helps[" ".join(words)]
        assert code == 0 and f"usage: refit {words[0]}" in text, words
    assert "--clip-range" in helps["finetune --algorithm ppo --preset ddpo"][1]
    for name in (
        "evaluate",
        "baseline",
        "recommend",
        "finetune",
        "pretrain",
        "demo",
        "data list",
        "data info",
        "reward list",
        "reward check",
        "compare backbones",
        "tune",
    ):
        assert "--json" in helps[name][1], name
