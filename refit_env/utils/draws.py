"""Random draws of users or sessions that are the same at each call.

A split of a data set is a draw, too, and many are made by ``numpy.random.default_rng(0)``. The draws here
have streams of their own: from that stream again, all of the validation sessions would be drawn, or none.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt


def stream(purpose: str) -> np.random.Generator:
    """Return the generator of a purpose, in its first state.

    Example:
        >>> bool(stream("select").random() == stream("select").random())
        True
    """
    return np.random.default_rng([zlib.crc32(purpose.encode()), len(purpose)])


def drawn(ids: npt.NDArray[np.integer], share: float, purpose: str) -> npt.NDArray[np.bool_]:
    """Return which of ``ids`` (n,) are drawn, each with the chance ``share``.

    Whether an id is drawn does not depend on the other ids, nor on how many there are.

    Args:
        ids: (n,) numbers >= 0; equal ones are drawn together.
        share: 0 to 1.
        purpose: names the draw; another purpose draws other ids.

    Example:
        >>> ids = np.arange(10_000)
        >>> bool(abs(drawn(ids, 0.5, "select").mean() - 0.5) < 0.02)
        True
    """
    chance = stream(purpose).random(int(ids.max(initial=0)) + 1)
    return np.asarray(chance[ids] < share)
