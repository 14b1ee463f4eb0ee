"""Writes a recommender as one file that needs no code of ours: ONNX, torch.export, a folder for Triton.

Letters: B histories in a batch, n their length, I items, K list length.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from agents.serving.graph import NOTHING, RankingGraph
from refit_env.errors import MissingExtraError
from refit_env.utils.atomic_io import atomic_path
from refit_env.utils.folders import atomic_folder

WHAT = "an ONNX file"
"""What needs the packages of the extra ``export``."""
OPSET = 18
"""ONNX operator set: the first with a maximum in ScatterElements."""
LARGEST = 1_900_000_000
"""Most bytes of weights in one ONNX file; protobuf's limit is 2 GiB."""
TOLERANCE = 1e-3
"""Largest difference of scores between torch and onnxruntime, relative to the largest score."""


class ExportError(ValueError):
    """A recommender cannot be written in a format."""


@dataclass(frozen=True)
class Description:
    """What an exported file states about itself."""

    backbone: str
    """Name in the registry."""
    weights: str
    """sha256 of the weights."""
    dataset: str
    """Name of the data set; empty if unknown."""
    data_fingerprint: str
    """Its fingerprint; empty if unknown."""
    num_items: int
    """I."""
    num_steps: int
    """T."""
    top: int
    """K."""
    inputs: str
    """``ids``: histories of item numbers; ``rows``: weighted rows."""
    repeats: bool = False
    """Whether lists may hold items of the history."""

    def as_text(self) -> dict[str, str]:
        """Return the fields as text, for metadata."""
        return {f"refit.{name}": str(value) for name, value in asdict(self).items()}


def need(module: str, what: str, extra: str) -> ModuleType:
    """Import a module of an extra.

    Args:
        module: its name.
        what: what needs it, as the user typed it.
        extra: the extra that installs it.

    Raises:
        MissingExtraError: naming the extra to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(what, module.partition(".")[0], extra) from error


def write_torch(graph: RankingGraph, path: Path, about: Description) -> None:
    """Write a ``torch.export`` program: ``torch.export.load(path).module()(history)`` ranks.

    Args:
        graph: the recommender.
        path: the file, replaced atomically; ``.pt2`` is usual.
        about: its metadata, the extra file ``refit.json``.

    Raises:
        ExportError: if the backbone cannot be exported.
    """
    program = _program(graph)
    extra = {"refit.json": json.dumps(asdict(about), indent=2)}
    with atomic_path(path) as temporary, _quiet():
        part = temporary.with_name(temporary.name + ".pt2")  # torch.export.save wants this ending
        try:
            torch.export.save(program, str(part), extra_files=extra)
            part.replace(temporary)
        finally:
            part.unlink(missing_ok=True)


def write_onnx(graph: RankingGraph, path: Path, about: Description) -> None:
    """Write an ONNX file with the input ``history`` and the outputs ``items`` and ``scores``.

    The file is run by onnxruntime and compared with the policy before it replaces an earlier one.

    Args:
        graph: the recommender.
        path: the file, replaced atomically.
        about: its metadata.

    Raises:
        MissingExtraError: if a package is missing.
        ExportError: if the backbone cannot be exported, or onnxruntime cannot run it or ranks otherwise.
    """
    onnx = need("onnx", WHAT, "export")
    need("onnxscript", WHAT, "export")
    need("onnxruntime", WHAT, "export")
    size = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    if size > LARGEST:
        raise ExportError(
            f"{path}: {size / 1e9:.1f} GB of weights; an ONNX file holds at most {LARGEST / 1e9:.1f} GB. "
            "Use --format torch"
        )
    program = _program(graph)
    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["history"],
            output_names=["items", "scores"],
            opset_version=OPSET,
            verbose=False,
        )
        assert made is not None
        model = made.model_proto
    onnx.helper.set_model_props(model, about.as_text())
    _name_axes(model)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        check_parity(graph, temporary)


def write_triton(graph: RankingGraph, folder: Path, about: Description, batch: int = 64) -> None:
    """Write a model folder for the Triton inference server: ``config.pbtxt`` and ``1/model.onnx``.

    Args:
        graph: the recommender.
        folder: an empty folder or none; its name is the model's.
        about: its metadata.
        batch: most histories in a batch.

    Raises:
        ExportError: as ``write_onnx``, or if the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"--out {folder} is not an empty folder; choose another one")
    with atomic_folder(folder) as temporary:
        write_onnx(graph, temporary / "1" / "model.onnx", about)
        config = triton_config(folder.name, graph, about, batch)
        (temporary / "config.pbtxt").write_text(config, encoding="utf-8")


def triton_config(name: str, graph: RankingGraph, about: Description, batch: int) -> str:
    """Return the text of Triton's ``config.pbtxt``; the first axis of its tensors is left out."""
    kind, width = ("TYPE_FP32", graph.policy.backbone.num_items) if graph.rows else ("TYPE_INT64", -1)
    parameters = "".join(
        f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}\n"
        for key, value in about.as_text().items()
    )
    return (
        f'name: {_quoted(name)}\nbackend: "onnxruntime"\nmax_batch_size: {batch}\n'
        f'input [ {{ name: "history" data_type: {kind} dims: [ {width} ] }} ]\n'
        f'output [ {{ name: "items" data_type: TYPE_INT64 dims: [ {graph.top} ] }},\n'
        f'         {{ name: "scores" data_type: TYPE_FP32 dims: [ {graph.top} ] }} ]\n'
        f"dynamic_batching {{ max_queue_delay_microseconds: 1000 }}\n{parameters}"
    )


def _quoted(text: str) -> str:
    """Return a text as protobuf's text format reads it: the escapes of JSON are among its own."""
    return json.dumps(text, ensure_ascii=False)


def check_parity(graph: RankingGraph, path: Path) -> None:
    """Compare an ONNX file, run by onnxruntime, with the policy on a few histories.

    Raises:
        ExportError: if it cannot be run, or scores or lists differ by more than rounding.
    """
    runtime = need("onnxruntime", WHAT, "export")
    history = example(graph)
    with torch.no_grad():
        items, scores = (part.numpy() for part in graph(history))  # (B, K)
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(None, {"history": history.numpy()})
    except Exception as error:  # onnxruntime's own classes derive from Exception alone
        raise ExportError(
            f"backbone {graph.policy.backbone.name!r} is no model that onnxruntime can run: "
            f"{_brief(error)}. Use --format torch"
        ) from None
    difference = compare_lists((items, scores), found)
    if difference > TOLERANCE:
        raise ExportError(
            f"backbone {graph.policy.backbone.name!r}: scores of onnxruntime differ from those of torch by "
            f"{difference:.1e} of the largest one, more than {TOLERANCE:.0e}. Use --format torch"
        )


def compare_lists(one: Any, other: Any) -> float:
    """Return the largest difference between two pairs of lists, as a share of the largest score.

    An item that is in one list alone counts by how far its score is from the end of that list: items with
    equal scores may change places.

    Args:
        one: items (B, K) and scores (B, K), NumPy.
        other: the same of another implementation.

    Returns:
        The difference of the scores; infinity if a list has another length.
    """
    worst, largest = 0.0, 1e-12
    for items, scores, others, other_scores in zip(*one, *other, strict=True):
        pairs = [
            {int(item): float(score) for item, score in zip(numbers, values, strict=True) if item >= 0}
            for numbers, values in ((items, scores), (others, other_scores))
        ]
        if len(pairs[0]) != len(pairs[1]):
            return float("inf")
        for mine, theirs in (pairs, pairs[::-1]):
            last = min(mine.values(), default=0.0)
            worst = max([worst, *(abs(score - theirs.get(item, last)) for item, score in mine.items())])
            largest = max([largest, *map(abs, mine.values())])
    return worst / largest


def example(graph: RankingGraph) -> Tensor:
    """Return histories (3, 4) of different lengths, one empty; rows (3, I) for a graph of rows."""
    count = graph.policy.backbone.num_items
    numbers = [[0, 1, 2, 3], [count - 1, count // 2, NOTHING, NOTHING], [NOTHING] * 4]
    history = torch.tensor([[item if item < count else NOTHING for item in row] for row in numbers])
    backbone = graph.policy.backbone
    return backbone.show(history)[:, : backbone.num_items] if graph.rows else history


def _program(graph: RankingGraph) -> torch.export.ExportedProgram:
    """Return the traced graph, with any number of histories of any length."""
    history = example(graph)
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if not graph.rows:
        axes[1] = torch.export.Dim("length")
    graph.requires_grad_(False)
    with torch.no_grad(), _quiet():
        graph(history)  # fills the caches of item vectors and graphs, which become constants
        try:
            return torch.export.export(graph, (history,), dynamic_shapes={"history": axes}, strict=False)
        except Exception as error:  # torch has many classes for what it cannot trace
            raise ExportError(
                f"backbone {graph.policy.backbone.name!r} cannot be exported: {_brief(error)}"
            ) from error


def _name_axes(model: Any) -> None:
    """Give the free axes of an ONNX model's inputs and outputs readable names."""
    for value in [*model.graph.input, *model.graph.output]:
        for axis, name in zip(value.type.tensor_type.shape.dim, ("batch", "length"), strict=False):
            if axis.dim_param:
                axis.dim_param = name


def _brief(error: Exception) -> str:
    """Return the first line of an error, of bounded length."""
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, the exporters print and log nothing: their notes are about torch's own operators."""
    names = ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir", "torch.fx")
    before: Mapping[str, int] = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
