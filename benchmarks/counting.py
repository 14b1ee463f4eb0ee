"""What a piece of work computes, moves, and spends its time on: for the table of ``refit bench``.

A product of N x D and D x H numbers counts 2 N D H floating-point operations, of n values that are not 0 and
D x H numbers 2 n H. An operation moves the bytes of
its inputs and outputs, each once; of a table that it only picks entries of, it moves what it picks. What the
caches hold does not move in fact: the number is an upper limit.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PICKING = ("index", "index_select", "gather", "embedding", "_embedding_bag", "_embedding_bag_forward_only")
"""Operations whose first input is a table that they pick from."""
MATRICES = ("mm", "addmm", "addmm_", "bmm", "baddbmm")
"""Products of the last two inputs that are tensors."""
FEW = ("_embedding_bag", "_embedding_bag_forward_only")
"""Products of a table and the values of an input that are not 0."""
PUTTING = ("index_add_", "index_copy_", "scatter_", "index_put_")
"""Operations that change a few entries of their first input."""
GROUPS: dict[str, tuple[str, ...]] = {
    "products": (*MATRICES, *FEW),
    "random numbers": ("normal_", "uniform_", "randn", "rand", "randperm", "random_", "bernoulli_"),
    "ranking": ("topk", "sort", "argsort", "max", "searchsorted"),
    "picking and putting": (*PICKING[:4], *PUTTING, "scatter", "nonzero", "cat", "copy_"),
    "optimiser and clipping": ("_fused_adam_", "_fused_adamw_", "_foreach_norm", "_foreach_mul_"),
}
"""Group of a profile -> its operations; all others are ``OTHERS``."""
OTHERS = "elementwise and other"


@dataclass(frozen=True)
class Count:
    """What a piece of work computes and moves."""

    operations: float
    """Floating-point operations of its products."""
    moved: float
    """Bytes that all its operations read and write."""


class _Ledger(TorchDispatchMode):
    """Adds up the operations of products, the bytes and the processor's seconds of all."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.moved = 0.0
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note it."""
        name = func.overloadpacket.__name__
        begin = time.thread_time()
        out = func(*args, **(kwargs or {}))
        self.seconds[name] += time.thread_time() - begin
        if name in MATRICES:
            *_, a, b = _tensors(args)
            self.operations += 2.0 * a.numel() * b.shape[-1]
        elif name in FEW:
            self.operations += 2.0 * args[1].numel() * args[0].shape[1]
        if not _is_view(func):
            read, written = list(_tensors([args, kwargs or {}])), list(_tensors(out))
            if name in PICKING:
                read = [*read[1:], *written]
            elif name in PUTTING:
                read, written = read[1:], read[1:]
            self.moved += sum(t.numel() * t.element_size() for t in (*read, *written))
        return out


def _is_view(func: Any) -> bool:
    """Return whether an operation only returns another view of its input."""
    ends = [result.alias_info for result in func._schema.returns]
    return any(end is not None and not end.is_write for end in ends)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def count(work: Callable[[], Any]) -> Count:
    """Count what a call computes and moves.

    Example:
        >>> import torch
        >>> a, b = torch.ones(2, 3), torch.ones(3, 4)
        >>> count(lambda: a @ b)
        Count(operations=48.0, moved=104.0)
    """
    with _Ledger() as ledger:
        work()
    return Count(ledger.operations, ledger.moved)


def seconds_by_group(work: Callable[[], Any], repeats: int = 3) -> dict[str, float]:
    """Return the processor's seconds of a call's operations by ``GROUPS``, all in this thread.

    What Python itself needs between the operations is not in them.

    Args:
        work: the call; it is made once before it is measured.
        repeats: calls, of which the mean is returned.
    """
    work()
    with _Ledger() as ledger:
        for _ in range(repeats):
            work()
    group_of = {name: group for group, names in GROUPS.items() for name in names}
    out = dict.fromkeys([*GROUPS, OTHERS], 0.0)
    for name, seconds in ledger.seconds.items():
        out[group_of.get(name, OTHERS)] += seconds / repeats
    return out
