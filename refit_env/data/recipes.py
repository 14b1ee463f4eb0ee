"""The reference preprocessing of the papers, by name: ``refit data prepare NAME --recipe RECIPE``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from refit_env.data.readers.file_lookup import named
from refit_env.data.recipe import Recipe
from refit_env.errors import DataError, unknown_name


@dataclass(frozen=True)
class NamedRecipe:
    """One way from official files to a data set.

    Attributes:
        name: value of ``--recipe``.
        paper: the paper with this preprocessing.
        files: data set -> the official files, by their usual names; ``a|b`` means either file.
        recipe: the steps.
        exact: the data sets whose published files these are: the result must have the counts of the
            catalogue, and rows are sorted by time where it says so.
        note: what was inferred, or differs from the paper.
        page: web page with the files; empty where it is the data set's own page.
    """

    name: str
    paper: str
    files: Mapping[str, tuple[str, ...]]
    recipe: Recipe
    exact: tuple[str, ...] = ()
    note: str = ""
    page: str = ""

    def found_in(self, dataset: str, source: Path) -> bool:
        """Return whether a folder has all files for a data set, or whether a file is one of them."""
        files = self.files.get(dataset, ())
        if source.is_file():
            return any(source.name.lower() in file.lower().split("|") for file in files)
        return bool(files) and all(named(source, file.split("|")) is not None for file in files)

    def source_in(self, dataset: str, source: Path) -> Path:
        """Return the path for the reader: the file if the recipe reads one file, else the folder.

        Raises:
            DataError: if the folder does not hold the files of a known data set.
        """
        if not source.is_dir():
            return source
        if dataset in self.files and not self.found_in(dataset, source):
            raise DataError(
                f"{source}: recipe {self.name} needs {self.files_in_words(dataset)}, not found there"
            )
        of = [self.files[dataset]] if dataset in self.files else list(self.files.values())
        names = [name for files in of if len(files) == 1 for name in files[0].split("|")]
        return named(source, names) or source

    def files_in_words(self, dataset: str) -> str:
        """Format the names of the files.

        Example:
            >>> RECIPES["recdiff"].files_in_words("ciao")
            'dataset.pkl.zip (or dataset.pkl)'
        """
        names = [file.split("|") for file in self.files[dataset]]
        return ", ".join(n[0] + (f" (or {', '.join(n[1:])})" if len(n) > 1 else "") for n in names)


_RECDIFF_FILES = ("dataset.pkl.zip|dataset.pkl",)
_DREAMREC_FILES = (
    "train_data.df|Train_data.df",
    "val_data.df|Val_data.df",
    "test_data.df|Test_data.df",
)
_TANG_FILES = (
    "rating.mat|rating_with_timestamp.mat|epinions_rating_with_timestamp.mat",
    "trustnetwork.mat|trust.mat|epinion_trust_with_timestamp.mat",
)
_SESSIONS = Recipe(
    task="sequential", min_user_rows=3, min_item_rows=5, split="sessions", valid_share=0.1, test_share=0.1
)
_DAYS = replace(_SESSIONS, session="day", utc_offset=8.0)  # the users of both logs live in China
_DREAMREC = "DreamRec (arXiv 2310.20453)"

_RECIPES = (
    NamedRecipe(
        "movielens",
        "ratings >= 4, random 7:1:2 per user",
        {"ml-100k": ("u.data",)},
        Recipe(format="u.data", time_ordered=True, min_rating=4.0),
        exact=("ml-100k",),
    ),
    NamedRecipe(
        "diffrec",
        "DiffRec (arXiv 2304.04971), as published",
        {"ml-1m": ("train_list.npy", "valid_list.npy", "test_list.npy")},
        Recipe(format="diffrec", time_ordered=True, split="published"),
        exact=("ml-1m",),
    ),
    NamedRecipe(
        "lightgcn",
        "LightGCN (arXiv 2002.02126), as published",
        {"yelp2018": ("train.txt", "test.txt"), "gowalla": ("train.txt", "test.txt")},
        Recipe(format="lightgcn", split="published", valid_share=0.1),
        exact=("yelp2018", "gowalla"),
        note="where there is no valid.txt, a random tenth of each train row is validation; of Gowalla, whose "
        "rows are sorted by time, the latest tenth",
    ),
    NamedRecipe(
        "anime-cf",
        "ratings >= 8, 5-core, random 7:1:2 per user",
        {"anime": ("rating.csv",)},
        Recipe(
            format="csv",
            columns={"user": "user_id", "item": "anime_id", "rating": "rating"},
            min_rating=8.0,
            k_core=5,
        ),
        note="-1 (watched, not rated) does not count as a positive rating",
    ),
    NamedRecipe(
        "cf-diff",
        "CF-Diff (arXiv 2404.14240)",
        {"anime": ("rating.csv",)},
        Recipe(format="csv", columns={"user": "user_id", "item": "anime_id", "rating": "rating"}),
        note="every row counts, -1 too, as in the paper's counts (73,515 users, 7,813,737 rows)",
    ),
    NamedRecipe(
        "dreamrec-yoochoose",
        _DREAMREC,
        {"yoochoose": ("yoochoose-buys.dat",)},
        replace(_SESSIONS, format="yoochoose", merge_repeats=True),
        note="purchases: inferred from the paper's counts and its sessions, which do not repeat items",
    ),
    NamedRecipe(
        "yoochoose-clicks",
        f"the filter of {_DREAMREC} on the clicks",
        {"yoochoose": ("yoochoose-clicks.dat",)},
        replace(_SESSIONS, format="yoochoose"),
    ),
    NamedRecipe(
        "dreamrec-kuairec",
        _DREAMREC,
        {"kuairec": ("big_matrix.csv",)},
        replace(_DAYS, format="kuairec", min_rating=2.0),
        note="watch ratio >= 2; that a session is a day is inferred from the published sessions",
    ),
    NamedRecipe(
        "kuairec-small",
        f"the filter of {_DREAMREC} on the fully observed matrix",
        {"kuairec": ("small_matrix.csv",)},
        replace(_DAYS, format="kuairec", min_rating=2.0),
    ),
    NamedRecipe(
        "dreamrec",
        f"{_DREAMREC}, as published",
        {"zhihu": _DREAMREC_FILES, "yoochoose": _DREAMREC_FILES, "kuairec": _DREAMREC_FILES},
        Recipe(format="dreamrec", task="sequential", time_ordered=True, split="published"),
        exact=("zhihu",),
        note="pickles, from which only the arrays are read; each session is rebuilt from its rows",
        page="https://github.com/YangZhengyi98/DreamRec",
    ),
    NamedRecipe(
        "dreamrec-zhihu",
        _DREAMREC,
        {"zhihu": ("inter_impression.csv|zhihu1M.txt",)},
        replace(_DAYS, format="zhihu"),
        note="clicks; that a session is a day is a guess, so the counts may differ from the published ones",
        page="https://github.com/THUIR/ZhihuRec-Dataset",
    ),
    NamedRecipe(
        "tang",
        "ratings >= 4, 3-core, random 7:1:2 per user",
        {"epinions": _TANG_FILES, "ciao": _TANG_FILES},
        Recipe(format="tang", task="social", min_rating=4.0, k_core=3),
        page="https://www.cse.msu.edu/~tangjili/trust.html",
    ),
    NamedRecipe(
        "recdiff",
        "RecDiff (arXiv 2406.01629), as published",
        {"ciao": _RECDIFF_FILES, "epinions": _RECDIFF_FILES, "yelp": _RECDIFF_FILES},
        Recipe(format="recdiff", task="social", split="published"),
        exact=("ciao",),
        note="a pickle, from which only the matrices are read",
        page="https://github.com/HKUDS/RecDiff",
    ),
    NamedRecipe(
        "yelp-friends",
        "ratings >= 4, 3-core, random 7:1:2 per user",
        {
            "yelp": (
                "yelp_academic_dataset_review.json|review.json",
                "yelp_academic_dataset_user.json|user.json",
            )
        },
        Recipe(format="yelp", task="social", min_rating=4.0, k_core=3),
        note="a business that was reviewed twice counts once",
    ),
    NamedRecipe(
        "diff-poi",
        "Diff-POI (arXiv 2304.07041)",
        {
            "foursquare": ("train.txt", "tune.txt", "test.txt"),
            "tky": ("dataset_TSMC2014_TKY.txt",),
            "nyc": ("dataset_TSMC2014_NYC.txt",),
        },
        Recipe(task="poi", k_core=5, core_passes=1, split="quantile", valid_share=0.1, test_share=0.1),
        note="5-core in one pass; train before each user's .8 quantile of time, test from the .9 quantile on",
    ),
)

RECIPES: dict[str, NamedRecipe] = {recipe.name: recipe for recipe in _RECIPES}
"""Known recipes by name."""


def recipes_for(dataset: str) -> list[NamedRecipe]:
    """Return the recipes of a data set; those with checked counts come first."""
    known = [recipe for recipe in RECIPES.values() if dataset in recipe.files]
    return sorted(known, key=lambda recipe: dataset not in recipe.exact)


def choose_recipe(dataset: str, source: Path, name: str | None = None) -> NamedRecipe | None:
    """Return the named recipe, or the first recipe of the data set whose files are there.

    Args:
        dataset: name of the data set, known or not.
        source: the official file, or the folder with the files.
        name: name of the recipe; None chooses by the files.

    Returns:
        The recipe; None where the data set has none.

    Raises:
        ValueError: for an unknown recipe, with a did-you-mean.
        DataError: for the recipe of another data set, or if no recipe's files are there.
    """
    known = recipes_for(dataset)
    if name is not None:
        if name not in RECIPES:
            raise unknown_name("recipe", name, RECIPES)
        if known and RECIPES[name] not in known:
            others = ", ".join(recipe.name for recipe in known)
            raise DataError(
                f"recipe {name!r} is for {', '.join(RECIPES[name].files)}; {dataset} has {others}"
            )
        return RECIPES[name]
    if not known:
        return None
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder")
    for recipe in known:
        if recipe.found_in(dataset, source):
            return recipe
    if source.is_file() and len(known) == 1 and len(known[0].files[dataset]) == 1:
        return known[0]  # a renamed file
    wanted = "; ".join(f"{recipe.name}: {recipe.files_in_words(dataset)}" for recipe in known)
    raise DataError(f"{source}: no official files of {dataset} there; its recipes read {wanted}")
