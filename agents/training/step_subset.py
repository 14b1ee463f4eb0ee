"""Which steps of the chain an iteration trains."""

from __future__ import annotations

import re
from typing import Annotated

import torch

from refit_env.settings import Form


def window_fault(text: str) -> str | None:
    """What is wrong with a text that ``trained_steps`` cannot read; None if it can.

    Example:
        >>> window_fault("first:2")
        "must be 'all', 'random:n' or 'last:n' with n in 1..99999, found 'first:2'"
    """
    if text == "all" or re.fullmatch("(random|last):[1-9][0-9]{0,4}", text):
        return None
    return f"must be 'all', 'random:n' or 'last:n' with n in 1..99999, found {text!r}"


TrainSteps = Annotated[str, Form(window_fault)]
"""The type of an algorithm's ``train_steps``."""


def trained_steps(text: str, total: int, generator: torch.Generator) -> tuple[int, ...]:
    """The steps of an iteration, ascending.

    Args:
        text: ``all``, ``random:n`` (n of them, drawn) or ``last:n``.
        total: T.
        generator: draws, for ``random``.

    Example:
        >>> trained_steps("last:2", 5, torch.Generator())
        (3, 4)
    """
    kind, _, count = text.partition(":")
    window = total if kind == "all" else min(int(count), total)
    if window == total or kind == "last":
        return tuple(range(total - window, total))
    drawn = torch.randperm(total, generator=generator)[:window]
    return tuple(sorted(drawn.tolist()))
