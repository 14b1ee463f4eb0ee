"""Tests of co-occurrences: the nearest items, and the items that are near each other in a row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refit_env.backbones import backbone_class, backbone_for, closed_form_spaces, cooccurrence
from refit_env.backbones.closed_form import ClosedForm
from refit_env.backbones.cooccurrence import Counting, cooccurrences, near_count, near_pairs, nearest_items
from refit_env.backbones.linear import LinearDenoiser
from refit_env.data import Interactions, synthesize, synthesize_sessions

NAMES = ["linear", "spectral"]
USERS, SESSIONS = synthesize(num_users=60, num_items=25), synthesize_sessions()


@pytest.mark.parametrize("of_targets", [False, True])
def test_the_nearest_items_are_the_largest_values_and_no_item_is_there_twice(of_targets: bool) -> None:
    rows = synthesize(num_users=12, num_items=30).train.csr
    counting = Counting(shrink=1.0, balance=0.3, row_power=0.5, count_power=0.8)
    pairs = cooccurrences(rows, None, counting)
    counting = replace(counting, of_targets=of_targets)
    np.testing.assert_array_equal(cooccurrences(rows, None, counting), pairs)
    pairs = pairs.T if of_targets else pairs
    ids, values = nearest_items(rows, None, 25, counting)
    assert (pairs == 0).sum(1).max() > 5  # fewer than 25 co-occurrences: some values are 0
    for item in range(30):
        assert len(set(ids[item])) == 25 and (values[item] == pairs[item, ids[item]]).all()
        np.testing.assert_allclose(values[item], np.sort(pairs[item])[::-1][:25])
    fewer = cooccurrences(rows, None, counting, nearest=3)
    fewer = fewer.T if of_targets else fewer
    np.testing.assert_allclose(np.sort(fewer, 1)[:, ::-1][:, :3], np.sort(pairs, 1)[:, ::-1][:, :3])
    assert ((fewer > 0).sum(1) <= 3).all()


@pytest.mark.parametrize(("reach", "power"), [(1, 1.0), (3, 0.5), (1000, 0.0)])
def test_near_items_count_by_their_distance_in_the_row(reach: int, power: float) -> None:
    expected = np.zeros((25, 25))
    for user in range(USERS.num_users):
        row = USERS.train.of(user)
        for i, first in enumerate(row):
            for j, second in enumerate(row):
                if 1 <= abs(i - j) <= reach:
                    expected[first, second] += abs(i - j) ** -power
    near, own = near_pairs(USERS.train, reach, power)
    np.testing.assert_allclose((near.T @ own).toarray(), expected, rtol=1e-4)
    alone = {"neighborhood": 1.0, "pairs": "near", "balance": 0.0, "shrink": 2.0}
    backbone = backbone_for(USERS, "linear", {**alone, "reach": reach, "gap_power": power})
    assert isinstance(backbone, ClosedForm)
    backbone.fit(USERS)
    got = backbone.state_dict()["weight"][0].double().numpy()
    expected = expected / (expected.sum(1)[:, None] + 2.0)
    np.testing.assert_allclose(got / np.linalg.norm(got), expected / np.linalg.norm(expected), atol=1e-5)


def test_near_items_need_rows_of_items_in_order_of_time() -> None:
    for bad, why in (
        (replace(USERS, time_ordered=False), "is not sorted by time"),
        (SESSIONS, "has histories for rows"),
    ):
        backbone = backbone_for(bad, "spectral", {"neighborhood": 1.0, "pairs": "near"})
        with pytest.raises(ValueError, match=f"pairs='near' .*{why}. Use pairs='targets' or pairs='sets'"):
            backbone.fit(bad)
    none = Interactions.from_pairs([], [], num_users=2, num_items=3)
    assert [part.shape for part in near_pairs(none, 3, 1.0)] == [(0, 3), (0, 3)]


def test_near_items_are_searched_where_rows_of_items_have_an_order() -> None:
    for name in NAMES:
        kind = backbone_class(name)
        assert issubclass(kind, ClosedForm)
        assert "near" in kind.search_space(USERS)["pairs"]
        assert "near" not in kind.search_space(SESSIONS)["pairs"]
        assert "pairs" not in kind.search_space(replace(USERS, time_ordered=False))


def test_too_many_near_items_are_refused_and_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    for reach in (1, 7, 1000):
        assert near_count(USERS.train, reach) == near_pairs(USERS.train, reach, 1.0)[0].nnz
    monkeypatch.setattr(cooccurrence, "MOST_NEAR", near_count(USERS.train, 3))
    near_pairs(USERS.train, 3, 1.0)
    with pytest.raises(ValueError, match=r"reach=4 counts [\d,]+ pairs of items; at most [\d,]+ fit"):
        near_pairs(USERS.train, 4, 1.0)
    long = Interactions.from_pairs(np.zeros(25), np.arange(25), USERS.num_users, USERS.num_items)
    monkeypatch.setattr(closed_form_spaces, "MOST_NEAR", near_count(long, 10))
    assert LinearDenoiser.search_space(replace(USERS, train=long))["reach"] == (10,)
    monkeypatch.setattr(closed_form_spaces, "MOST_NEAR", 0)
    assert "pairs" not in LinearDenoiser.search_space(USERS)
