"""Infos, options and indices between the layouts of Gymnasium's vector environments and of SB3's.

Letters: N sub-environments, n of them that are asked about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor


def rows_of(info: Mapping[str, Any], where: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """What a batched info tells about some sub-environments, one mapping each.

    Args:
        info: name -> (N, ...) array, tensor or mapping of them, beside ``_name`` (N,) bool, which
            sub-environments the value is about (all, where there is no mask).
        where: (n,) the sub-environments asked about.

    Returns:
        n mappings; a sub-environment that a value is not about lacks the name. Numbers are Python's own.

    Example:
        >>> info = {"user": np.array([4, 5]), "_user": np.array([True, False])}
        >>> rows_of(info, np.array([0, 1]))
        [{'user': 4}, {}]
    """
    rows: list[dict[str, Any]] = [{} for _ in where]
    for name, value in info.items():
        if name.startswith("_") and name[1:] in info:
            continue
        mask = info.get(f"_{name}")
        about = np.ones(len(where), np.bool_) if mask is None else _array(mask)[where]
        for row, chosen, part in zip(rows, about, _parts(value, where), strict=True):
            if chosen:
                row[name] = part
    return rows


def alike(options: Sequence[Mapping[str, Any]]) -> list[npt.NDArray[np.bool_]]:
    """Masks (N,) of the sub-environments whose options are the same, by first appearance.

    Example:
        >>> [mask.tolist() for mask in alike([{"user": 4}, {}, {"user": 4}])]
        [[True, False, True], [False, True, False]]
    """
    firsts: list[Mapping[str, Any]] = []
    places: list[int] = []
    for each in options:
        found = next((n for n, first in enumerate(firsts) if _same(first, each)), len(firsts))
        firsts += [each] if found == len(firsts) else []
        places.append(found)
    return [np.array(places) == n for n in range(len(firsts))]


def places(indices: int | Iterable[int] | None, count: int) -> list[int]:
    """The sub-environments in 0..N-1 that ``indices`` name; negative ones count from the end, as in lists.

    Args:
        indices: one, several, or None for all.
        count: N.

    Raises:
        IndexError: if there is no such sub-environment.

    Example:
        >>> places(-1, 4), places(range(2), 4)
        ([3], [0, 1])
    """
    if indices is None:
        return list(range(count))
    chosen = [int(i) for i in ([indices] if isinstance(indices, int | np.integer) else indices)]
    for i in chosen:
        if not -count <= i < count:
            raise IndexError(f"indices={indices}: there is no sub-environment {i}, only 0..{count - 1}")
    return [i % count for i in chosen]


def _same(one: Any, other: Any) -> bool:
    """Whether two values, or mappings of them, are equal in type and content."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    return type(one) is type(other) and bool(np.array_equal(_array(one), _array(other)))


def _parts(value: Any, where: npt.NDArray[np.int64]) -> list[Any]:
    """The value of each sub-environment asked about."""
    if isinstance(value, Mapping):
        return list(rows_of(value, where))
    array = _array(value)
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        return [value] * len(where)  # one for all
    picked = array[where]
    return picked.tolist() if picked.ndim == 1 else list(picked)


def _array(value: Any) -> Any:
    return value.cpu().numpy() if isinstance(value, Tensor) else value


def common_options(options: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """SB3's options, a mapping an environment, as the one that Gymnasium's vector environments take.

    Args:
        options: N mappings.

    Returns:
        Each name with its value where all agree, else with the list of N values; None for no options.

    Raises:
        ValueError: if a name is given for some of the sub-environments only.

    Example:
        >>> common_options([{"user": 4}, {"user": 5}])
        {'user': [4, 5]}
    """
    names = {name for each in options for name in each}
    if not names:
        return None
    for name in sorted(names):
        lacking = [i for i, each in enumerate(options) if name not in each]
        if lacking:
            raise ValueError(
                f"option {name!r} is missing for sub-environment {lacking[0]}: a batched reset needs it for "
                "all of them or none"
            )
    out: dict[str, Any] = {}
    for name in sorted(names):
        values = [each[name] for each in options]
        out[name] = values[0] if all(_same(value, values[0]) for value in values) else values
    return out
