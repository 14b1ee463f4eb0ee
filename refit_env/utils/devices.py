"""Devices of torch by name."""

from __future__ import annotations

import torch

from refit_env.errors import SettingError


def usable_device(device: str | torch.device, *others: str) -> torch.device:
    """Return the device of a name, after a test that torch can use it here.

    Args:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` ...
        others: further names that the caller accepts, for the message.

    Raises:
        SettingError: if torch cannot; the message names those that it can.

    Example:
        >>> usable_device("cpu")
        device(type='cpu')
    """
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError):  # what torch raises depends on how it was built
        found = torch.device("meta")
    if found.type == "meta":
        usable = ", ".join([*others, "cpu", *(["cuda"] if torch.cuda.is_available() else [])])
        raise SettingError(
            "device",
            f"must be one that torch {torch.__version__} can use here ({usable}), found {str(device)!r}",
        )
    return found
