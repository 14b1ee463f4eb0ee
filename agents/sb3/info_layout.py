"""Converts infos, options and indices between Gymnasium's vector environments and SB3's.

Letters: N sub-environments, n selected sub-environments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor


def rows_of(info: Mapping[str, Any], where: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """Split a batched info into one mapping per selected sub-environment.

    Args:
        info: name -> (N, ...) array, tensor or mapping of them, and ``_name`` -> (N,) bool, the mask of the
            sub-environments that have the value (all, without a mask).
        where: (n,) the selected sub-environments.

    Returns:
        n mappings; a sub-environment without a value lacks its name. Numbers are Python numbers.

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
    """Return masks (N,) of the sub-environments with equal options, in order of first appearance.

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
    """Return the sub-environments in 0..N-1 that ``indices`` name; negative indices count from the end.

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
    """Return whether two values, or mappings of them, are equal in type and content."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    return type(one) is type(other) and bool(np.array_equal(_array(one), _array(other)))


def _parts(value: Any, where: npt.NDArray[np.int64]) -> list[Any]:
    """Return the value of each selected sub-environment."""
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
    """Merge SB3's options, one mapping per environment, into one mapping for a vector environment.

    Args:
        options: N mappings.

    Returns:
        Each name with its value if all are equal, else with the list of N values; None without options.

    Raises:
        ValueError: if a name is missing for some of the sub-environments.

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
