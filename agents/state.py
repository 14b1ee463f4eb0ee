"""Training state as named tensors, so that it can be saved without pickling; and the device to train on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from refit_env.errors import SettingError


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device of a name.

    Args:
        device: ``"auto"`` (CUDA where it can be used, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"`` ...

    Raises:
        SettingError: if torch cannot use it here; the message names those that it can.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    cuda = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if cuda else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError):  # what torch raises depends on how it was built
        found = torch.device("meta")
    if found.type == "meta":
        usable = "auto, cpu, cuda" if cuda else "auto, cpu"
        raise SettingError(
            "device",
            f"must be one that torch {torch.__version__} can use here ({usable}), found {str(device)!r}",
        )
    return found


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state by ``<parameter index>.<name>``; Adam's step count is a tensor, too."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, entries in state.items() for name, value in entries.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``flatten_optimizer`` gave; step sizes and the like stay those of the optimiser."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
