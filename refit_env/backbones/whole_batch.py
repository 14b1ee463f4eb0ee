"""The rows of a whole batch, where several processes have a part of it each.

A loss of a backbone is a mean over rows, so that a training can divide its batches among processes. What a
backbone keeps of a batch besides its weights (losses of steps, counts, bounds) must be the same in all of
them: it is computed from ``whole_batch``.

Letters: B rows of this process, N rows of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Gather = Callable[[Tensor], Tensor]
"""Rows (B, ...) of this process -> rows (N, ...) of all processes, in the batch's order."""

_gather: ContextVar[Gather | None] = ContextVar("gather", default=None)


def whole_batch(rows: Tensor) -> Tensor:
    """Return the rows of the whole batch, without a gradient.

    Args:
        rows: (B, ...) of this process's part of the batch.

    Returns:
        (N, ...); ``rows`` itself, where one process has the whole batch.

    Example:
        >>> import torch
        >>> whole_batch(torch.arange(2)).tolist()
        [0, 1]
        >>> with gathered_by(lambda rows: torch.cat([rows, rows])):
        ...     whole_batch(torch.arange(2)).tolist()
        [0, 1, 0, 1]
    """
    gather = _gather.get()
    return rows.detach() if gather is None else gather(rows.detach())


@contextmanager
def gathered_by(gather: Gather) -> Iterator[None]:
    """Within the block, ``whole_batch`` returns what ``gather`` does."""
    token = _gather.set(gather)
    try:
        yield
    finally:
        _gather.reset(token)
