"""Parts of a batch, which together make the update that the whole batch makes.

A batch is divided among processes, and by each process into chunks that fit in memory. Every part draws the
noise of the whole batch and uses its own rows, so that no number depends on how the batch is divided.

Letters: N rows of the batch, P parts, D size of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """One of P equal parts of a batch.

    Attributes:
        index: 0..P-1.
        count: P.
    """

    index: int = 0
    count: int = 1

    def of(self, batch: Tensor) -> Tensor:
        """Return the part's rows (N / P, ...) of ``batch`` (N, ...).

        Example:
            >>> Part(1, 2).of(torch.arange(6)).tolist()
            [3, 4, 5]
        """
        size = batch.shape[0] // self.count
        return batch[self.index * size : (self.index + 1) * size]


class PartDraws:
    """Standard normal numbers for the parts of a batch, from one generator.

    Several parts in one process draw one after the other: each repeats the calls of the first one.

    Example:
        >>> whole, generator = PartDraws(torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0)
        >>> draws = PartDraws(generator)
        >>> parts = []
        >>> for part in draws.each([Part(0, 2), Part(1, 2)]):
        ...     parts.append(draws.normal(2, 3, torch.device("cpu")))
        >>> torch.equal(torch.cat(parts), whole.normal(4, 3, torch.device("cpu")))
        True
    """

    def __init__(self, generator: torch.Generator) -> None:
        """Use ``generator``, which is afterwards where the whole batch would leave it."""
        self.generator, self.part = generator, Part()
        self._states: list[Tensor] = []  # before each call
        self._call, self._records = 0, False

    def each(self, parts: list[Part]) -> PartIterator:
        """Return an iterator over parts; between two of its items the numbers are those of the former."""
        self._states, self._records = [], len(parts) > 1
        return PartIterator(self, parts)

    def begin(self, part: Part) -> None:
        """Make the next calls those of ``part``."""
        self.part, self._call = part, 0

    def normal(self, rows: int, size: int, device: torch.device) -> Tensor:
        """Return (rows, size) float32, the part's rows of what the whole batch draws."""
        self._seek()
        whole = torch.randn((rows * self.part.count, size), generator=self.generator, device=device)
        return whole if self.part.count == 1 else self.part.of(whole).clone()

    def seed(self, rows: int) -> int:
        """Return the seed of the part's first row; the whole batch's rows have consecutive ones."""
        self._seek()
        drawn = torch.randint(2**31, (), generator=self.generator, device=self.generator.device)
        return int(drawn) + self.part.index * rows

    def _seek(self) -> None:
        """Put the generator where the first part had it at this call."""
        if self._call < len(self._states):
            self.generator.set_state(self._states[self._call])
        elif self._records:
            self._states.append(self.generator.get_state())
        self._call += 1


class PartIterator:
    """Iterates over the parts of ``PartDraws.each``."""

    def __init__(self, draws: PartDraws, parts: list[Part]) -> None:
        """Begin before the first part."""
        self._draws, self._parts = draws, iter(parts)

    def __iter__(self) -> PartIterator:
        """Return the iterator."""
        return self

    def __next__(self) -> Part:
        """Return the next part, whose numbers are drawn from now on."""
        part = next(self._parts)
        self._draws.begin(part)
        return part
