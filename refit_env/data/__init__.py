"""Data sets: readers of official formats, the canonical form, splits and the cache.

The names are imported when they are first used: reading data needs pandas, the settings of a preparation do
not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refit_env.data.canonical import load_canonical
    from refit_env.data.dataset import Dataset, RowDataset, as_rows
    from refit_env.data.home import data_homes, list_datasets, load_dataset
    from refit_env.data.interactions import Interactions
    from refit_env.data.mapped import load_mapped, write_mapped
    from refit_env.data.saving import save_dataset
    from refit_env.data.synthetic import synthesize
    from refit_env.data.synthetic_checkins import synthesize_checkins
    from refit_env.data.synthetic_sessions import synthesize_sessions
    from refit_env.data.synthetic_social import synthesize_social

_PLACES = {
    "Dataset": "dataset",
    "Interactions": "interactions",
    "RowDataset": "dataset",
    "as_rows": "dataset",
    "data_homes": "home",
    "list_datasets": "home",
    "load_canonical": "canonical",
    "load_dataset": "home",
    "load_mapped": "mapped",
    "save_dataset": "saving",
    "synthesize": "synthetic",
    "synthesize_checkins": "synthetic_checkins",
    "synthesize_sessions": "synthetic_sessions",
    "synthesize_social": "synthetic_social",
    "write_mapped": "mapped",
}
"""Name -> the module that defines it."""

__all__ = [
    "Dataset",
    "Interactions",
    "RowDataset",
    "as_rows",
    "data_homes",
    "list_datasets",
    "load_canonical",
    "load_dataset",
    "load_mapped",
    "save_dataset",
    "synthesize",
    "synthesize_checkins",
    "synthesize_sessions",
    "synthesize_social",
    "write_mapped",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _PLACES:
        return getattr(import_module(f"refit_env.data.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
