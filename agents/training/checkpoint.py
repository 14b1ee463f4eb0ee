"""The content of a training's state besides tensors, and checks of a file's content."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta
from torch import Tensor

from agents.runs.files import FINE_TUNING
from agents.runs.profiling import Usage
from agents.runs.work import Work, work_in
from agents.training.tensors import part
from refit_env.checkpoint import PolicyMeta, load_state
from refit_env.errors import CheckpointError
from refit_env.policy import DiffusionPolicy
from refit_env.utils.atomic_io import check_record

Count = Annotated[int, Meta(ge=0)]
History = list[dict[str, float | None]]
"""Scalars of each iteration; null where one was not finite."""
Seconds = Annotated[float, Meta(ge=0)]
_NO_REASONS: Mapping[str, str] = MappingProxyType({})


class Progress(TypedDict):
    """The progress of a training, in every state."""

    config: dict[str, Any]
    """The settings."""
    seed: int
    """Seed of everything random."""
    best: tuple[float | None, Count]
    """The best validation metric and when it was reached."""
    history: History
    """Scalars of each iteration or epoch."""
    seconds: NotRequired[Seconds]
    """Seconds of training so far, validation not counted."""
    validation_seconds: NotRequired[Seconds]
    """Seconds of validation so far."""
    spent: NotRequired[dict[str, float]]
    """Cost of all sessions so far."""
    moved: NotRequired[list[Count]]
    """Indices of the parameters that the optimiser has a state of."""


class PretrainMeta(Progress):
    """The state of pretraining besides tensors."""

    epoch: Count
    """Epochs done."""
    data_fingerprint: NotRequired[str]
    """Fingerprint of the data set."""
    start: NotRequired[str]
    """Digest of the weights of a trained model that this training began with, if there was one."""


class TrainingMeta(Progress):
    """The state of fine-tuning besides tensors."""

    agent: str
    """The algorithm."""
    problem: dict[str, Any]
    """Data set, T and reward."""
    iteration: Count
    """Iterations done."""
    policy: NotRequired[PolicyMeta]
    """Description of the policy."""


def policy_of(folder: Path | str) -> DiffusionPolicy | None:
    """Return the policy that a resume state's run was begun with; None where the state is too old to say.

    Raises:
        CheckpointError: if there is no state, or it is damaged.
    """
    where = f"{Path(folder) / FINE_TUNING}.safetensors"
    tensors, raw = load_state(Path(folder) / FINE_TUNING)
    meta = check_record(raw, TrainingMeta, f"{where}: meta", error=CheckpointError)
    if "policy" not in meta:
        return None
    return DiffusionPolicy.restore(part(tensors, "reference.backbone."), meta["policy"], where)


def check_same(
    saved: Mapping[str, Any], now: Mapping[str, Any], where: str, reasons: Mapping[str, str] = _NO_REASONS
) -> None:
    """Refuse settings that are not those of a saved state; what only one of the two has is no difference.

    Args:
        saved: those of the state.
        now: those of the training.
        where: the state's file.
        reasons: setting -> why it cannot change, where that needs to be said.

    Raises:
        CheckpointError: naming the first setting that differs.
    """
    saved = json.loads(json.dumps(dict(saved)))  # tuples become lists in a file, and not in memory
    for name, mine in json.loads(json.dumps(dict(now))).items():
        if name in saved and saved[name] != mine:
            why = f"; {reasons[name]}" if name in reasons else ""
            raise CheckpointError(
                f"{where}: saved with {name}={_short(saved[name])}, this one has {_short(mine)}{why}"
            )


def check_history(history: History, done: int, unit: str, best: int, where: str) -> None:
    """Refuse a history that is not of ``done`` iterations, or a best one beyond them.

    Raises:
        CheckpointError: saying which.
    """
    if [row.get(unit) for row in history] != list(range(done + 1)) and (history or done):
        raise CheckpointError(f"{where}: the history is not that of {unit} 0 to {done}")
    if best > done:
        raise CheckpointError(f"{where}: the best {unit} is {best}, after {done} that were done")


def read_history(history: History) -> list[dict[str, float]]:
    """Return the history with NaN where a number was not finite."""
    return [{k: math.nan if v is None else v for k, v in row.items()} for row in history]


def read_best(best: tuple[float | None, int]) -> tuple[float, int]:
    """Return the best value and its time; minus infinity before the first validation."""
    return -math.inf if best[0] is None else best[0], best[1]


def read_work(history: History, where: str) -> Work:
    """Return the work of the iterations that were done.

    Raises:
        CheckpointError: if the history states impossible work.
    """
    try:
        work = work_in(read_history(history))
    except (ValueError, OverflowError):
        work = Work(-1)
    if min(work.forward, work.backward) < 0:
        raise CheckpointError(f"{where}: the history states work that is no number of rows")
    return work


def read_usage(meta: Mapping[str, Any]) -> Usage:
    """Return the cost of the sessions before."""
    spent = meta.get("spent", {})
    return Usage(*(spent.get(name, 0.0) for name in ("seconds", "peak_memory_mib", "peak_device_memory_mib")))


def read_moved(meta: Mapping[str, Any], tensors: Mapping[str, Tensor], done: int, where: str) -> list[int]:
    """Return the indices of the parameters whose optimiser state the file must hold.

    Raises:
        CheckpointError: if iterations were done and there is no state of any; of files of earlier versions,
            which do not say which there are.
    """
    if "moved" in meta:
        return list(meta["moved"])
    numbers = {name.split(".")[0] for name in part(tensors, "optimizer.")}
    if (done and not numbers) or not all(number.isdecimal() for number in numbers):
        raise CheckpointError(f"{where}: no state of the optimiser")
    return sorted(int(number) for number in numbers)


def check_known(
    tensors: Mapping[str, Tensor], names: Collection[str], prefixes: tuple[str, ...], where: str
) -> None:
    """Refuse a file with unknown tensors: it is another kind of file.

    Raises:
        CheckpointError: naming the first.
    """
    for name in tensors:
        if name not in names and not name.startswith(prefixes):
            raise CheckpointError(f"{where}: {_short(name)} is not a tensor of a resume state")


def _short(value: Any) -> str:
    """Return a value for a message, of bounded length."""
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."
