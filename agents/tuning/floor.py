"""Baselines of a study: fitted quickly, with settings chosen on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from agents.baselines import baseline, fit_baseline, names_for
from agents.training.settings_search import SettingsSearch
from refit_env.data.dataset import Dataset
from refit_env.errors import SettingError
from refit_env.evaluation.beyond_accuracy import means_of
from refit_env.evaluation.ranking import evaluate

SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "popularity": {},
    "ease": {"l2": (200.0, 100.0, 500.0, 50.0, 1000.0, 20.0, 2000.0)},
    "item-knn": {
        "neighbors": (100, 50, 200, 20, 400),
        "shrink": (10.0, 0.0, 100.0, 300.0),
        "balance": (0.5, 0.3, 0.7),
    },
    "user-knn": {
        "neighbors": (100, 50, 200, 400, 800),
        "shrink": (0.0, 10.0, 100.0, 300.0),
        "balance": (0.5, 0.3, 0.7),
    },
    "rp3beta": {
        "beta": (0.6, 0.4, 0.8, 0.2, 0.0),
        "alpha": (1.0, 0.7, 1.3, 0.4),
        "neighbors": (100, 200, 400),
    },
    "gf-cf": {"alpha": (0.3, 0.1, 1.0, 0.0), "rank": (256, 128, 64, 512)},
    "ials": {
        "l2": (0.1, 0.03, 0.3, 0.01, 0.003),
        "unobserved": (0.1, 0.03, 0.3, 0.01),
        "embedding": (64, 32, 128, 16, 256),
    },
    "slim": {"iterations": (20,), "l1": (5.0, 1.0, 20.0), "l2": (200.0, 50.0, 1000.0)},
}
"""Baseline -> values of its searched settings; the search starts at the first. All of
them are fitted in seconds or a few minutes without a GPU, the slower ones last."""


LARGEST_EASE = 15_000
"""Number of items (or users, if fewer) up to which a fit of EASE needs at most two minutes on one core."""


def floor_names(dataset: Dataset, wanted: Sequence[str] = ()) -> list[str]:
    """Return the baselines to try: those of ``SPACES`` that support the data, or the ``wanted`` ones.

    Raises:
        SettingError: for an unknown baseline, with a did-you-mean, or one that does not support the data.
    """
    fit = names_for(dataset)
    if not wanted:
        slow = {"ease"} if min(dataset.num_items, dataset.num_users) > LARGEST_EASE else set()
        return [name for name in SPACES if name in fit and name not in slow]
    for name in wanted:
        try:
            fault = baseline(name).fault(dataset)
        except ValueError as error:
            raise SettingError("baselines", f"{name}: {error}") from error
        if fault:
            raise SettingError("baselines", f"{name}: it {fault}")
    return list(dict.fromkeys(wanted))


def as_term(name: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a baseline's settings as those of a term of ``linear`` and ``spectral``, or None.

    The term is the neighbourhood, or for iALS the factorisation.

    Example:
        >>> as_term("rp3beta", {"alpha": 0.75, "beta": 0.25, "neighbors": 100})["balance"]
        0.25
    """
    if name == "item-knn":
        return {"count_power": 1.0, "row_power": 0.0, "nearest_of": "target", **settings}
    if name == "rp3beta":
        alpha, both = settings["alpha"], settings["alpha"] + settings["beta"]
        balance = settings["beta"] / both if both else 0.0
        walk = {"count_power": both, "balance": balance, "row_power": alpha, "shrink": 0.0}
        return walk | {"neighbors": settings["neighbors"], "nearest_of": "input"}
    if name == "ials":
        own = {key: settings[key] for key in ("unobserved", "embedding")}
        return {"factorization_l2": settings["l2"], **own}
    return None


def search_baseline(
    dataset: Dataset,
    name: str,
    *,
    seed: int,
    device: torch.device,
    note: Callable[[dict[str, Any], dict[str, float]], float],
    known: Sequence[tuple[Mapping[str, Any], float]] = (),
    out_of_time: Callable[[], bool],
    names: Sequence[str] = (),
) -> None:
    """Try settings of a baseline.

    Args:
        dataset: the data set.
        name: the baseline.
        seed: seed of its random numbers.
        device: device of its training and of the scores.
        note: called with settings and their validation metrics; returns the value that selects.
        known: settings that were tried before, with their values.
        out_of_time: called before each trial but the first.
        names: further metrics beyond accuracy.
    """

    def earlier(settings: dict[str, Any]) -> float | None:
        return next((value for tried, value in known if dict(tried) == settings), None)

    def value(settings: dict[str, Any]) -> float:
        found = earlier(settings)
        if found is not None:
            return found
        scorer, data = fit_baseline(dataset, name, settings, seed, device=device)
        result = evaluate(scorer, data, "valid", device=device)
        return note(settings, means_of(result, data, "valid", names))

    search = SettingsSearch(value, out_of_time=out_of_time, known=lambda tried: earlier(tried) is not None)
    search.run(SPACES.get(name, {}))
