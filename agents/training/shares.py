"""The share of a batch of examples that one of several processes trains on.

Every process draws the random numbers of the whole batch and uses those of its own rows, so that no number
depends on the processes. Networks draw them where they need them (steps, noise, negative items, dropout), so
they are divided where torch draws them.

Letters: B rows of a share, N rows of the batch, P processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from agents.training.world import World
from refit_env.backbones.whole_batch import gathered_by


@dataclass(frozen=True)
class Share:
    """One of P shares of a batch of N rows, whose sizes differ by one row at most.

    Attributes:
        index: 0..P-1.
        count: P.
        whole: N.
    """

    index: int
    count: int
    whole: int

    @property
    def first(self) -> int:
        """Number of the first row."""
        return self.whole * self.index // self.count

    @property
    def rows(self) -> int:
        """Number of rows B; 0 in some shares of a batch of fewer rows than processes.

        Example:
            >>> [Share(index, 3, 8).rows for index in range(3)]
            [2, 3, 3]
        """
        return self.whole * (self.index + 1) // self.count - self.first

    @property
    def used(self) -> slice:
        """The rows that the process computes: its own; of an empty share one row, which counts nothing."""
        return slice(self.first, self.first + max(1, self.rows))

    @property
    def weight(self) -> float:
        """Factor of the share's mean loss, so that the mean over the processes is that of the whole batch."""
        return self.rows * self.count / self.whole


def gathered(rows: Tensor, share: Share, world: World) -> Tensor:
    """Return the rows (N, ...) of all shares, in the batch's order; ``rows`` are those of one, (B, ...)."""
    shares = [Share(index, share.count, share.whole) for index in range(share.count)]
    most = max(one.rows for one in shares)
    padded = rows.new_zeros((most, *rows.shape[1:]))  # all processes send as many
    padded[: share.rows] = rows[: share.rows]
    parts = world.gather(padded).split(most)
    return torch.cat([part[: one.rows] for part, one in zip(parts, shares, strict=True)])


@contextmanager
def shared(share: Share, world: World) -> Iterator[None]:
    """Within the block, random numbers are the share's, and ``whole_batch`` gathers all shares' rows."""
    if share.count == 1:
        yield
        return
    # Fused attention draws its dropout inside of its kernel, where it cannot be divided.
    with gathered_by(lambda rows: gathered(rows, share, world)), sdpa_kernel(SDPBackend.MATH), Draws(share):
        yield


class Draws(TorchDispatchMode):
    """Gives a share its rows of the random numbers that the whole batch draws.

    A draw belongs to rows if its first axis is a multiple of B (heads of attention are in that axis, too):
    then the whole batch's are drawn, and the share's returned. Other draws are the same in all processes.

    Example:
        >>> def drawn(*shares: Share) -> list[float]:
        ...     out = []
        ...     for share in shares:
        ...         torch.manual_seed(0)
        ...         with Draws(share):
        ...             out += torch.nn.functional.dropout(torch.rand(share.rows)).tolist()
        ...     return out
        >>> drawn(Share(0, 1, 5)) == drawn(Share(0, 2, 5), Share(1, 2, 5))
        True
    """

    def __init__(self, share: Share) -> None:
        """Draw for ``share``."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.share, self.rows = share, share.used.stop - share.used.start

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operator; torch calls this."""
        kwargs = kwargs or {}
        if not _is_random(func):
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name == "native_dropout":
            return self._dropped(func, args, kwargs)
        if name == "multinomial" and args[0].dim() == 1:  # one distribution, a draw a row
            return self._own(args[1], lambda count: func(args[0], count, *args[2:], **kwargs))
        place = next((n for n, one in enumerate(args) if isinstance(one, list | tuple)), None)
        if place is not None:  # a size: randn, rand, randint
            before, size, after = args[:place], list(args[place]), args[place + 1 :]
            return self._own(
                size[0] if size else 0, lambda count: func(*before, [count, *size[1:]], *after, **kwargs)
            )
        if not args or not isinstance(args[0], Tensor):  # randperm: no rows
            return func(*args, **kwargs)
        if any(isinstance(one, Tensor) for one in args[1:]) or name in ("bernoulli", "multinomial", "normal"):
            raise ValueError(
                f"a loss that draws torch.{name} with parameters of each row cannot be divided among "
                "processes: draw uniform or normal numbers and transform them, or train in one process"
            )
        like = args[0]
        drawn = self._own(
            like.shape[0] if like.dim() else 0,
            lambda count: func(_longer(like, count), *args[1:], **kwargs),
            lambda: func(*args, **kwargs),
        )
        return like.copy_(drawn) if name.endswith("_") else drawn

    def _own(
        self, size: int, draw: Callable[[int], Tensor], alone: Callable[[], Tensor] | None = None
    ) -> Tensor:
        """Return the share's rows of a draw whose first axis has ``size`` entries here."""
        times, rest = divmod(size, self.rows)
        if rest or not times:
            return draw(size) if alone is None else alone()
        drawn = draw(times * self.share.whole)
        own = self.share.used
        return drawn[times * own.start : times * own.stop].clone()

    def _dropped(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return what remains of a tensor after dropout in one kernel, and the mask."""
        x = args[0]
        mask = self._own(
            x.shape[0], lambda count: func(x.new_ones((count, *x.shape[1:])), *args[1:], **kwargs)[1]
        )
        stays = 1 - float(args[1])
        return (x * mask / stays if stays else x * mask), mask


def _longer(like: Tensor, count: int) -> Tensor:
    """Return an empty tensor (count, ...) with the memory order of ``like``, in which draws fill it."""
    strides = like.stride()
    order = sorted(range(like.dim()), key=lambda axis: (-strides[axis], like.shape[axis] == 1, axis))
    shape = [count, *like.shape[1:]]
    places = sorted(range(like.dim()), key=order.__getitem__)
    return like.new_empty([shape[axis] for axis in order]).permute(places)


@cache
def _is_random(func: Any) -> bool:
    """Return whether an operator of torch draws random numbers."""
    return torch.Tag.nondeterministic_seeded in func.tags
