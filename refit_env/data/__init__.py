"""Data sets: readers of official formats, the canonical form, splits and the cache."""

from refit_env.data.canonical import load_canonical
from refit_env.data.dataset import Dataset, Interactions
from refit_env.data.home import data_homes, list_datasets, load_dataset
from refit_env.data.saving import save_dataset
from refit_env.data.sequences import RowDataset, as_rows
from refit_env.data.synthetic import synthesize
from refit_env.data.synthetic_checkins import synthesize_checkins
from refit_env.data.synthetic_sessions import synthesize_sessions
from refit_env.data.synthetic_social import synthesize_social

__all__ = [
    "Dataset",
    "Interactions",
    "RowDataset",
    "as_rows",
    "data_homes",
    "list_datasets",
    "load_canonical",
    "load_dataset",
    "save_dataset",
    "synthesize",
    "synthesize_checkins",
    "synthesize_sessions",
    "synthesize_social",
]
