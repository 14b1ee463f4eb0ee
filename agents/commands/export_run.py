"""The work of ``refit export``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from agents.commands.export import Export
from agents.commands.loading import check_replaceable, data_of, policy_of
from agents.console import print_json, say
from agents.serving.export import Description, ExportError, write_onnx, write_torch, write_triton
from agents.serving.graph import RankingGraph, popularity
from agents.serving.ranker import check_repeats
from refit_env.checkpoint import weights_digest
from refit_env.data.sequences import LENGTHS

WRITERS: dict[str, Callable[[RankingGraph, Path, Description], None]] = {
    "onnx": write_onnx,
    "torch": write_torch,
    "triton": write_triton,
}
"""Values of ``--format``."""
ENDINGS = {".onnx": "onnx", ".pt2": "torch"}
"""Ending of a file's name -> the format of such files."""


def run(command: Export) -> int:
    """Export and print; returns the exit code."""
    if command.format != "triton" and command.out.exists() and not command.overwrite:
        raise ExportError(f"--out {command.out} exists already; choose another file, or pass --overwrite")
    check_replaceable(command.out)
    usual = ENDINGS.get(command.out.suffix)
    if usual is not None and usual != command.format:
        raise ExportError(
            f"--out {command.out}: the name is that of --format {usual}, but --format is {command.format}; "
            "change one of them"
        )
    folder, dataset = data_of(command)
    policy = policy_of(command, folder, "cpu")
    policy.inputs(dataset)  # refuses other data
    if command.top > dataset.num_items:
        raise ExportError(f"--top {command.top} must lie in 1..{dataset.num_items}, the number of items")
    if command.repeats:
        check_repeats(dataset)
    length = LENGTHS[dataset.task] if dataset.has_rows else None
    rows = command.inputs == "rows"
    if rows and dataset.has_rows:
        raise ExportError(f"--inputs rows: {dataset.name!r} has histories in order of time; use --inputs ids")
    more = {"rows": rows, "repeats": command.repeats}
    graph = RankingGraph(policy, command.top, length, **more, popular=popularity(dataset))
    known = policy.backbone.trained_on
    about = Description(
        backbone=policy.backbone.name,
        weights=weights_digest(policy.backbone.state_dict()),
        dataset=dataset.name,
        data_fingerprint=(known.fingerprint if known else None) or "",
        num_items=dataset.num_items,
        num_steps=policy.num_steps,
        top=command.top,
        inputs=command.inputs,
        repeats=command.repeats,
    )
    WRITERS[command.format](graph, command.out, about)
    if missing := policy.backbone.beside_history:
        say(f"note: the lists are those of people without {missing}: a history holds none", stderr=True)
    if command.json:
        print_json({"file": str(command.out), "format": command.format, **asdict(about)})
        return 0
    steps = "1 step" if about.num_steps == 1 else f"{about.num_steps} steps"
    say(
        f"wrote {command.out}: {about.backbone} on {about.dataset}, {steps}, lists of "
        f"{about.top} of {about.num_items:,} items, weights {about.weights[:12]}"
    )
    return 0
