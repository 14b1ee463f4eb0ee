"""Checkpoints: tensors and JSON in one safetensors file, written at once; nothing is ever unpickled."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from refit_env.errors import CheckpointError
from refit_env.files import atomic_path, write_json

POLICY = "policy"
"""Stem of a policy's files in a run folder."""

FORMAT = "refit-env/1"
"""Format tag; a reader refuses others."""


def save_state(stem: Path | str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
    """Write ``<stem>.safetensors`` with the JSON-plain ``meta`` in its header.

    One file, renamed into place: a process killed at any moment leaves the last whole state.

    Args:
        stem: path without the ending.
        tensors: by name; may share memory, may lie on any device.
        meta: JSON-plain; infinities and NaN are allowed.

    Returns:
        The file's path.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    path = Path(stem).with_suffix(".safetensors")
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    header = {"format": FORMAT, "meta": json.dumps(dict(meta))}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, str(temporary), metadata=header)
        except SafetensorError as error:  # its name for an error of the system
            number = re.search(r"os error ([0-9]+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code)) from error
    return path


def load_state(stem: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_state`` wrote; tensors on the CPU.

    Raises:
        CheckpointError: if the file is missing, damaged, or of another format.
    """
    path = Path(stem).with_suffix(".safetensors")
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format {header.get('format')!r}, expected {FORMAT!r} (not made by this library?)"
        )
    meta: dict[str, Any] = json.loads(header["meta"])
    return tensors, meta


def save_checkpoint(folder: Path | str, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write ``policy.safetensors``, and ``policy.json`` with the same meta for people to read.

    The meta that counts is the one in the safetensors header: the two files cannot disagree.
    """
    folder = Path(folder)
    save_state(folder / POLICY, state, meta)
    write_json(folder / f"{POLICY}.json", dict(meta))


def load_checkpoint(folder: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_checkpoint`` wrote.

    Raises:
        CheckpointError: if the folder holds no readable policy.
    """
    return load_state(Path(folder) / POLICY)
