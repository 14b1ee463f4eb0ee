"""Checkpoints: tensors and JSON in one safetensors file, written atomically, without pickle.

A file may come from others, or be damaged: its sizes are limited before anything is read, its JSON is checked
against a type, and its tensors against those that they replace.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import torch
from msgspec import Meta
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from refit_env.errors import CheckpointError
from refit_env.utils.atomic_io import atomic_path, check_record, finite, parse_record, read_record, write_json
from refit_env.utils.user_code import Source

POLICY = "policy"
"""Stem of a policy's files in a run folder."""

FORMAT = "refit-env/1"
"""Format tag; a reader refuses others."""

LARGEST_HEADER = 64 * 2**20
"""Most bytes of a header."""
LARGEST_POLICY_META = 2**20
"""Most bytes of ``policy.json``."""
MOST_TENSORS = 20_000
"""Most tensors of a file."""
_NOT_JSON = re.compile(r"(?<=[\[,: ])(-?Infinity|NaN)(?=[\],} ])")
"""Numbers that are not JSON, but that earlier versions wrote."""
Share = Annotated[float, Meta(ge=0, le=1)]


class PolicyMeta(TypedDict):
    """The metadata of a policy's file."""

    backbone: str
    """Name in the registry of backbones, or the place of a user's class."""
    backbone_file: NotRequired[Source]
    """The file of a user's class, and the sha256 of its content in training."""
    backbone_config: dict[str, Any]
    """Its configuration."""
    num_items: Annotated[int, Meta(ge=1)]
    """I."""
    num_steps: Annotated[int, Meta(ge=1)]
    """T of the chain."""
    exploration_std: Annotated[float, Meta(ge=0)]
    """Floor of the policy's standard deviation."""
    posterior_share: NotRequired[Share]
    """Factor of the posterior's standard deviation; 1 if absent."""
    eta: NotRequired[Share]
    """DDIM's eta of the reverse steps; 1 if absent."""
    dataset: NotRequired[str]
    """Name of the data set that the weights were trained on; empty if unknown."""
    data_fingerprint: NotRequired[str | None]
    """Its fingerprint."""
    data_source: NotRequired[str]
    """Source of the data."""
    validation_learned: NotRequired[bool]
    """Whether the weights were fitted to the validation items, too; false if absent."""
    weights: NotRequired[str]
    """SHA-256 of the weights (``weights_digest``)."""


def save_state(
    stem: Path | str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], retired: Sequence[Path] = ()
) -> Path:
    """Write ``<stem>.safetensors`` with the JSON-plain ``meta`` in its header.

    The file is renamed into place: a process that is killed leaves the previous complete state.

    Args:
        stem: path without the ending.
        tensors: tensors by name; they may share memory and be on any device.
        meta: JSON-plain; infinities and NaN become null.
        retired: files of the former state, which are deleted when the new one is written, just before it
            replaces the former one.

    Returns:
        The file's path.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    path = Path(stem).with_suffix(".safetensors")
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    header = {"format": FORMAT, "meta": json.dumps(finite(dict(meta)), allow_nan=False)}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, str(temporary), metadata=header)
        except SafetensorError as error:  # safetensors wraps errors of the system
            number = re.search(r"os error ([0-9]+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code)) from error
        for file in retired:
            file.unlink(missing_ok=True)
    return path


def load_state(stem: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors (on the CPU) and meta that ``save_state`` wrote.

    The caller checks the meta (``refit_env.utils.atomic_io.check_record``) and the tensors
    (``check_tensors``).

    Raises:
        CheckpointError: if the file is missing, damaged, too large, or of another format.
    """
    path = Path(stem).with_suffix(".safetensors")
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    _check_header_size(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            names = list(file.keys())
            if len(names) > MOST_TENSORS:
                raise CheckpointError(f"{path}: {len(names)} tensors; at most {MOST_TENSORS} are read")
            tensors = {name: file.get_tensor(name) for name in names}
    except CheckpointError:
        raise
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({_brief(error)})") from error
    except Exception as error:  # a type of numbers that this version of torch does not have
        raise CheckpointError(f"{path}: tensors that cannot be read ({_brief(error)})") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format {_brief(header.get('format'))}, expected {FORMAT!r} (not made by this library?)"
        )
    text = _NOT_JSON.sub("null", header.get("meta", "null"))
    meta: dict[str, Any] = parse_record(text, dict[str, Any], f"{path}: meta", error=CheckpointError)
    return tensors, meta


def check_tensors(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str, whose: str = "the model's"
) -> None:
    """Raise an error for tensors that cannot replace others.

    Args:
        found: the tensors that were read.
        expected: the tensors to replace. Names, shapes and types must be equal. Values must be finite, unless
            those that they replace are not. For tensors on the ``meta`` device, which have no values, only
            names, shapes and types are checked.
        where: the file, for the message.
        whose: owner of the expected tensors, for the message.

    Raises:
        CheckpointError: naming the first tensor that does not fit.
    """
    for name in expected:
        if name not in found:
            raise CheckpointError(f"{where}: {name!r} is missing, a tensor of {whose}")
    for name, tensor in found.items():
        if name not in expected:
            raise CheckpointError(f"{where}: {_brief(name)} is not a tensor of {whose}")
        want = expected[name]
        if tensor.shape != want.shape or tensor.dtype != want.dtype:
            raise CheckpointError(
                f"{where}: {name!r} is {_kind(tensor)}, {whose} is {_kind(want)}: another model's, or damaged"
            )
        if not want.is_meta and not _all_finite(tensor) and _all_finite(want):
            raise CheckpointError(f"{where}: {name!r} holds NaN or infinity")


def save_checkpoint(
    folder: Path | str, state: Mapping[str, Tensor], meta: Mapping[str, Any], retired: Sequence[Path] = ()
) -> None:
    """Write ``policy.safetensors``, and a readable copy of its meta, ``policy.json``.

    The digest of the weights becomes part of the meta, so that weights of another training are noticed.
    The meta in the safetensors header is the one that is used. ``load_checkpoint`` refuses a ``policy.json``
    that differs from it. A process that is killed between the two files leaves no ``policy.json``.

    Args:
        folder: created if missing.
        state: the weights.
        meta: what they belong to.
        retired: files of the former policy, see ``save_state``.

    Raises:
        OSError: naming the file, if it cannot be written; a former policy is there as it was, if it is the
            file of the weights.
    """
    folder = Path(folder)
    meta = {**meta, "weights": weights_digest(state)}
    copy = folder / f"{POLICY}.json"
    save_state(folder / POLICY, state, meta, (copy, *retired))
    write_json(copy, finite(meta))


def load_checkpoint(folder: Path | str) -> tuple[dict[str, Tensor], PolicyMeta]:
    """Read tensors and meta that ``save_checkpoint`` wrote; the caller checks the tensors.

    Raises:
        CheckpointError: if the folder holds no readable policy, or its ``policy.json`` differs from the meta.
    """
    state, raw = load_state(Path(folder) / POLICY)
    where = f"{Path(folder) / POLICY}.safetensors: meta"
    meta = check_record(raw, PolicyMeta, where, error=CheckpointError)
    copy = Path(folder) / f"{POLICY}.json"
    if copy.exists():
        stated = read_record(copy, dict[str, Any], error=CheckpointError, limit=LARGEST_POLICY_META)
        other = sorted(name for name in {*stated, *raw} if stated.get(name) != raw.get(name))
        if other:
            name = other[0]
            here, there = (_brief(one.get(name)) for one in (stated, raw))
            if name == "weights":  # digests
                here, there = here[1:13], there[1:13]
            raise CheckpointError(
                f"{copy}: states {_brief(name)} {here}, {POLICY}.safetensors {there}: the two files are of "
                f"different models. Restore the one that belongs here; {POLICY}.json is only a readable copy "
                "and may be deleted"
            )
    return state, meta


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of weights: names and values, without the meta of their file.

    Example:
        >>> weights_digest({"w": torch.zeros(2)})[:12]
        'e5868624950d'
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        numbers = state[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(numbers.numpy().tobytes())
    return digest.hexdigest()


def _check_header_size(path: Path) -> None:
    """Raise an error for a header that is longer than the file or than the limit."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= path.stat().st_size - 8:
        raise CheckpointError(f"{path}: not a whole safetensors file (its header is cut short)")
    if length > LARGEST_HEADER:
        raise CheckpointError(f"{path}: a header of {length} bytes; at most {LARGEST_HEADER} are read")


def _all_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinite."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    return bool(torch.isfinite(tensor).all())


def _kind(tensor: Tensor) -> str:
    """Format type and shape, for a message."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)[:8]}"


def _brief(value: object) -> str:
    """Format a value for a message, in bounded length."""
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
