"""The rule of choice: a more complex model must be better by more than the noise of validation.

The noise is the standard error, over users, of the paired difference of their validation metric. A gain below
two of them is often none, or a loss, on other items of the same users.

Letters: n users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Model = TypeVar("Model")
ERRORS = 2.0
"""Standard errors that a gain must exceed."""


@dataclass(frozen=True)
class Gain:
    """The mean gain of one model over another on the same users, and its standard error."""

    mean: float
    """Mean over users."""
    error: float
    """Its standard error; infinite for a single user."""

    @classmethod
    def of(cls, before: npt.ArrayLike, after: npt.ArrayLike) -> Gain:
        """Return the gain ``after - before`` of n users.

        Args:
            before: (n,) a metric of each user by the simpler model.
            after: (n,) the metric by the other one, of the same users in the same order.

        Example:
            >>> gain = Gain.of([0.0, 0.5, 1.0, 0.5], [0.1, 0.7, 1.0, 0.7])
            >>> print(gain, gain.clear)
            +0.1250, standard error 0.0479 True
        """
        difference = np.asarray(after, np.float64) - np.asarray(before, np.float64)  # (n,)
        if difference.size < 2:
            return cls(float(difference.mean()), float("inf"))
        return cls(float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(difference.size)))

    @property
    def clear(self) -> bool:
        """Whether the gain exceeds ``ERRORS`` standard errors."""
        return self.mean > ERRORS * self.error

    def __str__(self) -> str:
        """Format: ``+0.0012, standard error 0.0004``."""
        return f"{self.mean:+.4f}, standard error {self.error:.4f}"


def better_of(models: Sequence[tuple[Model, npt.NDArray[np.float64]]]) -> Model:
    """Return the model that the rule chooses: the first, until a later one is clearly better.

    Args:
        models: model and its users' values (n,), the simplest model first.

    Example:
        >>> simple, other = np.array([0.2, 0.4, 0.3]), np.array([0.3, 0.3, 0.31])
        >>> better_of([("simple", simple), ("other", other), ("third", simple + 0.01)])
        'third'
    """
    best, values = models[0]
    for model, found in models[1:]:
        if Gain.of(values, found).clear:
            best, values = model, found
    return best
