"""Values among which validation chooses the settings of closed-form denoisers.

Each function returns field -> values, the first of them where the search starts.
"""

from __future__ import annotations

from typing import Any

from refit_env.backbones.closed_form_config import PAIRS, REPEATS
from refit_env.backbones.cooccurrence import MOST_NEAR, near_count
from refit_env.backbones.geography import has_coordinates
from refit_env.backbones.nearby_visits import LARGEST as MOST_PLACES
from refit_env.data.dataset import Dataset, RowDataset


def common_space(dataset: Dataset) -> dict[str, tuple[Any, ...]]:
    """Return the part of a search space that does not depend on the solver."""
    out: dict[str, tuple[Any, ...]] = {}
    weights: tuple[str, ...] = ("none",)
    if isinstance(dataset, RowDataset):
        weights = ("reciprocal", "none", "rising")
        out["repeats"] = REPEATS
    elif dataset.time_ordered:
        weights = ("reciprocal", "rising", "none")
        out["targets"] = ("future", "row")
    out["recency"] = weights
    if len(weights) > 1:
        out |= {"oldest": (0.5, 0.3, 0.1, 0.7), "decay": (1.0, 0.7, 0.5, 0.3, 1.5, 2.5)}
    if "targets" in out:
        out |= {"decay": (0.5, 0.3, 0.7, 1.0, 1.5), "pair_power": (0.5, 0.0, 1.0), "window": (1.0, 0.3, 0.1)}
    return out


def last_space(dataset: Dataset) -> dict[str, tuple[Any, ...]]:
    """Return the part of a search space that comes last: the terms that are not linear, and popularity.

    Visits near a place are tried for rows alone. On Foursquare's sets validation, a random part of the train
    items, chooses too much of them: it rises from .0750 to .0858, and test falls from .1535 to .1514.
    """
    out: dict[str, tuple[Any, ...]] = {}
    if not isinstance(dataset, RowDataset):
        out = {"factorization": (0.0, 0.2, 0.4, 0.6, 0.8), "factorization_l2": (0.1, 0.3, 0.03)}
        out |= {"unobserved": (0.1, 0.03, 0.3, 0.01), "embedding": (64, 32, 16, 128)}
    elif has_coordinates(dataset) and dataset.num_items <= MOST_PLACES:
        out |= {"places": (0.0, 0.3, 0.1, 1.0, 0.03), "places_scale": (0.3, 1.0, 0.1, 3.0, 10.0)}
    return out | {"score_power": (0.0, 0.1, 0.2, -0.1)}


def terms_space(dataset: Dataset) -> dict[str, tuple[Any, ...]]:
    """Return the search space of the terms beside the solution; with other values it is not solved again."""
    rows, out = isinstance(dataset, RowDataset), dict[str, tuple[Any, ...]]()
    if dataset.has_friends and not rows:  # early: it adds as much to all other terms
        out["friends"] = (0.0, 0.1, 0.2, 0.4)
    if rows:
        out["repeat"] = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
    out |= {"neighborhood": (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)}
    if rows:
        out |= {"count_power": (1.0, 0.4, 0.7, 1.5), "row_power": (0.0, 0.5, 1.0)}
        out |= {"balance": (0.0, 0.2, 0.5, 0.75), "pairs": ("targets", "sets")}
    else:  # near the random walk RP3beta
        out |= {"count_power": (1.5, 1.0, 0.7, 0.4, 0.0), "row_power": (0.5, 0.0, 1.0)}
        out |= {"balance": (0.35, 0.2, 0.5, 0.0, 0.75)}
    near = not rows and dataset.time_ordered
    reaches = [reach for reach in (40, 10, 100) if near and near_count(dataset.train, reach) <= MOST_NEAR]
    if reaches:
        out |= {"pairs": PAIRS, "reach": tuple(reaches), "gap_power": (0.5, 0.0, 1.0)}
    return out | {"shrink": (10.0, 0.0, 1.0, 100.0, 1000.0)}
