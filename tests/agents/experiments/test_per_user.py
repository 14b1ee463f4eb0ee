"""Metrics of single users, kept in a few characters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agents.experiments.per_user import LARGEST, over_users, pack, paired, unpack
from refit_env.errors import DataError
from refit_env.evaluation.statistics import paired_bootstrap


def record(key: str, values: Any) -> dict[str, Any]:
    return {"key": key, "per_user": {"ndcg@20": pack(np.asarray(values, float))}}


def test_values_come_back_to_the_precision_that_is_stated() -> None:
    values = np.random.default_rng(0).random(1000)
    found = unpack(pack(values))
    assert np.abs(found - values).max() <= 0.5 / LARGEST
    assert unpack(pack(np.array([0.0, 1.0]))).tolist() == [0.0, 1.0]
    zeros = np.zeros(6000)
    assert len(pack(zeros)) < 60 and not unpack(pack(zeros)).any()


@pytest.mark.parametrize("text", ["?", "AAAA", "", 3])
def test_other_texts_are_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="no packed values"):
        unpack(text)


def test_records_of_a_single_user_keep_no_interval() -> None:
    found = over_users(record("a", [0]), record("b", [1]), "ndcg@20")
    assert found == {"mean_difference": 1.0, "low": None, "high": None}


def test_records_are_compared_over_their_users() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    found = paired(record("a", before), record("b", after), "ndcg@20")
    assert found == paired_bootstrap(before, after)  # zeros and ones are kept exactly
    with pytest.raises(DataError, match="the record of a holds no recall@20 of single users"):
        paired(record("a", before), record("b", after), "recall@20")
    with pytest.raises(DataError, match="a has 200 users, b has 3"):
        paired(record("a", before), record("b", [0, 1, 1]), "ndcg@20")
