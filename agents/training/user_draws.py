"""Which users a batch holds: ``uniform``, by ``activity`` or ``value``, or ``bands`` of equal activity.

- ``uniform``: each user is drawn with equal probability, without replacement.
- ``activity``, ``value``: in proportion to the visible items, or to the sum of the ratings (amounts, where a
  source has amounts there). The objective is then the mean reward with these weights.
- ``bands``: users next to each other in the order of activity. Each user has the same probability, so that
  the objective is that of ``uniform``; the histories of a batch have about equal lengths.

Letters: U users of an environment, B users in a batch, N interactions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from refit_env.envs.problem import DenoisingProblem
from refit_env.errors import SettingError

MOST = 2**24
"""Most users that are drawn by weights."""


class UserDraws:
    """Draws the users of batches of one environment."""

    def __init__(self, kind: str, problem: DenoisingProblem) -> None:
        """Weigh or sort the users.

        Args:
            kind: a name of ``DRAWS``.
            problem: gives the users and their items.

        Raises:
            SettingError: naming ``draw_users``, if the data set has no ratings, none is positive, or there
                are too many users.
        """
        self.users = torch.as_tensor(problem.users, dtype=torch.int64)  # (U,)
        self._draw = DRAWS[kind](problem)

    def batch(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the users (B,) of a batch; B is at most U."""
        return self.users[self._draw(min(count, self.users.numel()), generator)]


Draw = Callable[[int, torch.Generator], Tensor]
"""B and a generator -> places (B,) in the users."""


def _uniform(problem: DenoisingProblem) -> Draw:
    """Return draws with equal probabilities."""
    total = len(problem.users)
    return lambda count, generator: torch.randperm(total, generator=generator)[:count]


def _activity(problem: DenoisingProblem) -> Tensor:
    """Return the number of visible items (U,) of each user."""
    return torch.as_tensor(np.diff(problem.relevance.visible.indptr)[problem.users]).double()


def _by_activity(problem: DenoisingProblem) -> Draw:
    """Return draws in proportion to the visible items."""
    return _weighted(_activity(problem))


def _by_value(problem: DenoisingProblem) -> Draw:
    """Return draws in proportion to the sum of the train ratings; users with a sum of 0 are not drawn."""
    rows = problem.dataset.train
    if rows.ratings is None:
        raise SettingError(
            "draw_users",
            f"must not be 'value' on {problem.dataset.name!r}, whose interactions have no ratings",
        )
    total = np.bincount(rows.users, np.maximum(rows.ratings, 0.0), rows.num_users)
    return _weighted(torch.as_tensor(total[problem.users]))


def _weighted(weight: Tensor) -> Draw:
    """Return draws without replacement, by weights (U,) float64."""
    drawable = int((weight > 0).sum())
    if not drawable or weight.numel() > MOST:
        what = f"{weight.numel():,} users" if drawable else "no user with a positive weight"
        raise SettingError("draw_users", f"draws by weights from 1 to {MOST:,} users, found {what}")
    return lambda count, generator: torch.multinomial(weight, min(count, drawable), generator=generator)


def _bands(problem: DenoisingProblem) -> Draw:
    """Return draws of neighbours in the order of activity, which is closed to a circle."""
    order = torch.argsort(_activity(problem), stable=True)  # (U,)

    def draw(count: int, generator: torch.Generator) -> Tensor:
        first = torch.randint(order.numel(), (1,), generator=generator)
        return order[(first + torch.arange(count)) % order.numel()]

    return draw


DRAWS: dict[str, Callable[[DenoisingProblem], Draw]] = {
    "uniform": _uniform,
    "activity": _by_activity,
    "value": _by_value,
    "bands": _bands,
}
"""The kinds of draws by name."""
