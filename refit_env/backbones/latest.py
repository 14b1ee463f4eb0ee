"""Caches of what is computed from weights, and times in which weights do not change."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.utils.weak import WeakTensorKeyDictionary

from refit_env.utils.locks import fork_lock

Result = TypeVar("Result")
Frozen = TypeVar("Frozen", bound=Module)


class Latest(Generic[Result]):
    """A cache of one result, valid until a tensor that it was computed from changes.

    A copy is empty, because a copied module has other tensors.
    """

    def __init__(self) -> None:
        """Create an empty cache."""
        self._kept: tuple[tuple[Any, ...], Result] | None = None  # one object: threads may share the cache

    def get(self, sources: Sequence[Tensor], make: Callable[[], Result], extra: Hashable = None) -> Result:
        """Return the result for ``sources`` (compared by ``_identity``) and ``extra``, cached or computed.

        While torch exports a model, whose tensors then have no values to compare, a cached result is valid.
        """
        kept = self._kept
        if kept is not None and torch.compiler.is_exporting():
            return kept[1]
        key = (extra, *(_identity(source) for source in sources))
        if kept is None or kept[0] != key:
            self._kept = kept = key, make()
        return kept[1]

    def release(self) -> None:
        """Free the result."""
        self._kept = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Latest[Result]:
        """Return an empty cache."""
        return Latest()

    def __reduce__(self) -> tuple[type[Latest[Result]], tuple[()]]:
        """Pickle as an empty cache."""
        return Latest, ()


_HELD: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Held parameter -> the number of the time in which it is held, and how many hold it. Copies are not held."""
_FROZEN: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Parameter of a module that ``freeze`` returned -> a number; not valid after it requires a gradient."""
_BEGUN = itertools.count()
_LOCK = fork_lock()
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _identity(source: Tensor) -> tuple[Hashable, ...]:
    """Return a key that changes when a tensor is modified.

    Torch's version counter counts neither the steps of fused optimisers nor changes through ``.data``, so the
    key of a parameter that is not held also has the sum of its bits.
    """
    if source.is_inference():  # no version: nothing can be kept
        return (object(),)
    seen = (source.data_ptr(), source._version, source.dtype, source.device, source.shape)
    if not isinstance(source, Parameter):
        return seen
    held = _held(source)
    if held is not None:
        return *seen, "held", held
    return *seen, int(source.detach().view(_BITS[source.element_size()]).sum(dtype=torch.int64))


def _held(parameter: Tensor) -> int | None:
    """Return the number of the time in which a parameter does not change; None if it may."""
    if parameter.requires_grad:
        _FROZEN.pop(parameter, None)
    held: tuple[int, int] | None = _HELD.get(parameter)
    frozen: int | None = _FROZEN.get(parameter)
    return frozen if held is None else held[0]


def hold(parameters: Iterable[Parameter]) -> None:
    """Begin a time in which parameters do not change, so that caches need not read them.

    What was computed of them before it, or within it, is not valid in another such time.
    """
    with _LOCK:
        begun = next(_BEGUN)
        for parameter in parameters:
            number, holders = _HELD.get(parameter, (begun, 0))
            _HELD[parameter] = number, holders + 1


def release(parameters: Iterable[Parameter]) -> None:
    """End a time that ``hold`` began; the parameters are held until all such times have ended."""
    with _LOCK:
        for parameter in parameters:
            number, holders = _HELD.pop(parameter)
            if holders > 1:
                _HELD[parameter] = number, holders - 1


def freeze(module: Frozen) -> Frozen:
    """Return a module whose weights do not change unless they require a gradient again.

    Example:
        >>> any(is_trained(weight) for weight in freeze(torch.nn.Linear(1, 1)).parameters())
        False
    """
    module.requires_grad_(False)
    for parameter in module.parameters():
        _FROZEN[parameter] = next(_BEGUN)
    return module


def is_trained(parameter: Tensor) -> bool:
    """Return whether a parameter may change at the next step: it is neither frozen nor held."""
    return parameter.requires_grad and _held(parameter) is None
