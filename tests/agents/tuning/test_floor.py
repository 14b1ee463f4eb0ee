"""The baselines of a study: those that the data allows and that are fitted quickly."""

from __future__ import annotations

import pytest

from agents.tuning import floor
from agents.tuning.floor import floor_names
from refit_env.data import load_dataset


def test_ease_of_a_large_set_is_tried_only_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_dataset("synthetic")
    assert "ease" in floor_names(data)
    monkeypatch.setattr(floor, "LARGEST_EASE", min(data.num_users, data.num_items) - 1)
    assert "ease" not in floor_names(data) and "item-knn" in floor_names(data)
    assert floor_names(data, ["ease"]) == ["ease"]
