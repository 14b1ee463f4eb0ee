"""Every Python block of README and docs runs as pasted; every `refit ...` line is parsed by its command.

A block with ``<!-- not run: REASON -->`` above it is compiled and its imports are resolved. One with
``<!-- slow -->`` above it runs with the slow tests.
"""

from __future__ import annotations

import ast
import doctest
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.algorithms import registry as algorithms
from agents.baselines import registry as baselines
from agents.cli import COMMANDS
from agents.tuning.settings_file import write_settings
from refit_env import env_ids
from refit_env.rewards import registry
from tests.own_backbone import registry_restored
from tests.parsing import parsed

ROOT = Path(__file__).resolve().parents[2]
BUILT = {"api", "_build"}
"""Folders of docs that a build makes."""
PAGES = [
    ROOT / "README.md",
    *(
        p
        for p in sorted((ROOT / "docs").rglob("*.md"))
        if not BUILT & set(p.relative_to(ROOT / "docs").parts)
    ),
]
SETTINGS: dict[str, dict[str, Any]] = {
    "pretrain": {"backbone": "linear", "backbone_options": {}, "num_steps": 1, "training": {}},
    "finetune": {
        "reward": "ndcg",
        "relevance": "recent",
        "reward_kwargs": {},
        "algorithm": "reinforce",
        "agent": {},
    },
}
"""What a page's ``--settings FILE`` would hold."""
NOT_RUN = re.compile(r"<!-- not run: .+ -->")


@dataclass(frozen=True)
class Block:
    place: str
    language: str
    text: str
    above: str
    """The line above the fence."""


def blocks_of(page: Path) -> Iterator[Block]:
    name, above, fence, lines, start = page.relative_to(ROOT).as_posix(), "", "", list[str](), 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if fence and line.strip() == "```":
            yield Block(f"{name}:{start}", fence.removeprefix("```"), "\n".join(lines) + "\n", above)
            fence, above, lines = "", "", []
        elif fence:
            lines.append(line)
        elif line.startswith("```"):
            fence, start = line.strip(), number
        elif line.strip():
            above = line.strip()
    assert not fence, f"{name}:{start}: the block has no end"


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON = list({(b.text, b.above): b for b in BLOCKS if b.language == "python"}.values())
"""Each text once: the pages of the ids share most of theirs."""
PASTED = [block for block in PYTHON if ">>>" not in block.text]
RUN = [block for block in PASTED if not NOT_RUN.fullmatch(block.above)]
LINES = sorted(
    {
        (block.place.partition(":")[0], re.split(r"\s+#", line)[0].strip())
        for block in BLOCKS
        if block.language in ("", "sh")
        for line in block.text.splitlines()
        if line.startswith("refit ")
    }
)


def params(blocks: list[Block]) -> list[Any]:
    return [
        pytest.param(b, id=b.place, marks=[pytest.mark.slow] if b.above == "<!-- slow -->" else [])
        for b in blocks
    ]


@pytest.fixture
def own_registry() -> Iterator[None]:
    """Names that a block registers are gone after it."""
    tables: tuple[dict[str, Any], ...] = (registry._REWARDS, algorithms._REGISTERED, baselines._OWN)
    before = [dict(table) for table in tables]
    with registry_restored():  # of backbones
        yield
    for table, names in zip(tables, before, strict=True):
        table.clear()
        table.update(names)


@pytest.fixture
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder holds blocks that begin with ``# my_agent.py``, and settings of a tuning."""
    for block in PASTED:
        found = re.match(r"# (\w+\.py)\n", block.text)
        if found:
            (tmp_path / found[1]).write_text(block.text, encoding="utf-8")
    tuned = tmp_path / "runs" / "tuned"
    tuned.mkdir(parents=True)
    chosen: dict[str, Any] = {"backbone": "linear", "backbone_options": {}, "training": {}, "num_steps": 1}
    tuned_agent: dict[str, Any] = {"reward": "ndcg", "relevance": "recent", "reward_kwargs": {}, "agent": {}}
    tuned_agent["algorithm"] = "reinforce"
    settings = {"dataset": {"name": "shop"}, "pretrain": chosen, "finetune": tuned_agent, "baseline": None}
    write_settings(tuned / "settings.json", settings)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("block", params(RUN))
def test_block_runs_as_pasted(
    block: Block, own_registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        exec(compile(block.text, block.place, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("block", params([block for block in PASTED if block not in RUN]))
def test_block_that_needs_more_compiles_and_its_imports_resolve(block: Block) -> None:
    for node in ast.walk(parsed(block.text, block.place)):
        if isinstance(node, ast.Import):
            for name in node.names:
                import_module(name.name)
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                assert hasattr(import_module(str(node.module)), name.name), f"{node.module}.{name.name}"


@pytest.mark.parametrize("block", params([block for block in PYTHON if ">>>" in block.text]))
def test_session_gives_what_it_shows(block: Block) -> None:
    test = doctest.DocTestParser().get_doctest(block.text, {}, block.place, None, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test).failed == 0


class Parsed(Exception):
    """The command's words were parsed; it is not run."""


@pytest.mark.parametrize(("page", "line"), LINES)
def test_command_accepts_its_options(
    page: str, line: str, own_registry: None, own_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, name, *words = shlex.split(line)
    if name.startswith("-") or name not in COMMANDS:
        assert name in ("--help", "COMMAND"), f"{page}: no command {name!r}"
        return
    command = import_module(COMMANDS[name][0])
    parse = command.parse

    def parse_only(*arguments: Any, **options: Any) -> None:
        parse(*arguments, **options)
        raise Parsed

    monkeypatch.setattr(command, "parse", parse_only)
    monkeypatch.setattr(command, "read_settings", lambda path: SETTINGS, raising=False)
    with pytest.raises(Parsed):
        command.main(words)
    assert {word for word in words if re.fullmatch(r"ReFiT-\w+-v0", word)} <= set(env_ids())


def test_there_are_blocks_of_each_kind() -> None:
    assert len(RUN) >= 15 and len(LINES) >= 20 and len(PASTED) > len(RUN)
    for block in BLOCKS:
        reason = block.above.startswith("<!--") and block.language == "python"
        known = NOT_RUN.fullmatch(block.above) or block.above in ("<!-- slow -->",)
        assert known or not reason, f"{block.place}: {block.above}"
