"""The rule of choice: a more complex model must be better by more than the noise of validation.

The noise is the standard error, over users, of the paired difference of their validation metric; rows of one
user or session count together. A gain below two of them is often none, or a loss, on other items of the same
users.

Letters: n users.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from refit_env.evaluation.statistics import Gain

Model = TypeVar("Model")


def better_of(
    models: Sequence[tuple[Model, npt.NDArray[np.float64]]], *, groups: npt.ArrayLike | None = None
) -> Model:
    """Return the model that the rule chooses: the first, until a later one is clearly better.

    Args:
        models: model and its users' values (n,), the simplest model first.
        groups: (n,) int, users with one number are not independent; None counts each alone.

    Example:
        >>> simple, other = np.array([0.2, 0.4, 0.3]), np.array([0.3, 0.3, 0.31])
        >>> better_of([("simple", simple), ("other", other), ("third", simple + 0.01)])
        'third'
    """
    best, values = models[0]
    for model, found in models[1:]:
        if Gain.of(values, found, groups=groups).clear:
            best, values = model, found
    return best
