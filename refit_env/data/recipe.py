"""``Recipe``: the settings by which official files become a data set.

Letters: N rows, U users, I items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from refit_env.data.messages import spelled
from refit_env.data.times import UNITS
from refit_env.errors import SettingError
from refit_env.settings import Bounded, Form, OneOf, PartialShare, Seed
from refit_env.utils.text import shown

SPLIT_NAMES = ("published", "random", "time", "quantile", "sessions", "leave-one-out")
"""Values of ``Recipe.split``."""
TASKS = ("cf", "sequential", "social", "poi")
"""Values of ``Recipe.task``."""
SESSIONS = ("", "day")
"""Values of ``Recipe.session``."""
Core = Annotated[int, Meta(ge=0, le=10**9, description="0: keep all")]
"""Fewest rows of a user or an item."""
Rating = Annotated[float, Meta(ge=-1e9, le=1e9)]
"""Threshold for ratings."""
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
"""Number of users or items, which have 32-bit ids."""


_SEPARATORS = {"\\t": "\t", "tab": "\t", "space": " ", "comma": ",", "semicolon": ";"}
"""Names of separators that are hard to type on a command line."""


def separator_of(text: str) -> str:
    r"""Return the separator that a text names: ``tab`` or ``\\t`` is a tab, any other character is itself.

    Example:
        >>> separator_of(";"), separator_of("space")
        (';', ' ')
    """
    return _SEPARATORS.get(text, text)


def separator_fault(text: str) -> str | None:
    """Return what is wrong with a separator, or None: it must be one character that no field contains."""
    found = separator_of(text)
    if len(found) == 1 and not found.isalnum() and found not in '"\r\n\0.-+':
        return None
    more = "; format ratings.dat reads user::item::rating::timestamp, without a header"
    return f"must be one character, such as , or ; or | or tab; found {shown(text)}{more * (found == '::')}"


Separator = Annotated[str, Form(separator_fault)]
"""The character between the fields of a table."""


@dataclass(frozen=True)
class Recipe(Bounded):
    """The steps from official files to a data set: read, filter in the order of the fields, split."""

    format: str | None = None
    """A key of ``refit_env.data.readers.formats.FORMATS``; None guesses from the names of the files."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Role (user, item, rating, timestamp, split) -> column name, for CSV and RecBole files."""
    ignore: tuple[str, ...] = ()
    """Columns of CSV and RecBole files that are not read, even if they have the name of a role."""
    separator: Separator | None = None
    """Separator of a CSV file, one character; None detects it from the header."""
    token_ids: bool = False
    """Whether ids may be any text."""
    drop_blank: bool = False
    """Whether rows of CSV and RecBole files in which a used field is empty are dropped, and counted."""
    time_unit: Annotated[str, OneOf(UNITS)] | None = None
    """Unit of numeric times: ``s``, ``ms``, ``us``, ``ns`` or ``days``; None detects it, except days."""
    task: Annotated[str, OneOf(TASKS)] = "cf"
    """``cf``, ``social``, ``sequential`` or ``poi``; the last two keep repeats, as separate events."""
    time_ordered: bool = False
    """Whether the rows of the files are sorted by time; rows with timestamps are always sorted."""
    min_rating: Rating | None = None
    """Keep rows with at least this rating; None keeps all."""
    dislike_below: Rating | None = None
    """Rows with a rating below it are dislikes, a table of their own, not interactions; None keeps none."""
    session: Annotated[str, OneOf(SESSIONS)] = ""
    """``day`` turns each day of a user into a session, which is then a separate user; empty does nothing."""
    utc_offset: Annotated[float, Meta(ge=-24, le=24)] = 0.0
    """Hours by which the days of ``session`` begin before those of UTC."""
    merge_repeats: bool | None = None
    """Keep one row of a user and an item, the earliest; None does so for ``cf`` and ``social``."""
    k_core: Core = 0
    """Keep the largest part in which every user and item has this many rows; 0 keeps all."""
    min_user_rows: Core = 0
    """Like ``k_core``, for users alone."""
    min_item_rows: Core = 0
    """Like ``k_core``, for items alone."""
    core_passes: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Passes of these three filters; 0 repeats until all users and items satisfy them."""
    split: Annotated[str, OneOf(SPLIT_NAMES)] = "random"
    """``published`` (as the files are split), ``random``, ``time`` or ``leave-one-out`` per user,
    ``quantile`` (per user, at quantiles of the user's times), ``sessions`` (whole users, the latest last)."""
    valid_share: PartialShare = 0.1
    """Validation share of a user's rows, of the times or of the sessions; of the train rows where published
    files have no validation part: the latest ones with ``time_ordered``, else random ones."""
    test_share: PartialShare = 0.2
    """Test share, likewise."""
    seed: Seed = 0
    """Seed of a random split."""
    num_users: Count | None = None
    """U of published files, whose ids must be below it; None uses the largest id + 1."""
    num_items: Count | None = None
    """I, likewise."""

    def check_together(self) -> None:
        """Raise an error for shares that leave nothing to train on, or dislikes that are interactions."""
        self._check_dislikes()
        if self.split == "sessions" and self.task in ("cf", "social"):
            kept = spelled("task", repr(self.task), self.task)
            raise SettingError(
                "split",
                f"sessions holds out whole users, of whose items {kept} would know none: it needs "
                f"{spelled('task', repr('sequential'), 'sequential')}",
            )
        own_splits = self.split not in ("published", "leave-one-out")
        if own_splits and self.valid_share + self.test_share >= 1:
            valid = f"{self.valid_share:g}"
            raise SettingError(
                "test_share",
                f"must be < {1 - self.valid_share:g}, what {spelled('valid_share', valid, valid)} leaves, "
                f"found {self.test_share:g}",
            )

    def _check_dislikes(self) -> None:
        """Raise an error for dislikes that are interactions, or of a task that keeps no sets of items."""
        if self.dislike_below is None:
            return
        if self.min_rating is not None and self.dislike_below > self.min_rating:
            least = f"{self.min_rating:g}"
            fault = f"must be <= {least}, what {spelled('min_rating', least, least)} keeps as interactions"
            raise SettingError("dislike_below", f"{fault}, found {self.dislike_below:g}")
        if self.task not in ("cf", "social") or self.session:
            kept = spelled("task", repr(self.task), self.task)
            kept = spelled("session", repr(self.session), self.session) if self.session else kept
            raise SettingError(
                "dislike_below",
                f"is for sets of items (tasks cf and social without sessions), not for {kept}",
            )

    @property
    def least_rating(self) -> float | None:
        """Least rating of an interaction; None for any."""
        return self.dislike_below if self.min_rating is None else self.min_rating

    @property
    def merges(self) -> bool:
        """Whether repeated rows of a user and an item are merged into one."""
        return self.task in ("cf", "social") if self.merge_repeats is None else self.merge_repeats

    def in_words(self) -> str:
        """Describe the split, for ``dataset.json``.

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
