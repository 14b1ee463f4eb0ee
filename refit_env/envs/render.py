"""Pictures of a chain: as text for the terminal, and as a heat map for videos.

Letters: T steps, D size of the diffused vector, I items, K list length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from refit_env.envs.problem import DenoisingProblem

HEIGHT, WIDTH = 360, 640
"""Size of the picture, in pixels."""

MARGIN, BAND = 16, 48
"""Pixels of the frame, and of the band that shows the list."""

SHOWN = 10
"""Items of the list that the text shows."""

# A dark-blue to yellow scale of even lightness steps (seven anchors, linear in between), so that it reads in grey, too.
_SCALE = np.array(
    [
        [12, 7, 60],
        [51, 16, 104],
        [105, 22, 118],
        [158, 47, 98],
        [206, 83, 62],
        [240, 142, 42],
        [246, 222, 105],
    ],
    float,
)
_BACKGROUND = np.array([24, 26, 32], np.uint8)
_HIT = np.array([88, 200, 130], np.uint8)
_MISS = np.array([92, 96, 108], np.uint8)


class Renderer:
    """Remembers the vectors of one chain and draws them.

    Attributes:
        chain: the vectors so far, u_T first, each (D,).
    """

    def __init__(self, problem: DenoisingProblem) -> None:
        """Draw chains of ``problem``."""
        self.problem = problem
        self.user = -1
        self.chain: list[npt.NDArray[np.float32]] = []

    def begin(self, user: int, u: npt.NDArray[np.float32]) -> None:
        """Start the chain of a user at u_T (D,)."""
        self.user, self.chain = user, [u.copy()]

    def add(self, u: npt.NDArray[np.float32]) -> None:
        """Go on to the next vector (D,)."""
        self.chain.append(u.copy())

    def text(self) -> str:
        """One line a step: t, the spread of u, and the first items of its list, hits marked with ``*``."""
        lines = [
            f"user {self.user}, T = {self.problem.num_steps}, top {SHOWN} of {self.problem.reward_fn.k} (* hit)"
        ]
        for t, u in enumerate(self.chain):
            items, hit = self._list(u)
            marks = " ".join(
                f"{i}{'*' if h else ''}" for i, h in zip(items[:SHOWN], hit[:SHOWN], strict=True)
            )
            lines.append(
                f"t={t:<3d} u in [{u.min():+.3f}, {u.max():+.3f}]  hits {int(hit.sum()):2d}  {marks}"
            )
        return "\n".join(lines)

    def picture(self) -> npt.NDArray[np.uint8]:
        """(360, 640, 3) uint8: a row a step, items from left to right by their final value, the list's hits below."""
        image = np.broadcast_to(_BACKGROUND, (HEIGHT, WIDTH, 3)).copy()
        steps = self.problem.num_steps + 1
        height = (HEIGHT - 3 * MARGIN - BAND) // steps
        width = WIDTH - 2 * MARGIN
        for row, values in enumerate(self._binned(width)):
            top = MARGIN + row * height
            image[top : top + max(height - 2, 1), MARGIN : MARGIN + width] = _colours(values)[None]
        if self.chain:
            self._draw_list(image)
        return image

    def _binned(self, width: int) -> list[npt.NDArray[np.float64]]:
        """Each vector in the order of the newest one, best item left, averaged into ``width`` bins, scaled to 0..1."""
        if not self.chain:
            return []
        order = np.argsort(-self.chain[-1], kind="stable")
        # Bins grow to the right: the first items, those that lists are made of, get a pixel column of their own.
        edge = np.unique((np.linspace(0, 1, width + 1) ** 2 * order.size).astype(int))
        rows = []
        for u in self.chain:
            means = np.add.reduceat(u[order].astype(float), edge[:-1]) / np.diff(edge)
            stretched = np.repeat(means, _shares(edge.size - 1, width))
            low, high = float(stretched.min()), float(stretched.max())
            rows.append((stretched - low) / max(high - low, 1e-9))
        return rows

    def _draw_list(self, image: npt.NDArray[np.uint8]) -> None:
        """A tile for each place of the newest list, green for a hit."""
        _, hit = self._list(self.chain[-1])
        width = (WIDTH - 2 * MARGIN) / hit.size
        for place, found in enumerate(hit):
            left = MARGIN + int(place * width)
            right = max(MARGIN + int((place + 1) * width) - 2, left + 1)
            image[HEIGHT - MARGIN - BAND : HEIGHT - MARGIN, left:right] = _HIT if found else _MISS

    def _list(self, u: npt.NDArray[np.float32]) -> tuple[list[int], npt.NDArray[np.bool_]]:
        """The list that ``u`` (D,) ranks, and which of its items are relevant."""
        users = torch.tensor([self.user])
        reward = self.problem.reward_fn
        items = reward.top_k(torch.from_numpy(u)[None], users)[0]
        hit = reward.context.relevant.mask(users)[0][items]
        return items.tolist(), hit.numpy()


def _shares(parts: int, width: int) -> npt.NDArray[np.int64]:
    """``width`` pixels dealt out to ``parts`` bins as evenly as whole numbers allow."""
    return np.diff((np.linspace(0, 1, parts + 1) * width).round().astype(np.int64))


def _colours(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """(W, 3) colours of values (W,) in 0..1."""
    place = np.clip(values, 0, 1) * (len(_SCALE) - 1)
    low = np.minimum(place.astype(int), len(_SCALE) - 2)
    share = (place - low)[:, None]
    return np.asarray((1 - share) * _SCALE[low] + share * _SCALE[low + 1]).round().astype(np.uint8)
