"""The values that a vector environment returns, as NumPy arrays or as tensors on a device.

Letters: N sub-environments, n of them with a value, D size of the diffused vector, L history length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from refit_env.envs.array_pool import ArrayPool

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Backend(ABC):
    """Makes the returned values; none of them changes later.

    Attributes:
        device: device of the vectors.
    """

    def __init__(self, num_envs: int, dim: int, device: torch.device) -> None:
        """Make a pool of (N, D) arrays, with N = ``num_envs`` and D = ``dim``."""
        self.num_envs, self.device = num_envs, device
        self._pool = ArrayPool((num_envs, dim))

    def empty(self) -> Tensor:
        """(N, D) float32 without other references; its content is undefined."""
        if self.device.type == "cpu":
            return torch.from_numpy(self._pool.take())
        return torch.empty(self._pool.shape, device=self.device)  # torch caches its blocks

    def tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """Convert the array to a tensor on the device."""
        return torch.from_numpy(array).to(self.device)

    def info(self, values: Mapping[str, Any], mask: Bools) -> dict[str, Any]:
        """Return each value (N, ...), and under ``_name`` the mask of the sub-environments that have it."""
        out: dict[str, Any] = {}
        for name, value in values.items():
            out |= {name: value, f"_{name}": self.flags(mask)}
        return out

    @abstractmethod
    def vectors(self, u: Tensor) -> Any:
        """Return the vectors ``u`` (N, D), not copied."""

    @abstractmethod
    def steps(self, t: Ints) -> Any:
        """Return the steps taken ``t`` (N,) as (N, 1) float32."""

    @abstractmethod
    def flags(self, raised: Bools | None = None) -> Any:
        """(N,) bool; all false if ``raised`` is None."""

    @abstractmethod
    def ids(self, values: Ints) -> Any:
        """(N,) int64."""

    @abstractmethod
    def no_rewards(self) -> Any:
        """(N,) zeros."""

    @abstractmethod
    def spread(self, values: Tensor, where: Ints) -> Any:
        """(N, ...) with ``values`` (n, ...) at the places ``where`` (n,), zeros elsewhere."""

    @abstractmethod
    def final_observation(self, u: Tensor, t: Ints, where: Ints, history: Tensor | None = None) -> Any:
        """Return the last observation of the chains ``where`` (n,): t, ``u`` (N, D), ``history`` (N, L)."""


class NumpyBackend(Backend):
    """Arrays with the layout of SyncVectorEnv."""

    def vectors(self, u: Tensor) -> Any:
        """See ``Backend``."""
        return u.numpy()

    def steps(self, t: Ints) -> Any:
        """See ``Backend``."""
        return t.astype(np.float32)[:, None]

    def flags(self, raised: Bools | None = None) -> Any:
        """See ``Backend``."""
        return np.zeros(self.num_envs, np.bool_) if raised is None else raised.copy()

    def ids(self, values: Ints) -> Any:
        """See ``Backend``."""
        return values.copy()

    def no_rewards(self) -> Any:
        """See ``Backend``; float64, as in Gymnasium."""
        return np.zeros(self.num_envs, np.float64)

    def spread(self, values: Tensor, where: Ints) -> Any:
        """See ``Backend``."""
        dtype = np.float64 if values.is_floating_point() else np.int64
        out = np.zeros((self.num_envs, *values.shape[1:]), dtype)
        out[where] = values.numpy()
        return out

    def final_observation(self, u: Tensor, t: Ints, where: Ints, history: Tensor | None = None) -> Any:
        """See ``Backend``; an object array of dicts, None where no chain ended."""
        out = np.full(self.num_envs, None, dtype=object)
        parts = {} if history is None else {"history": history.numpy().copy()}
        parts |= {"t": self.steps(t), "u": u.numpy()}
        rows = zip(*parts.values(), strict=True)
        each = [dict(zip(parts, row, strict=True)) for row in rows]
        out[where] = each if where.size == self.num_envs else [each[i] for i in where]
        return out


class TorchBackend(Backend):
    """Tensors on the device."""

    def vectors(self, u: Tensor) -> Any:
        """See ``Backend``."""
        return u

    def steps(self, t: Ints) -> Any:
        """See ``Backend``."""
        return self.tensor(t.astype(np.float32)[:, None])

    def flags(self, raised: Bools | None = None) -> Any:
        """See ``Backend``."""
        if raised is None:
            return torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        return self.tensor(raised.copy())

    def ids(self, values: Ints) -> Any:
        """See ``Backend``."""
        return self.tensor(values.copy())

    def no_rewards(self) -> Any:
        """See ``Backend``; float32."""
        return torch.zeros(self.num_envs, device=self.device)

    def spread(self, values: Tensor, where: Ints) -> Any:
        """See ``Backend``."""
        if where.size == self.num_envs:
            return values.clone()  # a copy: the reward may keep its tensor
        out = torch.zeros((self.num_envs, *values.shape[1:]), dtype=values.dtype, device=self.device)
        out[self.tensor(where)] = values
        return out

    def final_observation(self, u: Tensor, t: Ints, where: Ints, history: Tensor | None = None) -> Any:
        """See ``Backend``; one dict of tensors (N, ...), which also hold the chains that did not end."""
        shown = {} if history is None else {"history": history.clone()}
        return shown | {"t": self.steps(t), "u": u}


def spread_ids(ids: npt.NDArray[Any], where: Ints, num_envs: int) -> npt.NDArray[Any]:
    """(N, ...) with the source's ids (n, ...) at the places ``where`` (n,), in the layout of SyncVectorEnv.

    The other places are 0; for single ids of text they are None.
    """
    out = np.zeros((num_envs, *ids.shape[1:]), ids.dtype)
    if ids.dtype == object and ids.ndim == 1:
        out[:] = None
    out[where] = ids
    return out


BACKENDS: dict[str, type[Backend]] = {"numpy": NumpyBackend, "torch": TorchBackend}
"""Backends by name."""
