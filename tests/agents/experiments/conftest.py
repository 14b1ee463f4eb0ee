"""Studies so small that they take seconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.experiments.cell_processes import do_cell
from agents.experiments.plan import plan
from agents.experiments.records import Cell
from agents.experiments.study import Study, read_study

ENV = "ReFiT-Synthetic-v0"
TINY = """
# A study of seconds
title: Tiny
seeds: 1
variants:
  pretrained: {title: start, make: pretrain}
  reinforce: {title: + REINFORCE, make: finetune, parent: pretrained, algorithm: reinforce}
  elbo:
    title: + more training
    make: continue
    parent: pretrained
    work_of: reinforce
    settings: {epochs: 100, patience: 0}
  same:
    title: + same information
    make: continue
    parent: pretrained
    target: same_information
    settings: {epochs: 1}
  same-reinforce:
    title: same information + REINFORCE
    make: finetune
    parent: same
    algorithm: reinforce
    settings_of: reinforce
environments:
  ReFiT-Synthetic-v0:
    models:
      diffrec:
        options: {hidden: [16], num_steps: 5}
        pretrain: {epochs: 1}
        env: {reward: ndcg, relevance: recent}
        variants: {reinforce: {iterations: 2, users_per_batch: 16, eval_every: 1}}
tables:
  - {kind: rows, title: "On {env}", each: true, columns: [ndcg@20, ndcg@20 gain, users sure, work, seconds]}
  - {kind: slices}
  - {kind: leaderboard, title: Best, each: true, columns: [ndcg@20, peak MiB]}
"""


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a study and returns its file."""

    def made(text: str) -> Path:
        path = tmp_path_factory.mktemp("study") / "tiny.yml"
        path.write_text(text, encoding="utf-8")
        return path

    return made


@pytest.fixture(scope="session")
def tiny(write: Callable[[str], Path]) -> Study:
    """The study ``TINY``."""
    return read_study(write(TINY))


@pytest.fixture(scope="session")
def tiny_text() -> str:
    """The text of its file."""
    return TINY


@pytest.fixture(scope="session")
def run() -> Callable[..., list[Cell]]:
    """Does a study's cells in this process."""

    def done(study: Study, records: Path, **chosen: Any) -> list[Cell]:
        cells = plan(study, records, **chosen)
        for cell in cells:
            do_cell(cell, records)
        return cells

    return done


@pytest.fixture(scope="session")
def measured(tiny: Study, run: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of the finished study; tests must not change them."""
    records = tmp_path_factory.mktemp("measured") / "tiny.jsonl"
    run(tiny, records)
    return records


@pytest.fixture
def finished(measured: Path, tmp_path: Path) -> Path:
    """A copy of them with their checkpoints, to be changed at will."""
    return Path(shutil.copytree(measured.parent, tmp_path / "finished")) / measured.name
