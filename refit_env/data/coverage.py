"""The data sets behind the published tables: how complete each is, and its fingerprint.

``docs/make_data_coverage.py`` computes the counts and fingerprints from the data and writes them to
``measured.json``. This module holds what cannot be computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from refit_env.utils.atomic_io import read_record

if TYPE_CHECKING:
    from refit_env.data.dataset import Dataset

Completeness = Literal["whole", "partial", "sample", "other filter"]
"""How a measured set relates to the published one: all of it, a part, a random part, or other rows."""

FILE = Path(__file__).with_name("measured.json")
SHORT = 12
"""Digits of a fingerprint in messages."""


@dataclass(frozen=True)
class Counts:
    """The size of a data set."""

    users: int
    """Users; in a sequential set, sessions."""
    items: int
    """Items."""
    interactions: int
    """Rows of all splits."""

    def in_words(self, who: str = "users") -> str:
        """Format the counts as text; ``who`` is the noun for users.

        Example:
            >>> Counts(13455, 37878, 776821).in_words()
            '13,455 users, 37,878 items, 776,821 interactions'
        """
        return f"{self.users:,} {who}, {self.items:,} items, {self.interactions:,} interactions"


@dataclass(frozen=True)
class Measured(Counts):
    """The data set behind the published tables."""

    fingerprint: str
    """``Dataset.fingerprint``."""


@dataclass(frozen=True)
class Published:
    """A data set as its publisher or its paper describes it."""

    counts: Counts
    """Its counts."""
    whose: str
    """The publisher or paper that states them."""
    completeness: Completeness = "whole"
    """How the measured set relates to it."""
    note: str = ""
    """How the measured set differs, where it is not the whole."""
    who: str = "users"
    """The noun for users."""

    def in_words(self) -> str:
        """Format the publisher and the counts as text.

        Example:
            >>> PUBLISHED["zhihu"].in_words()
            'DreamRec (arXiv 2310.20453): 11,714 sessions, 4,838 items, 77,712 interactions'
        """
        return f"{self.whose}: {self.counts.in_words(self.who)}"


_LIGHTGCN, _DREAMREC = "LightGCN (arXiv 2002.02126)", "DreamRec (arXiv 2310.20453)"
_RECDIFF, _TSMC = "RecDiff (arXiv 2406.01629)", "TSMC2014 (Yang et al., doi 10.1109/TSMC.2014.2327053)"
_SESSIONS = "DreamRec's validation and test sessions without its train sessions, split again"

PUBLISHED: dict[str, Published] = {
    "ml-100k": Published(Counts(942, 1447, 55_375), "GroupLens, ratings of 4 and 5 of its 100,000"),
    "ml-1m": Published(Counts(5949, 2810, 571_531), "DiffRec (arXiv 2304.04971)"),
    "yelp2018": Published(
        Counts(31_668, 38_048, 1_561_406), _LIGHTGCN, "partial", "the first 13,455 users, each whole"
    ),
    "gowalla": Published(Counts(29_858, 40_981, 1_027_370), _LIGHTGCN),
    "anime": Published(
        Counts(73_515, 11_200, 7_813_737),
        "Kaggle CooperUnion",
        "sample",
        "5,000 users, of whom ratings of 8 and more were kept, then the 5-core",
    ),
    "zhihu": Published(Counts(11_714, 4838, 77_712), _DREAMREC, who="sessions"),
    "yoochoose": Published(Counts(128_468, 9514, 539_436), _DREAMREC, "partial", _SESSIONS, "sessions"),
    "kuairec": Published(Counts(92_090, 7261, 737_163), _DREAMREC, "partial", _SESSIONS, "sessions"),
    "ciao": Published(Counts(1925, 15_053, 33_175), _RECDIFF),
    "epinions": Published(
        Counts(14_680, 233_261, 447_312),
        _RECDIFF,
        "other filter",
        "all data of Tang et al. with ratings of 4 and more, then the 3-core, where RecDiff chose other rows",
    ),
    "yelp": Published(
        Counts(99_262, 105_142, 672_513),
        _RECDIFF,
        "other filter",
        "a smaller Yelp with friends, ratings of 4 and more, then the 3-core",
    ),
    "foursquare": Published(
        Counts(2321, 5596, 194_108),
        "Yuan et al. (SIGIR 2013), as used by Diff-POI (arXiv 2304.07041)",
        "partial",
        "all users and places, each pair once: repeated visits and their order are missing",
    ),
    "tky": Published(Counts(2293, 61_858, 573_703), _TSMC, "other filter", "MSTHN's rows of TSMC2014"),
    "nyc": Published(Counts(1083, 38_333, 227_428), _TSMC, "other filter", "STAN's rows of TSMC2014"),
}
"""Known data sets by name, as published, and how the measured sets differ."""


@lru_cache(maxsize=1)
def measured() -> Mapping[str, Measured]:
    """Return the data sets behind the published tables, by name."""
    return read_record(FILE, dict[str, Measured])


def mark(name: str) -> str:
    """Return the suffix of a measured set's name in tables; empty where the set is whole.

    Example:
        >>> mark("yelp2018"), mark("ml-1m")
        (' (partial)', '')
    """
    known = PUBLISHED.get(name)
    return f" ({known.completeness})" if known is not None and known.completeness != "whole" else ""


def share(name: str) -> str:
    """Return the measured share of the published interactions, and how the sets differ.

    Example:
        >>> share("gowalla"), share("epinions").split(":")[0]
        ('100 %', 'other filter')
    """
    known, here = PUBLISHED.get(name), measured().get(name)
    if known is None or here is None:
        return "made, not published" if here is not None else ""
    if known.completeness == "whole":
        return "100 %"
    part = f"{100 * here.interactions / known.counts.interactions:.1f} %, "
    part = "" if known.completeness == "other filter" else part
    return f"{part}{known.completeness}: {known.note}"


def differs(dataset: Dataset) -> str | None:
    """Return a one-line warning if a data set is not the one behind the published tables.

    Returns:
        The line; None for the same data, and for a data set without published tables.
    """
    known = measured().get(dataset.name)
    if known is None or known.fingerprint == dataset.fingerprint:
        return None
    here = Counts(dataset.num_users, dataset.num_items, sum(len(dataset.split(s)) for s in _SPLITS))
    return (
        f"The published tables were measured on another {dataset.name}{mark(dataset.name)}: "
        f"{known.in_words()}, fingerprint {known.fingerprint[:SHORT]}; this one has {here.in_words()}, "
        f"fingerprint {dataset.fingerprint[:SHORT]}"
    )


_SPLITS = ("train", "valid", "test")
