"""Renders of a chain: as text for the terminal, and as a heat map for videos.

Letters: T steps, D size of the diffused vector, I items, K list length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from refit_env.envs.problem import DenoisingProblem

HEIGHT, WIDTH = 450, 800
"""Size of the picture, in pixels."""

SHOWN = 10
"""Items of the list in the text."""

TILES = 20
"""Items of the list in the picture."""

GROUPS = (("shown", 60), ("relevant", 60), ("all others, best first", 160))
"""Parts of the heat map, and the columns of each; a column is the mean of several items."""

GAP = 3
"""Empty columns between two groups."""

_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")

_INK, _FAINT, _PAPER = "#26292f", "#8a8f99", "#ffffff"
_HIT, _MISS = "#2e8b57", "#d5d8de"

FloatArray = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class Renderer:
    """Keeps the vectors of one chain and draws them.

    Attributes:
        user: the user of the chain.
        chain: the vectors so far, u_T first, each (D,).
    """

    def __init__(self, problem: DenoisingProblem) -> None:
        """Draw chains of ``problem``."""
        self.problem = problem
        self.user = -1
        self.chain: list[FloatArray] = []

    def begin(self, user: int, u: FloatArray) -> None:
        """Start the chain of a user at u_T (D,)."""
        self.user, self.chain = user, [u.copy()]

    def add(self, u: FloatArray) -> None:
        """Add the next vector (D,)."""
        self.chain.append(u.copy())

    def text(self) -> str:
        """Return one line for each step: t, the range of u, hits, and the first items; ``*`` marks hits."""
        size = self.problem.reward_fn.k
        total = self.problem.num_steps
        lines = [f"{self._user_label()}, T = {total}, top {min(SHOWN, size)} of {size} (* hit)"]
        for t, u in enumerate(self.chain):
            items, hit = self._list(u)
            shown = zip(self._labels(items[:SHOWN]), hit[:SHOWN], strict=True)
            marks = self._between.join(f"{short(item, 40)}{'*' if found else ''}" for item, found in shown)
            lines.append(f"t={t:<3d} u in [{u.min():+.3f}, {u.max():+.3f}]  {_hits(hit):>7s}  {marks}")
        return "\n".join(lines)

    def picture(self) -> npt.NDArray[np.uint8]:
        """Return the chain as a heat map, a row a vector, and below it the list of the newest one.

        Columns are items (their scores, where the vectors are embeddings) in three groups: those that the
        policy is shown, those that the reward counts, all others. One colour is one score in every picture of
        a chain; scores beyond the scale have its last colour.

        Returns:
            (450, 800, 3) uint8.
        """
        # Matplotlib is slow to import, and most environments are never drawn.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor=_PAPER)
        canvas: Any = FigureCanvasAgg(figure)
        if self.chain:
            figure.text(0.07, 0.93, self._title(), color=_INK, fontsize=12, weight="bold", parse_math=False)
            self._draw_chain(figure)
            self._draw_list(figure.add_axes((0.07, 0.06, 0.86, 0.13)))
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()

    def _title(self) -> str:
        """Return the title of the picture."""
        steps = f"step {len(self.chain) - 1} of {self.problem.num_steps}"
        return f"{self.problem.dataset.name}, {self._user_label()}, {steps}"

    def _user_label(self) -> str:
        """Return the user's number or the source's id, for people."""
        return f"user {short(self.problem.dataset.users_by_id.of(self.user), 40)}"

    def _draw_chain(self, figure: Figure) -> None:
        """The heat map: a row a vector, the groups side by side with gaps between them."""
        from matplotlib.colors import PowerNorm

        total = self.problem.num_steps
        axes = figure.add_axes((0.07, 0.30, 0.79, 0.55))
        rows = np.full((total + 1, sum(width + GAP for _, width in GROUPS) - GAP), np.nan)
        left, chain = 0, [self._scores(u)[0].cpu().numpy() for u in self.chain]  # (I,) each
        for (label, width), members in zip(GROUPS, self._groups(), strict=True):
            order = members[np.argsort(-chain[-1][members], kind="stable")]
            for t, scores in enumerate(chain):
                rows[t, left : left + width] = _gathered(scores[order], width)
            heading = f"{label} ({members.size})"
            axes.text(left - 0.5, 1.02, heading, color=_INK, fontsize=9, transform=axes.get_xaxis_transform())
            left += width + GAP
        low, high = colour_scale(chain[0])
        norm = PowerNorm(0.6, low, high, clip=True)  # makes small scores visible beside ones
        image = axes.imshow(rows, aspect="auto", cmap="magma", norm=norm, interpolation="nearest")
        every = -(-(total + 1) // 12)
        ticks = range(0, total + 1, every)
        axes.set_xticks([])
        axes.set_yticks(list(ticks), [f"u{total - t}".translate(_SUBSCRIPTS) for t in ticks], color=_INK)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, extend="max", cax=figure.add_axes((0.88, 0.30, 0.015, 0.55)))
        bar.ax.tick_params(labelsize=8, length=2, color=_FAINT, labelcolor=_INK)
        bar.outline.set_visible(False)

    def _draw_list(self, axes: Axes) -> None:
        """A tile for each place of the newest list, with the item's name or id, green where it is a hit."""
        items, hit = self._list(self.chain[-1])
        total = f"top {items.size}: {_hits(hit)}"
        for place, (item, found) in enumerate(zip(self._labels(items[:TILES]), hit, strict=False)):
            axes.bar(place, 1, width=0.9, color=_HIT if found else _MISS)
            colour = _PAPER if found else _INK
            text = short(item, 7)  # the width of a tile
            axes.text(
                place, 0.5, text, ha="center", va="center", color=colour, fontsize=7.5, parse_math=False
            )
        axes.set(xlim=(-0.5, min(items.size, TILES) - 0.5), ylim=(0, 1))
        axes.set_title(total, color=_INK, fontsize=9, loc="left")
        axes.axis("off")

    def _groups(self) -> tuple[npt.NDArray[np.int64], ...]:
        """Return the items of the three groups."""
        shown = np.zeros(self.problem.num_items, np.bool_)
        shown[self.problem.relevance.visible[self.user].indices] = True
        relevant = np.zeros_like(shown)
        relevant[self.problem.relevance.relevant[self.user].indices] = True
        return tuple(np.flatnonzero(group) for group in (shown, relevant & ~shown, ~shown & ~relevant))

    @property
    def _between(self) -> str:
        """The separator of items in the text, a comma where names may hold spaces."""
        return " " if self.problem.dataset.item_names is None else ", "

    def _labels(self, items: npt.NDArray[np.int64]) -> list[Any]:
        """Return the names (n,) of items, or the source's ids where the data set has no names."""
        names = self.problem.dataset.item_names
        taken = self.problem.dataset.items_by_id.take(items) if names is None else names[items]
        return list(taken.tolist())

    def _list(self, u: FloatArray) -> tuple[npt.NDArray[np.int64], Bools]:
        """Return the list (K,) that ``u`` (D,) ranks, and which of its items are relevant."""
        users = torch.tensor([self.user], device=self.problem.device)
        items = self.problem.reward_fn.top_k(self._scores(u), users)[0].cpu().numpy()
        return items, np.isin(items, self.problem.relevance.relevant[self.user].indices)

    def _scores(self, u: FloatArray) -> torch.Tensor:
        """(1, I) the item scores of ``u`` (D,)."""
        users = torch.tensor([self.user], device=self.problem.device)
        return self.problem.scores(torch.from_numpy(u)[None].to(self.problem.device), users)


def colour_scale(scores: FloatArray) -> tuple[float, float]:
    """Lowest and highest score of the colours, from the scores (I,) of the first vector of a chain.

    Example:
        >>> colour_scale(np.array([0.0, 0.0, 1.0], np.float32))
        (0.0, 1.0)
    """
    low, high = min(0.0, float(np.quantile(scores, 0.01))), float(scores.max())
    return low, high if high > low else low + 1.0


def _hits(hit: Bools) -> str:
    """Return the number of hits (K,) in words."""
    count = int(hit.sum())
    return f"{count} hit" if count == 1 else f"{count} hits"


def short(source_id: int | str, length: int) -> str:
    """Return an id or a name as printable text of at most ``length`` characters, cut at the end.

    Example:
        >>> short("B00004TKVY", 7), short(12, 7)
        ('B00004…', '12')
    """
    text = "".join(letter if letter.isprintable() else "?" for letter in str(source_id))
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _gathered(values: FloatArray, width: int) -> npt.NDArray[np.float64]:
    """Return the values (n,) as ``width`` columns: means where n is larger, repeats where it is smaller."""
    if not values.size:
        return np.full(width, np.nan)
    edges = np.linspace(0, values.size, width + 1)
    first = np.minimum(edges[:-1].astype(np.int64), values.size - 1)
    last = np.maximum(np.ceil(edges[1:]).astype(np.int64), first + 1)
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return np.asarray((total[last] - total[first]) / (last - first))
