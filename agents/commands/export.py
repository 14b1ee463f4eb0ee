"""``refit export``: a run's recommender as one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro
from msgspec import Meta

from agents.commands.options import Command, EnvOption, Flag, FolderOption, parse


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Write a run's recommender as one graph: histories in, lists of the best items out.

    The graph holds the noise-free chain, leaves the items of the history out (``--repeats`` allows them), and
    returns the numbers of the best items and their scores. An ONNX file is run by onnxruntime and compared
    with the policy first.
    """

    work: ClassVar[str] = "agents.commands.export_run:run"

    run_dir: Annotated[Path, tyro.conf.arg(name="run")]
    """The run folder that holds the model."""
    out: Path
    """The file; with ``--format triton`` a folder, whose name is the model's."""
    format: Literal["onnx", "torch", "triton"] = "onnx"
    """``onnx`` and ``triton`` need the extra ``export``; ``torch`` is a program of torch.export."""
    top: Annotated[int, Meta(ge=1, le=10_000)] = 20
    """Length of the lists."""
    inputs: Literal["ids", "rows"] = "ids"
    """``ids``: histories of item numbers, oldest first, padded with -1; ``rows``: a row with a number for
    each item, above 0 where the person has it."""
    repeats: Flag = False
    """The lists may hold items of the history; only of sessions and visits in order of time."""
    env: EnvOption = None
    """Environment id; if left out, that of the run."""
    data: FolderOption = None
    """Own data instead of ``--env``: a folder in canonical form, or its name in ``refit data list``."""
    overwrite: Flag = False
    """Replace a file that exists."""
    other_data: Flag = False
    """Allow a data set other than the one that the model was trained on."""
    other_weights: Flag = False
    """Allow weights other than those that the run in the folder ended with."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    command: Export = parse(Export, words, "refit export")
    return command.run()
