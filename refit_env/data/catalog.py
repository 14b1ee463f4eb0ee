"""The table of known data sets: source, licence and expected counts of each."""

from __future__ import annotations

from dataclasses import dataclass

from refit_env.errors import unknown_name


@dataclass(frozen=True)
class Source:
    """One known data set; ``refit_env.data.recipes`` states how it is made from which files.

    Attributes:
        name: folder name under the data home.
        task: ``"cf"``, ``"sequential"``, ``"social"`` or ``"poi"``.
        page: web page with the official files.
        licence: summary of the terms.
        time_ordered: whether each user's rows are sorted by time.
        counts: (users, items, interactions) that a recipe must produce from the complete files; None where
            no recipe produces a published set. ``refit_env.data.coverage`` has published and measured counts.
        url: direct download, where the official host offers one; needs ``sha256``.
        sha256: checksum of the download.
        mixed_validation: whether the published validation items are a random part of rows that are sorted by
            time.
    """

    name: str
    task: str
    page: str
    licence: str
    time_ordered: bool
    counts: tuple[int, int, int] | None = None
    url: str | None = None
    sha256: str | None = None
    mixed_validation: bool = False


_MOVIELENS = "GroupLens: research use, no redistribution without permission"
_TANG = "Tang et al.: research, citation requested"
_TSMC = "Foursquare TSMC2014: research only, citation requested"
_YELP = "Yelp Dataset terms: academic use, no redistribution"

_SOURCES = (
    Source(
        "ml-100k",
        "cf",
        "https://grouplens.org/datasets/movielens/100k/",
        _MOVIELENS,
        time_ordered=True,
        counts=(942, 1447, 55_375),
        url="https://files.grouplens.org/datasets/movielens/ml-100k/u.data",
        sha256="06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
    ),
    Source(
        "ml-1m",
        "cf",
        "https://github.com/YiyanXu/DiffRec",
        _MOVIELENS,
        time_ordered=True,
        counts=(5949, 2810, 571_531),
    ),
    Source(
        "yelp2018",
        "cf",
        "https://github.com/gusye1234/LightGCN-PyTorch",
        _YELP,
        time_ordered=False,
        counts=(31_668, 38_048, 1_561_406),
    ),
    Source(
        "gowalla",
        "cf",
        "https://github.com/gusye1234/LightGCN-PyTorch",
        "SNAP Gowalla: no licence stated, research",
        # An author of the split: github.com/xiangwang1223/neural_graph_collaborative_filtering/issues/19
        time_ordered=True,
        counts=(29_858, 40_981, 1_027_370),
        mixed_validation=True,
    ),
    Source(
        "anime",
        "cf",
        "https://www.kaggle.com/datasets/CooperUnion/anime-recommendations-database",
        "Kaggle CooperUnion: CC0 as stated there",
        time_ordered=False,
    ),
    Source(
        "zhihu",
        "sequential",
        "https://github.com/YangZhengyi98/DreamRec",
        "no data licence stated",
        time_ordered=True,
        counts=(11_714, 4838, 77_712),
    ),
    Source(
        "yoochoose",
        "sequential",
        "https://2015.recsyschallenge.com",
        "RecSys Challenge 2015: CC BY-NC-ND 4.0",
        time_ordered=True,
    ),
    Source(
        "kuairec",
        "sequential",
        "https://kuairec.com",
        "CC BY-SA 4.0",
        time_ordered=True,
    ),
    Source(
        "ciao",
        "social",
        "https://github.com/HKUDS/RecDiff",
        _TANG,
        time_ordered=False,
        counts=(1925, 15_053, 33_175),
    ),
    Source(
        "epinions",
        "social",
        "https://www.cse.msu.edu/~tangjili/trust.html",
        _TANG,
        time_ordered=False,
    ),
    Source(
        "yelp",
        "social",
        "https://www.yelp.com/dataset",
        _YELP,
        time_ordered=False,
    ),
    Source(
        "foursquare",
        "poi",
        "https://github.com/Yifang-Qin/Diff-POI",
        "Yuan et al. 2013 crawl: no licence stated",
        time_ordered=False,
    ),
    Source(
        "tky",
        "poi",
        "https://sites.google.com/site/yangdingqi/home/foursquare-dataset",
        _TSMC,
        time_ordered=True,
    ),
    Source(
        "nyc",
        "poi",
        "https://sites.google.com/site/yangdingqi/home/foursquare-dataset",
        _TSMC,
        time_ordered=True,
    ),
)

CATALOG: dict[str, Source] = {source.name: source for source in _SOURCES}
"""Known data sets by name, without ``synthetic``, which is generated."""


def known_names() -> list[str]:
    """Return every name that ``load_dataset`` accepts, ``synthetic`` included."""
    return sorted([*CATALOG, "synthetic"])


def source(name: str) -> Source:
    """Return the catalogue's entry; raise a did-you-mean error for an unknown name."""
    if name not in CATALOG:
        raise unknown_name("data set", name, known_names())
    return CATALOG[name]
