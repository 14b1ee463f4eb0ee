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
        files: the official files, by their usual names.
        licence: terms, in short.
        time_ordered: whether each user's rows stand in order of time.
        format: the reader of the files (``refit_env.data.readers.FORMATS``); empty where the canonical
            folder cannot be made from them here.
        counts: (users, items, interactions) of the complete set, or None where it depends on the sample.
        recipe: fields of ``refit_env.data.prepare.Recipe`` beyond format, task and order of time.
        url: direct download where the official host offers one, with ``sha256``.
        sha256: checksum of the download.
    """

    name: str
    task: str
    page: str
    files: tuple[str, ...]
    licence: str
    time_ordered: bool
    format: str = ""
    counts: tuple[int, int, int] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    url: str | None = None
    sha256: str | None = None

    @property
    def can_prepare(self) -> bool:
        """Whether ``refit data prepare NAME`` has a recipe for the official files."""
        return bool(self.format)


_MOVIELENS = "GroupLens: research use, no redistribution without permission"
_TANG = "Tang et al.: research, citation asked"
_TSMC = "Foursquare TSMC2014: research only, citation asked"
_YELP = "Yelp Dataset terms: academic use, no redistribution"

_SOURCES = (
    Source(
        "ml-100k",
        "cf",
        "https://grouplens.org/datasets/movielens/100k/",
        ("u.data",),
        _MOVIELENS,
        time_ordered=True,
        format="u.data",
        counts=(942, 1447, 55_375),
        recipe={"min_rating": 4.0, "split": "random", "seed": 0},
        url="https://files.grouplens.org/datasets/movielens/ml-100k/u.data",
        sha256="06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
    ),
    Source(
        "ml-1m",
        "cf",
        "https://github.com/YiyanXu/DiffRec",
        ("train_list.npy", "valid_list.npy", "test_list.npy"),
        _MOVIELENS,
        time_ordered=True,
        format="diffrec",
        counts=(5949, 2810, 571_531),
        recipe={"split": "published"},
    ),
    Source(
        "yelp2018",
        "cf",
        "https://github.com/gusye1234/LightGCN-PyTorch",
        ("train.txt", "test.txt"),
        _YELP,
        time_ordered=False,
        format="lightgcn",
        counts=(31_668, 38_048, 1_561_406),
        recipe={"split": "published", "valid_share": 0.1},
    ),
    Source(
        "gowalla",
        "cf",
        "https://github.com/gusye1234/LightGCN-PyTorch",
        ("train.txt", "test.txt"),
        "SNAP Gowalla: no licence stated, research",
        time_ordered=False,
        format="lightgcn",
        counts=(29_858, 40_981, 1_027_370),
        recipe={"split": "published", "valid_share": 0.1},
    ),
    Source(
        "anime",
        "cf",
        "https://www.kaggle.com/datasets/CooperUnion/anime-recommendations-database",
        ("rating.csv",),
        "Kaggle CooperUnion: CC0 as stated there",
        time_ordered=False,
        format="csv",
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
        ("train_data.df", "Val_data.df", "Test_data.df"),
        "no data licence stated",
        time_ordered=True,
        counts=(11_714, 4838, 77_712),
    ),
    Source(
        "yoochoose",
        "sequential",
        "https://2015.recsyschallenge.com",
        ("yoochoose-clicks.dat",),
        "RecSys Challenge 2015: CC BY-NC-ND 4.0",
        time_ordered=True,
    ),
    Source(
        "kuairec",
        "sequential",
        "https://kuairec.com",
        ("big_matrix.csv",),
        "CC BY-SA 4.0",
        time_ordered=True,
    ),
    Source(
        "ciao",
        "social",
        "https://github.com/HKUDS/RecDiff",
        ("dataset.pkl.zip",),
        _TANG,
        time_ordered=False,
        counts=(1925, 15_053, 33_175),
    ),
    Source(
        "epinions",
        "social",
        "https://www.cse.msu.edu/~tangjili/trust.html",
        ("rating.mat", "trustnetwork.mat"),
        _TANG,
        time_ordered=False,
        counts=(21_338, 44_932, 441_163),
    ),
    Source(
        "yelp",
        "social",
        "https://github.com/librahu/HIN-Datasets-for-Recommendation-and-Network-Embedding",
        ("user_business.dat", "user_user.dat"),
        _YELP,
        time_ordered=False,
        counts=(7084, 6871, 116_879),
    ),
    Source(
        "foursquare",
        "poi",
        "https://github.com/Yifang-Qin/Diff-POI",
        ("train.txt", "tune.txt", "test.txt"),
        "Yuan et al. 2013 crawl: no licence stated",
        time_ordered=False,
        counts=(2321, 5596, 98_258),
    ),
    Source(
        "tky",
        "poi",
        "https://sites.google.com/site/yangdingqi/home/foursquare-dataset",
        ("dataset_TSMC2014_TKY.txt",),
        _TSMC,
        time_ordered=True,
        counts=(2173, 7038, 306_778),
    ),
    Source(
        "nyc",
        "poi",
        "https://sites.google.com/site/yangdingqi/home/foursquare-dataset",
        ("dataset_TSMC2014_NYC.txt",),
        _TSMC,
        time_ordered=True,
        counts=(1083, 5135, 147_938),
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
