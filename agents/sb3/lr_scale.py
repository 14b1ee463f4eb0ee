"""Parameter groups whose learning rate is a multiple of the one that SB3 sets."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

SCALE = "lr_scale"
"""Entry of a parameter group with the factor of its learning rate; the default is 1."""


def scale_groups(optimizer: Optimizer) -> None:
    """Make each group of the optimiser step with the learning rate ``lr * lr_scale``.

    Stable-Baselines3 has one optimiser for actor and critic and writes one learning rate into all of its
    groups before each update. A pretrained actor needs 1e-5, an untrained critic 1e-3 (as in DPPO). Outside
    of a step the groups have the rates that SB3 wrote, so its schedules and saved files are unaffected.

    Args:
        optimizer: an optimiser of any class; changed in place.

    Example:
        >>> import torch
        >>> a, b = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b], "lr_scale": 10.0}], lr=0.1)
        >>> scale_groups(optimizer)
        >>> (a + b).backward()
        >>> optimizer.step()
        >>> round(a.item(), 3), round(b.item(), 3)
        (-0.1, -1.0)
    """

    def multiply(optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] *= group.get(SCALE, 1.0)

    def divide(optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] /= group.get(SCALE, 1.0)

    optimizer.register_step_pre_hook(multiply)
    optimizer.register_step_post_hook(divide)
