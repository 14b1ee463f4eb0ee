"""Parameter groups that step at a multiple of the one learning rate that SB3 sets."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

SCALE = "lr_scale"
"""The entry of a parameter group that says how many times the learning rate it takes; without it, once."""


def scale_groups(optimizer: Optimizer) -> None:
    """Let each group of the optimiser step at ``lr * lr_scale``.

    Stable-Baselines3 has one optimiser for actor and critic and writes one learning rate into all of its
    groups before each update. A pretrained actor wants 1e-5, a critic that begins from nothing 1e-3 (as
    DPPO has them). The groups' rates are as SB3 wrote them before and after a step, so its schedules and its
    saved files need not know.

    Args:
        optimizer: of any class; changed in place.

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
