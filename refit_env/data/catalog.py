"""The table of known data sets: where each comes from, what it must count, what may be done with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from refit_env.errors import unknown_name


@dataclass(frozen=True)
class Source:
    """One known data set.

    Attributes:
        name: folder name under the data home.
        task: ``"cf"``, ``"sequential"``, ``"social"`` or ``"poi"``.
        page: where a person gets the official files.
        files: the official files that ``refit data prepare`` reads, by their usual names.
        format: the reader for them, see ``refit_env.data.readers.FORMATS``.
        licence: terms, in short.
        time_ordered: whether each user's rows stand in order of time.
        counts: (users, items) of the canonical form, or None where it depends on the preparation.
        recipe: settings of ``refit_env.data.prepare`` for the official files.
        url: direct download where the official host offers one, with ``sha256``.
        sha256: checksum of the download.
    """

    name: str
    task: str
    page: str
    files: tuple[str, ...]
    format: str
    licence: str
    time_ordered: bool
    counts: tuple[int, int] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    url: str | None = None
    sha256: str | None = None


_MOVIELENS = "GroupLens: research use, no redistribution without permission"

_SOURCES = (
    Source(
        "ml-100k",
        "cf",
        "https://grouplens.org/datasets/movielens/100k/",
        ("u.data",),
        "u.data",
        _MOVIELENS,
        True,
        recipe={"min_rating": 4.0, "split": "random", "seed": 0},
        url="https://files.grouplens.org/datasets/movielens/ml-100k/u.data",
        sha256="06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
    ),
    Source(
        "ml-1m",
        "cf",
        "https://github.com/YiyanXu/DiffRec (ml-1m_clean)",
        ("train_list.npy", "valid_list.npy", "test_list.npy"),
        "diffrec",
        _MOVIELENS,
        True,
        (5949, 2810),
        recipe={"split": "published"},
    ),
    Source(
        "yelp2018",
        "cf",
        "https://github.com/gusye1234/LightGCN-PyTorch",
        ("train.txt", "test.txt"),
        "lightgcn",
        "Yelp Dataset terms: academic use, no redistribution",
        False,
        recipe={"split": "published", "valid_share": 0.1},
    ),
    Source(
        "gowalla",
        "cf",
        "https://github.com/gusye1234/LightGCN-PyTorch",
        ("train.txt", "test.txt"),
        "lightgcn",
        "SNAP Gowalla: research",
        False,
        (29858, 40981),
        recipe={"split": "published", "valid_share": 0.1},
    ),
    Source(
        "anime",
        "cf",
        "https://www.kaggle.com/datasets/CooperUnion/anime-recommendations-database",
        ("rating.csv",),
        "csv",
        "Kaggle CooperUnion: CC0 as stated there",
        False,
        recipe={
            "columns": {"user": "user_id", "item": "anime_id", "rating": "rating"},
            "min_rating": 8.0,
            "k_core": 5,
        },
    ),
    Source(
        "zhihu",
        "sequential",
        "https://github.com/YangZhengyi98/DreamRec",
        (),
        "",
        "no data licence stated",
        True,
    ),
    Source(
        "yoochoose",
        "sequential",
        "https://2015.recsyschallenge.com",
        (),
        "",
        "RecSys Challenge 2015: CC BY-NC-ND 4.0",
        True,
    ),
    Source("kuairec", "sequential", "https://kuairec.com", (), "", "CC BY-SA 4.0", True),
    Source(
        "ciao", "social", "https://github.com/HKUDS/RecDiff", (), "", "Tang et al. (ASU): research", False
    ),
    Source(
        "epinions",
        "social",
        "https://www.cse.msu.edu/~tangjili/trust.html",
        (),
        "",
        "Tang et al.: research",
        False,
    ),
    Source(
        "yelp",
        "social",
        "https://business.yelp.com/data/resources/open-dataset/",
        (),
        "",
        "Yelp: academic use",
        False,
    ),
    Source("foursquare", "poi", "https://github.com/Yifang-Qin/Diff-POI", (), "", "no licence stated", False),
    Source(
        "tky",
        "poi",
        "https://sites.google.com/site/yangdingqi/home/foursquare-dataset",
        (),
        "",
        "research",
        True,
    ),
    Source(
        "nyc",
        "poi",
        "https://sites.google.com/site/yangdingqi/home/foursquare-dataset",
        (),
        "",
        "research",
        True,
    ),
)

CATALOG: dict[str, Source] = {source.name: source for source in _SOURCES}
"""Known data sets by name. ``synthetic`` is not among them: it is made, not found."""


def known_names() -> list[str]:
    """Every name that ``load_dataset`` takes, ``synthetic`` included."""
    return sorted([*CATALOG, "synthetic"])


def source(name: str) -> Source:
    """The catalogue's entry; a did-you-mean error for an unknown name."""
    if name not in CATALOG:
        raise unknown_name("data set", name, known_names())
    return CATALOG[name]
