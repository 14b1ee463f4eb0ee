"""A data set of five users, small enough to compute by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from refit_env.backbones import make_backbone
from refit_env.data.dataset import Dataset
from refit_env.data.interactions import Interactions
from refit_env.policy import DiffusionPolicy

Table = npt.NDArray[np.int8]


def from_table(table: Table, time_ordered: bool = True) -> Dataset:
    """A data set from a (U, I) table: -1 nothing, 0 train, 1 valid, 2 test; time runs with the ids."""
    num_users, num_items = table.shape
    splits = []
    for code in range(3):
        users, items = np.nonzero(table == code)
        splits.append(Interactions.from_pairs(users, items, num_users, num_items))
    train, valid, test = splits
    return Dataset("table", "cf", train, valid, test, time_ordered)


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    """``from_table``."""
    return from_table


@pytest.fixture
def five() -> Dataset:
    """Five users, six items, train items only (the tests of ``train`` relevance).

    user 0: 0 1      cosine with 1: 2 / sqrt(2 * 3) = .816, with 2: 1 / 2
    user 1: 0 1 2    with 0 and with 2: .816, a tie
    user 2: 1 2      with 1: .816, with 0: 1 / 2
    user 3: 3 4      with 4: 1 / sqrt(2)
    user 4: 3        with 3: 1 / sqrt(2)

    Two nearest: 0: 1 2; 1: 0 2; 2: 1 0; 3: 4 and none; 4: 3 and none.
    """
    table = np.full((5, 6), -1, dtype=np.int8)
    for user, items in enumerate([[0, 1], [0, 1, 2], [1, 2], [3, 4], [3]]):
        table[user, items] = 0
    return from_table(table)


@pytest.fixture(scope="session")
def model_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Dataset], Path]:
    """A folder with a small untrained recommender of a data set's catalogue, for rewards that use one."""
    root = tmp_path_factory.mktemp("models")

    def made(dataset: Dataset) -> Path:
        folder = root / str(dataset.num_items)
        if not folder.is_dir():
            options = {"hidden": (8,), "num_steps": 4}
            torch.manual_seed(0)
            backbone = make_backbone("diffrec", dataset.num_items, options)
            DiffusionPolicy(backbone, 2).save(folder)
        return folder

    return made
