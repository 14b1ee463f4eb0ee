"""How official files become a data set, as data: what is read, kept, numbered and split.

Letters: N rows, U users, I items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from refit_env.errors import unknown_name

SPLIT_NAMES = ("published", "random", "time", "quantile", "sessions", "leave-one-out")
"""Values of ``Recipe.split``."""
TASKS = ("cf", "sequential", "social", "poi")
"""Values of ``Recipe.task``."""
SESSIONS = ("", "day")
"""Values of ``Recipe.session``."""


@dataclass(frozen=True)
class Recipe:
    """How official files become a data set: read, filter in the order of the fields, then split."""

    format: str | None = None
    """A key of ``refit_env.data.readers.FORMATS``; None guesses from the names of the files."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Role (user, item, rating, timestamp, split) -> column name, for CSV and RecBole files."""
    separator: str = ","
    """Between the fields of a CSV."""
    token_ids: bool = False
    """Whether ids may be any text."""
    task: str = "cf"
    """``cf``, ``social``, ``sequential`` or ``poi``; the last two keep repeats, as events of their own."""
    time_ordered: bool = False
    """Whether the rows of the files stand in order of time; rows with timestamps are sorted."""
    min_rating: float | None = None
    """Keep rows with at least this rating; None keeps all."""
    session: str = ""
    """``day`` makes each day of a user a session, that is a user, of its own; empty leaves users alone."""
    utc_offset: float = 0.0
    """Hours by which the days of ``session`` begin before those of UTC."""
    merge_repeats: bool | None = None
    """Keep one row of a user and an item, the earliest; None does so for ``cf`` and ``social``."""
    k_core: int = 0
    """Keep the largest part in which every user and item has this many rows; 0 keeps all."""
    min_user_rows: int = 0
    """Like ``k_core``, for users alone."""
    min_item_rows: int = 0
    """Like ``k_core``, for items alone."""
    core_passes: int = 0
    """How often these three count and drop; 0 until every promise holds."""
    split: str = "random"
    """``published`` (as the files are split), ``random``, ``time`` or ``leave-one-out`` per user,
    ``quantile`` (per user, at quantiles of the user's times), ``sessions`` (whole users, the latest last)."""
    valid_share: float = 0.1
    """Share of a user's rows, of the times or of the sessions; of the train rows where published files have
    no validation part."""
    test_share: float = 0.2
    """Likewise."""
    seed: int = 0
    """Of a random split."""
    num_users: int | None = None
    """U of published files, where ids must stay below it; None takes the largest id + 1."""
    num_items: int | None = None
    """I, likewise."""

    def __post_init__(self) -> None:
        """Refuse what no data set could be made by."""
        chosen = (
            ("split", self.split, SPLIT_NAMES),
            ("task", self.task, TASKS),
            ("session", self.session, SESSIONS),
        )
        for kind, value, known in chosen:
            if value not in known:
                raise unknown_name(kind, value, known)

    @property
    def merges(self) -> bool:
        """Whether a user's repeats of an item become one row."""
        return self.task in ("cf", "social") if self.merge_repeats is None else self.merge_repeats

    def in_words(self) -> str:
        """The split, for ``dataset.json``.

        Example:
            >>> Recipe(split="time").in_words()
            'time per user, 7:1:2'
        """
        shares = (1 - self.valid_share - self.test_share, self.valid_share, self.test_share)
        ratio = ":".join(f"{10 * share:.3g}" for share in shares)
        words = {
            "random": f"random per user, {ratio}",
            "time": f"time per user, {ratio}",
            "quantile": f"per user, at the quantiles {shares[0]:.3g} and {shares[0] + shares[1]:.3g} of time",
            "sessions": f"whole sessions in order of time, {ratio}",
        }
        return words.get(self.split, self.split)
