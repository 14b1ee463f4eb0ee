"""The processes that train together: each has a part of every batch, and gradients are averaged over them.

torch.distributed connects them, Accelerate (the extra ``distributed``) sets it up: NCCL between GPUs, gloo
between CPUs. ``torchrun``, or ``--processes`` of ``refit pretrain`` and ``refit finetune``, starts them. The
first one, rank 0, validates, writes the log and the checkpoints; the others have its results.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from agents.runs.files import RunError
from agents.runs.processes import NEEDED, processes, restarts
from refit_env.errors import MissingExtraError

Value = TypeVar("Value")


class World:
    """One process that trains alone.

    Attributes:
        rank: which process this is.
        size: number of processes.
    """

    rank = 0
    size = 1

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes, in place."""

    def total(self, values: Sequence[float]) -> list[float]:
        """Return the sums of numbers over all processes."""
        return list(values)

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the rows of a tensor of all processes, (size * N, ...) of (N, ...) each."""
        return tensor

    def of_first(self, call: Callable[[], Value]) -> Value:
        """Return what ``call`` returns in the first process; the others do not call it."""
        return call()

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in some process."""
        return flag


class DistributedWorld(World):
    """Several processes, connected by torch.distributed."""

    def __init__(self, device: torch.device) -> None:
        """Join the other processes.

        Raises:
            MissingExtraError: if Accelerate is not installed.
        """
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise MissingExtraError(*NEEDED) from error
        self._state = PartialState(cpu=device.type == "cpu", **_store())
        self.rank, self.size = int(self._state.process_index), int(self._state.num_processes)
        self.device = torch.device(self._state.device)
        atexit.register(_leave)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """See ``World``."""
        with _connected():
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)
                tensor /= self.size

    def total(self, values: Sequence[float]) -> list[float]:
        """See ``World``."""
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        with _connected():
            torch.distributed.all_reduce(sums)
        return [float(value) for value in sums.tolist()]

    def gather(self, tensor: Tensor) -> Tensor:
        """See ``World``."""
        with _connected():
            out = [torch.empty_like(tensor) for _ in range(self.size)]
            torch.distributed.all_gather(out, tensor.contiguous())
        return torch.cat(out)

    def of_first(self, call: Callable[[], Value]) -> Value:
        """See ``World``."""
        held = [call() if self.rank == 0 else None]
        with _connected():
            torch.distributed.broadcast_object_list(held, src=0, device=self.device)
        [value] = held
        return value  # type: ignore[return-value]  # the first process's

    def any(self, flag: bool) -> bool:
        """See ``World``."""
        count = torch.tensor(float(flag), device=self.device)
        with _connected():
            torch.distributed.all_reduce(count)
        return bool(count > 0)


def _leave() -> None:
    """Close the connections of CPU processes before Python ends.

    Otherwise a thread of theirs may find a connection closed by a process that ended earlier, and abort its
    own process after a training that succeeded.
    """
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()


def _store() -> dict[str, Any]:
    """Return what processes that were started again need to find each other.

    The launcher keeps its store, where the addresses of the processes that ended still are.
    """
    if not (count := restarts()):
        return {}
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(iter(rendezvous("env://")))
    return {"store": PrefixStore(f"start_{count}", store), "rank": rank, "world_size": size}


@contextmanager
def _connected() -> Iterator[None]:
    """Raise ``RunError`` where another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise RunError(
            "another process of this training has ended, so that it cannot go on. The run folder holds the "
            "state of the last validation: the same command with --resume continues it, with any number of "
            "processes"
        ) from error


@cache
def _joined(kind: str) -> World:
    """Join the other processes, once."""
    return DistributedWorld(torch.device(kind))


def world_of(device: torch.device) -> World:
    """Return the processes that the launcher of this one started together."""
    return _joined(device.type) if processes() > 1 else World()
