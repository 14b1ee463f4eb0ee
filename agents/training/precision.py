"""The number format of a network's matrix products in training.

Weights, optimiser states, means, log-probabilities and rewards stay float32 in every case.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from agents.training.config import PRECISIONS
from refit_env.errors import SettingError, unknown_name

if TYPE_CHECKING:
    from refit_env.policy import DiffusionPolicy

DTYPES: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}
"""Name -> number format of the matrix products; None is the format of the weights."""
assert set(DTYPES) == set(PRECISIONS)


def check_precision(name: str, device: torch.device) -> None:
    """Refuse a precision that a device does not compute in hardware.

    Raises:
        SettingError: naming ``precision``.

    Example:
        >>> check_precision("fp32", torch.device("cpu"))
    """
    if name not in DTYPES:
        raise unknown_name("precision", name, DTYPES)
    if DTYPES[name] is not None and not _multiplies_bf16(device):
        lacks = (
            "a GPU of compute capability 8.0" if device.type == "cuda" else "a CPU with AVX512-BF16 or AMX"
        )
        raise SettingError(
            "precision", f"must be 'fp32' on this device ({device}), found {name!r}, which needs {lacks}"
        )


def products(name: str, device: torch.device) -> Any:
    """Return a context in which the products of a network are computed in a precision.

    Example:
        >>> with products("fp32", torch.device("cpu")):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.float32
    """
    dtype = DTYPES[name]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


@contextmanager
def policies_in(name: str, *policies: DiffusionPolicy) -> Iterator[None]:
    """Compute the networks' products of ``policies`` in a precision within the block; means are float32."""
    for policy in policies:
        policy.product_dtype = DTYPES[name]
    try:
        yield
    finally:
        for policy in policies:
            policy.product_dtype = None


def _multiplies_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
