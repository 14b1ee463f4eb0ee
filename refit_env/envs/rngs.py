"""One random generator for each sub-environment, seeded as in SyncVectorEnv.

Letters: N sub-environments, n of them that a call selects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.utils import seeding

from refit_env.utils.text import shown

Ints = npt.NDArray[np.int64]


class Generators:
    """N generators; one without a seed gets a random seed at its first use.

    Example:
        >>> generators = Generators(3)
        >>> generators.seed(7, np.arange(3))
        >>> generators.seeds
        (7, 8, 9)
        >>> [round(g.random(), 3) for g in generators.of(np.array([0, 2]))]
        [0.625, 0.87]
    """

    def __init__(self, count: int) -> None:
        """Make N = ``count`` generators, at their first use."""
        self._count = count
        self._made: list[np.random.Generator] = []
        self._seeds: list[int] = []

    @property
    def seeds(self) -> tuple[int, ...]:
        """The N seeds."""
        self._make_all()
        return tuple(self._seeds)

    def of(self, where: Ints) -> list[np.random.Generator]:
        """Return the generators of the places ``where`` (n,)."""
        self._make_all()
        return self._made if where.size == self._count else [self._made[i] for i in where]

    def seed(self, seed: int | Sequence[int | None], where: Ints) -> None:
        """Seed the places ``where`` (n,).

        Args:
            seed: an int (place i gets ``seed + i``), or N of them, where None leaves a place unchanged.
            where: the places.

        Raises:
            ValueError: if there are not N seeds, or one is no whole number.
        """
        if isinstance(seed, str | bytes | float):
            raise ValueError(f"seed must be a whole number or a sequence of them, found {shown(seed)}")
        seeds = [seed + i for i in range(self._count)] if isinstance(seed, int | np.integer) else list(seed)
        numbers: Sequence[Any] = seeds
        seeds = [int(one) if isinstance(one, np.integer) else one for one in numbers]
        if len(seeds) != self._count:
            raise ValueError(f"seed: {len(seeds)} seeds for num_envs={self._count}")
        if not self._made and where.size < self._count:
            self._make_all()
        if not self._made:
            self._make(seeds)
            return
        for i in where:
            if seeds[i] is not None:
                self._made[i], self._seeds[i] = seeding.np_random(seeds[i])

    def _make_all(self) -> None:
        if not self._made:
            self._make([None] * self._count)

    def _make(self, seeds: Sequence[int | None]) -> None:
        pairs = [seeding.np_random(seed) for seed in seeds]
        self._made, self._seeds = [made for made, _ in pairs], [int(number) for _, number in pairs]
