"""The examples run, and do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested_here() -> None:
    assert {p.stem for p in EXAMPLES.glob("*.py")} == {"forty_lines", "own_reward"}


def test_forty_lines(capsys: pytest.CaptureFixture[str]) -> None:
    before, after = load("forty_lines").main(iterations=3, batch=8, group=4, epochs=4)
    assert before != after and "test NDCG@20" in capsys.readouterr().out


@pytest.mark.slow
def test_forty_lines_improve_the_model() -> None:
    before, after = load("forty_lines").main()
    assert after > before


def test_own_reward() -> None:
    found = load("own_reward").main(iterations=4, epochs=4)
    assert set(found) == {"pretrained", "ndcg", "rare_hits"}
