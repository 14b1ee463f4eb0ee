"""``refit compare``: runs a study, a YAML file that states what is trained where and which tables show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Annotated, ClassVar, Literal

import tyro

from agents.commands.options import (
    Command,
    CountOption,
    FileOption,
    Flag,
    FolderOption,
    NameOption,
    RepeatsOption,
    Workers,
    parse,
)
from agents.experiments.shipped import VARIANTS, kind_of, shipped, study_path

USAGE = "usage: refit compare STUDY [options]"


@dataclass(frozen=True, kw_only=True)
class Compare(Command):
    """Run what is missing of a study, then print its tables.

    Each (environment, model, variant, seed) is a cell: a process of its own, one line of ``OUT/STUDY.jsonl``.
    Finished cells are skipped, so an interrupted study goes on where it was, and one that is finished only
    prints its tables again. Exit code 1 says that a cell failed; it is tried again the next time.
    """

    work: ClassVar[str] = "agents.commands.comparing:run"

    study: tyro.conf.Suppress[str] = ""
    """A shipped study's name, or a file's path."""
    env: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID [ID ...]")] = ()
    """Environment ids; those of the study if left out."""
    models: str = ""
    """Comma-separated models (agents/hyperparams); those of the study if left out."""
    variants: Annotated[str, tyro.conf.arg(aliases=("--rows", "--algorithms", "--rewards"))] = ""
    """Comma-separated variants, with which those that they need are run; all usual ones if left out."""
    reward_file: NameOption = None
    """One's own reward as one more variant, ``my_reward.py:FreshHits`` or ``package.module:name``: it has all
    settings of the study's first fine-tuned variant but the reward, and is called by its name."""
    settings: FileOption = None
    """What ``refit tune`` chose (its settings.json) as one more model, ``tuned``, of the environments of
    ``--env``; ``--models tuned`` leaves the others out."""
    seeds: RepeatsOption = None
    """How many runs of each, from the study's first seed; each environment's own number if left out."""
    steps: CountOption = None
    """Environment steps of each run, where the study has such a budget; the environment's own if left out."""
    workers: Workers = 2
    """Cells that run at once, one thread each."""
    engine: Literal["process", "ray"] = "process"
    """``process``: processes of this machine; ``ray``: tasks (extra ``ray``) on the cluster of
    ``RAY_ADDRESS``, or on this machine; every machine must see ``--out`` and have the data."""
    device: str = "cpu"
    """Where cells run: ``cpu``, ``cuda`` or ``auto``. On a GPU the models that are too large for a CPU are
    compared, too."""
    out: FolderOption = None
    """Folder for the records ``STUDY.jsonl``, the report ``STUDY.json``, curves and checkpoints;
    ``runs/compare-STUDY`` if left out."""
    finished: Flag = False
    """Run nothing; the tables of what is finished, stale cells included, which the note then counts."""
    redo: Flag = False
    """Measure stale cells again: those made with other settings, or on other data, than now."""
    json: Flag = False
    """Print the result as JSON, and nothing else, to the standard output."""

    def run(self) -> int:
        """Run the study by the module of its kind; returns the exit code."""
        if kind_of(study_path(self.study)) == VARIANTS:
            return super().run()
        code: int = import_module("agents.commands.comparing_fronts").run_fronts(self)
        return code


def usage() -> str:
    """What ``refit compare --help`` prints."""
    known = shipped()
    width = max(map(len, known))
    lines = [f"  {name:<{width}}  {about}" for name, about in known.items()]
    more = "STUDY is one of these, or the path of a file of the same form."
    help_ = "`refit compare STUDY --help` shows the options."
    return "\n".join([USAGE, "", *lines, "", more, help_])


def main(words: Sequence[str]) -> int:
    """Run the study that the first word names, with the words that follow it."""
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    study_path(words[0])
    command: Compare = parse(Compare, words[1:], f"refit compare {words[0]}")
    return replace(command, study=words[0]).run()
