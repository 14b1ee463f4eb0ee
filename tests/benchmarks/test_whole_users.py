"""Whole users: which records are averaged."""

from __future__ import annotations

import numpy as np
import pytest

from agents.experiments.per_user import pack
from benchmarks.whole_users import mean_of_seeds


def test_the_seeds_of_one_row_are_averaged_and_no_other_rows() -> None:
    values = {"a_start_seed0": [0.0, 1.0], "a_start_seed1": [1.0, 1.0], "a_start-more_seed0": [9.0, 9.0]}
    records = {key: {"per_user": {"ndcg@20": pack(np.array(row))}} for key, row in values.items()}
    assert mean_of_seeds(records, "a_start").tolist() == pytest.approx([0.5, 1.0], abs=1e-3)
    with pytest.raises(KeyError, match="no record of a_sta"):
        mean_of_seeds(records, "a_sta")
