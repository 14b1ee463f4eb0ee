"""Models that were trained elsewhere: the weights of DiffRec's own code as a backbone of this package.

A file of ``torch.save`` is a pickle, which can execute code. Here PyTorch's own restricted reader
(``weights_only``) reads it, from a file whose sizes were checked before, and no tensor is used before its
name, shape and type are those of the network. DiffRec's code saves whole models: in place of each object of
their classes the reader makes one that only keeps what the file states of it, so none of their code is
imported or run.

Letters: I items, E size of the time embedding.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from refit_env.backbones.base import check_task
from refit_env.backbones.diffrec import DiffRec
from refit_env.backbones.registry import backbone_config
from refit_env.backbones.restore import load_weights
from refit_env.checkpoint import MOST_TENSORS
from refit_env.data.dataset import Dataset
from refit_env.errors import CheckpointError

LARGEST_FILE = 4 * 2**30
"""Most bytes of a file, packed and unpacked."""
PARTS = ("weight", "bias")
"""Tensors of a layer."""
FROM_WEIGHTS = ("hidden", "embedding")
"""Settings that the shapes of the weights state."""
_LAYER = re.compile(r"(in_layers|out_layers)\.([0-9]{1,3})\.(weight|bias)")
_OF_A_DIFFREC = re.compile(
    r"(.+\.)?DNN|torch\.nn\.modules\.(container\.ModuleList|linear\.Linear|dropout\.Dropout)"
)
"""Classes of a DiffRec that its code saves whole."""
_CONVERT = (
    "Where you trust the file, load it with the code that wrote it and write its weights with "
    "torch.save(model.state_dict(), NEW)"
)
_EXPECTED = (
    "DiffRec's own code has emb_layer, in_layers.0 ... and out_layers.0 ..., each with weight and bias"
)


@dataclass(frozen=True)
class Read:
    """What a file of another code states."""

    weights: dict[str, Tensor]
    """The float32 tensors by name, as ``model.state_dict()`` has them, on the CPU."""
    normalize: bool | None = None
    """Whether rows are normalised; None if the file does not state it."""


class _Stated:
    """An object of a class that is not imported: what the file states of it."""

    state: dict[str, Any]

    def __new__(cls, *_: Any) -> Self:
        """Return an object that states nothing yet, whatever the class was called with."""
        made = super().__new__(cls)
        made.state = {}
        return made

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state if isinstance(state, dict) else {}

    def part(self, name: str) -> dict[str, Any]:
        """Return a dictionary of the state; an empty one if there is none."""
        found = self.state.get(name)
        return found if isinstance(found, dict) else {}


def read_weights(path: Path | str) -> Read:
    """Read a file of ``torch.save(model.state_dict(), path)``, or of a whole DiffRec, as its code saves it.

    Args:
        path: the file; nothing in it is executed.

    Raises:
        CheckpointError: if there is no such file, it is too large, or it holds anything but float32
            tensors by name, or a DiffRec of them.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: not a file of torch.save (of PyTorch 1.6 or later), or cut short")
    try:
        with zipfile.ZipFile(path) as archive:
            size = max(path.stat().st_size, sum(part.file_size for part in archive.infolist()))
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise CheckpointError(f"{path}: not a whole file of torch.save") from error
    if size > LARGEST_FILE:
        raise CheckpointError(f"{path}: {size} bytes; at most {LARGEST_FILE} are read")
    found, normalize = _load(path), None
    if isinstance(found, _Stated):
        stated = found.state.get("norm")
        found, normalize = _flat(found, path), stated if isinstance(stated, bool) else None
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{path}: holds a {type(found).__name__}, expected a state dict: {_EXPECTED}")
    if len(found) > MOST_TENSORS:
        raise CheckpointError(f"{path}: {len(found)} tensors; at most {MOST_TENSORS} are read")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            kind = "n object of another class" if isinstance(value, _Stated) else f" {type(value).__name__}"
            what = f"{str(name)[:80]!r} is a{kind}"
            raise CheckpointError(f"{path}: {what}, expected tensors only: {_EXPECTED}")
        kind = f"{value.layout} {value.dtype} on {value.device.type}".replace("torch.", "")
        if kind != "strided float32 on cpu":  # a tensor on the device meta has no values
            raise CheckpointError(f"{path}: {name[:80]!r} is {kind}, expected strided float32")
    if 4 * sum(value.numel() for value in found.values()) > size:  # strides of 0
        raise CheckpointError(f"{path}: its tensors state more numbers than the file holds")
    return Read({name: value.detach() for name, value in found.items()}, normalize)


def _load(path: Path) -> Any:
    """Read a file without its classes; refuse one with others than those of a DiffRec."""
    try:
        classes = get_unsafe_globals_in_checkpoint(path)
        foreign = [name for name in classes if not _OF_A_DIFFREC.fullmatch(name)]
        if not foreign:
            with safe_globals([(_Stated, name) for name in classes]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise CheckpointError(
            f"{path}: holds more than weights, or is damaged; nothing in it was executed. {_CONVERT}"
        ) from error
    raise CheckpointError(
        f"{path}: holds {foreign[0][:80]}, which is no part of a DiffRec; nothing in it was executed. "
        f"{_CONVERT}"
    )


def _flat(model: _Stated, path: Path, deepest: int = 3) -> dict[str, Any]:
    """Return the tensors of a model by the names that ``state_dict`` gives them."""
    if deepest == 0:
        raise CheckpointError(f"{path}: its layers are nested too deeply: {_EXPECTED}")
    found = {**model.part("_parameters"), **model.part("_buffers")}
    out = {name: value for name, value in found.items() if value is not None}
    for name, layer in model.part("_modules").items():
        if isinstance(layer, _Stated):
            out |= {f"{name}.{part}": value for part, value in _flat(layer, path, deepest - 1).items()}
    return out


def import_diffrec(path: Path | str, dataset: Dataset, options: Mapping[str, Any] | None = None) -> DiffRec:
    """Return the DiffRec of a file that DiffRec's own code made (``models/DNN.py``).

    Args:
        path: the file, see ``read_weights``.
        dataset: the data; it must number its items as the data of the training did.
        options: the settings that the weights do not state: ``num_steps``, ``noise_scale``, ``noise_min``,
            ``noise_max``, ``normalize`` ...; the others are those published for the data set.

    Raises:
        CheckpointError: if the weights are not those of a DiffRec, or of another number of items.
        ValueError: for a wrong option.
    """
    check_task(DiffRec, dataset)
    stated = [name for name in FROM_WEIGHTS if name in (options or {})]
    if stated:
        raise ValueError(f"the weights state {stated[0]}: leave it out of --backbone-options")
    read = read_weights(path)
    state, chosen = read.weights, dict(options or {})
    if read.normalize is not None and chosen.setdefault("normalize", read.normalize) != read.normalize:
        raise ValueError(f"{path} states normalize={read.normalize}: leave it out of --backbone-options")
    layers = _layers(state, path)
    size = _shape(state, "emb_layer.weight", path)[0]
    shapes = [_shape(state, f"{name}.weight", path) for name in layers]
    items = shapes[-1][0]
    if items != dataset.num_items:
        raise CheckpointError(
            f"{path}: weights of {items} items; data set {dataset.name!r} has {dataset.num_items}: use the "
            "data of the training, with its numbers of items"
        )
    hidden = [shape[0] for shape in shapes[:-1]]
    config = backbone_config("diffrec", dataset.name, {**chosen, "hidden": hidden, "embedding": size})
    with torch.device("meta"):  # a wrong shape costs no memory
        expected = DiffRec(items, config).state_dict()
    renamed = {f"layers.{n}.{part}": f"{name}.{part}" for n, name in enumerate(layers) for part in PARTS}
    renamed |= {f"time.{part}": f"emb_layer.{part}" for part in PARTS}
    for ours, theirs in renamed.items():
        if not state[theirs].isfinite().all():
            raise CheckpointError(f"{path}: {theirs!r} holds NaN or infinity")
        if state[theirs].shape != expected[ours].shape:
            raise CheckpointError(
                f"{path}: {theirs!r} is {list(state[theirs].shape)[:8]}, expected "
                f"{list(expected[ours].shape)} after the widths of the other layers: {_EXPECTED}"
            )
    backbone = DiffRec(items, config)
    sampler = {name: value for name, value in backbone.state_dict().items() if name not in renamed}
    weights = {ours: state[theirs].contiguous() for ours, theirs in renamed.items()}
    load_weights(backbone, sampler | weights, str(path))
    return backbone.eval()


def _layers(state: Mapping[str, Tensor], path: Path | str) -> list[str]:
    """Return the names of the layers from the input to the output; refuse other names, and gaps."""
    numbers: dict[str, set[int]] = {"in_layers": set(), "out_layers": set()}
    for name in state:
        match = _LAYER.fullmatch(name)
        if match:
            numbers[match[1]].add(int(match[2]))
        elif name not in ("emb_layer.weight", "emb_layer.bias"):
            raise CheckpointError(f"{path}: {name[:80]!r} is no tensor of a DiffRec: {_EXPECTED}")
    names = [f"{stack}.{n}" for stack, found in numbers.items() for n in range(max(found, default=0) + 1)]
    for name in ["emb_layer", *names]:
        for part in PARTS:
            if f"{name}.{part}" not in state:
                raise CheckpointError(f"{path}: {f'{name}.{part}'!r} is missing: {_EXPECTED}")
    return names


def _shape(state: Mapping[str, Tensor], name: str, path: Path | str) -> tuple[int, int]:
    """Return the shape of a matrix."""
    shape = tuple(state[name].shape)
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError(f"{path}: {name!r} is {list(shape)[:8]}, expected a matrix")
    return shape[0], shape[1]
