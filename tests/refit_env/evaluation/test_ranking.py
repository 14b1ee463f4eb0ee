"""Tests of the evaluation protocol: users, masks, averages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from refit_env.data.dataset import Dataset
from refit_env.data.interactions import Interactions
from refit_env.evaluation.ranking import evaluate


def split(pairs: list[tuple[int, int]]) -> Interactions:
    """Return interactions of 4 users with 6 items."""
    users, items = (np.array([p[side] for p in pairs], dtype=np.int64) for side in (0, 1))
    return Interactions.from_pairs(users, items, num_users=4, num_items=6)


@pytest.fixture
def dataset() -> Dataset:
    """Return a data set: user 3 has no test item; user 2's only test item is a train item."""
    return Dataset(
        name="tiny",
        task="cf",
        train=split([(0, 0), (1, 1), (2, 2), (2, 3), (3, 0)]),
        valid=split([(0, 1), (1, 0), (3, 5)]),
        test=split([(0, 2), (0, 5), (1, 2), (2, 3)]),
        time_ordered=False,
    )


def by_id(users: Tensor) -> Tensor:
    """Score lower ids higher for every user."""
    return -torch.arange(6.0).expand(users.numel(), 6)


def test_masks_and_means(dataset: Dataset) -> None:
    result = evaluate(by_id, dataset, "test", ks=(1, 3), batch=1)
    assert result.users.tolist() == [0, 1]
    # Users 0 and 1 have seen items 0 and 1 (train, validation): both lists are 2, 3, 4.
    assert result.lists.tolist() == [[2, 3, 4], [2, 3, 4]]
    assert result.per_user["recall@3"].tolist() == [0.5, 1.0]
    assert result.per_user["ndcg@3"].tolist() == pytest.approx([0.613147, 1.0], abs=1e-6)
    means = result.means()
    assert means["recall@3"] == 0.75 and means["coverage@3"] == 0.5
    assert means["gini@3"] == pytest.approx(0.5)  # counts 0, 0, 0, 2, 2, 2
    assert result.means_over_all()["recall@3"] == pytest.approx(1.5 / 4)


def test_validation_masks_train_alone(dataset: Dataset) -> None:
    result = evaluate(by_id, dataset, "valid", ks=(2,))
    assert result.users.tolist() == [0, 1, 3]
    assert result.lists.tolist() == [[1, 2], [0, 2], [1, 2]]
    assert result.per_user["recall@2"].tolist() == [1.0, 1.0, 0.0]


def test_positions_without_unseen_items_are_empty(dataset: Dataset) -> None:
    result = evaluate(by_id, dataset, "test", ks=(6,))
    assert result.lists.tolist() == [[2, 3, 4, 5, -1, -1], [2, 3, 4, 5, -1, -1]]
    assert result.means()["coverage@6"] == pytest.approx(4 / 6)


def test_a_subset_of_users(dataset: Dataset) -> None:
    whole = evaluate(by_id, dataset, "test", ks=(3,))
    part = evaluate(by_id, dataset, "test", ks=(3,), users=np.array([1, 3]))
    assert part.users.tolist() == [1]
    assert part.per_user["ndcg@3"][0] == whole.per_user["ndcg@3"][1]


def test_the_batch_does_not_matter(dataset: Dataset) -> None:
    table = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    one, all_ = (evaluate(lambda users: table[users], dataset, ks=(2, 5), batch=b) for b in (1, 512))
    assert all(np.array_equal(one.per_user[name], all_.per_user[name]) for name in all_.per_user)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tets"}, "Did you mean 'test'"),
        ({"ks": (7,)}, r"1\.\.6"),
        ({"ks": ()}, "list lengths"),
        ({"users": np.array([2, 3])}, "no user to evaluate"),
    ],
)
def test_wrong_arguments_are_named(dataset: Dataset, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(by_id, dataset, **{"ks": (2,), **arguments})  # type: ignore[arg-type]


def test_scores_that_do_not_fit_are_refused(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 5\), expected \(2, 6\)"):
        evaluate(lambda users: torch.zeros(users.numel(), 5), dataset, ks=(2,))
    with pytest.raises(ValueError, match="NaN"):
        evaluate(lambda users: torch.full((users.numel(), 6), torch.nan), dataset, ks=(2,))
