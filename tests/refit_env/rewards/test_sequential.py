"""Rewards of rows: one target, neighbours of other sessions by what precedes, ranks without a cut."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refit_env.data import Dataset, Interactions, RowDataset, synthesize
from refit_env.errors import SettingError
from refit_env.rewards import make_relevance, make_reward

ITEMS = 8


def sessions(*train: list[int], valid: list[int], test: list[int]) -> Dataset:
    everyone = [*train, valid, test]
    split = [0] * len(train) + [1, 2]
    parts = []
    for code in range(3):
        pairs = [(u, i) for u, items in enumerate(everyone) for i in items if split[u] == code]
        parts.append(Interactions.from_pairs(*zip(*pairs, strict=True), len(everyone), ITEMS))
    return Dataset("shop", "sequential", *parts, time_ordered=True)


DATA = sessions([0, 1, 2], [0, 3], [0, 1, 4], [5, 6], valid=[0, 1, 7], test=[0, 1, 5])
"""Train rows: 0 (0) > 1, 1 (0 1) > 2, 2 (0) > 3, 3 (0) > 1, 4 (0 1) > 4, 5 (5) > 6; 6, 7 valid; 8, 9 test."""


def test_train_relevance_is_the_next_item_of_the_train_rows() -> None:
    relevance = make_relevance("train", DATA)
    assert relevance.users.tolist() == [0, 1, 2, 3, 4, 5] and relevance.hidden is None
    assert relevance.relevant.toarray().argmax(1)[:6].tolist() == [1, 2, 3, 1, 4, 6]
    assert relevance.relevant.sum() == 6
    assert not relevance.visible[6:].nnz  # what validation and test sessions hold is not shown to rewards
    assert relevance.visible[1].indices.tolist() == [0, 1]


def test_validation_relevance_has_validation_rows_only() -> None:
    relevance = make_relevance("validation", DATA, selection_share=0.0)
    assert relevance.users.tolist() == [6, 7]
    assert relevance.relevant.toarray()[[6, 7]].argmax(1).tolist() == [1, 7]
    assert relevance.visible.nnz == 3


@pytest.mark.parametrize("mode", ["recent", "holdout"])
def test_what_hides_items_of_a_user_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="is sequential"):
        make_relevance(mode, DATA)


def test_racs_counts_the_target_and_the_targets_of_similar_rows_of_other_sessions() -> None:
    """Row 1, (0 1) > 2, session 0. Others: row 4 (0 1) has cosine 1, rows 2 and 3 (0) have .71; row 0 (0),
    of its own session, is no neighbour. Two nearest: 4 > item 4, and 2 > item 3 (the lower id of a tie)."""
    reward = make_reward("racs", DATA.episodes, make_relevance("train", DATA), k=2, neighbors=2)
    assert reward.context.neighbors(2)[1].tolist() == [4, 2]
    scores = torch.zeros(1, ITEMS)
    scores[0, [2, 4]] = torch.tensor([2.0, 1.0])
    value, terms, _ = reward(scores, torch.tensor([1]))
    assert terms["n_k"].tolist() == [0.5] and terms["n_sim_k"].tolist() == [0.25]
    assert value.tolist() == [0.375]


@pytest.mark.parametrize(
    ("name", "own", "similar"),
    [("racs", 0.0, 0.5), ("racs_ndcg", 0.0, 0.5)],
)
def test_neighbors_among_users_are_users_with_all_their_rows(name: str, own: float, similar: float) -> None:
    """Users show {0 1}, {0}, {0 1}, {5}; their targets are {1 2}, {3}, {1 4}, {6}. Row 1, (0 1) > 2, is of
    user 0, whose nearest are users 2 and 1: of the list 1, 4 both are user 2's targets, none is user 1's."""
    relevance = make_relevance("train", DATA)
    settings_ = {"k": 2, "neighbors": 2}
    reward = make_reward(name, DATA.episodes, relevance, neighbors_among="users", **settings_)
    assert reward.neighbors.ids[1].tolist() == [2, 1]  # type: ignore[attr-defined]
    scores = torch.zeros(1, ITEMS)
    scores[0, [1, 4]] = torch.tensor([2.0, 1.0])
    value, terms, _ = reward(scores, torch.tensor([1]))
    assert [term.tolist() for term in terms.values()] == [[own], [similar]]
    assert value.tolist() == [(own + similar) / 2]
    checkins = replace(DATA, task="poi")
    usual = make_reward(name, checkins.episodes, make_relevance("train", checkins), **settings_)
    assert torch.equal(usual(scores, torch.tensor([1]))[0], value)  # the default of check-in sets
    rows = make_reward(name, DATA.episodes, relevance, **settings_)
    assert not torch.equal(rows(scores, torch.tensor([1]))[0], value)


def test_neighbors_among_users_need_rows_and_lists_of_the_target() -> None:
    rows, relevance = DATA.episodes, make_relevance("train", DATA)
    users = {"neighbors_among": "users"}
    with pytest.raises(SettingError, match="must be episodes for variant 'neighbor_lists'"):
        make_reward("racs", rows, relevance, k=2, variant="neighbor_lists", **users)
    with pytest.raises(SettingError, match="must be rows or index for neighbors_among 'users'"):
        make_reward("racs", rows, relevance, k=2, neighbors_by="factors", **users)
    shop = synthesize(num_users=20, num_items=24)
    with pytest.raises(SettingError, match="must be episodes for 'synthetic', whose episodes are users"):
        make_reward("racs", shop, make_relevance("holdout", shop), k=2, **users)


def test_similarity_uses_earlier_events_only() -> None:
    """A later event of a session changes no earlier row's neighbours' similarity."""
    longer = sessions([0, 1, 2], [0, 3], [0, 1, 4, 6], [5, 6], valid=[0, 1, 7], test=[0, 1, 5])
    before = make_relevance("train", DATA).visible.toarray()[:5]
    assert np.array_equal(make_relevance("train", longer).visible.toarray()[:5], before)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=ITEMS, max_size=ITEMS))
def test_log_rank_is_ndcg_without_a_cut(values: list[float]) -> None:
    relevance = make_relevance("train", DATA)
    rows = DATA.episodes
    assert isinstance(rows, RowDataset)
    scores = torch.tensor([values] * 6)
    users = torch.arange(6)
    full = make_reward("ndcg", rows, relevance, k=ITEMS)(scores, users).value
    short = make_reward("log_rank", rows, relevance, k=1)(scores, users).value
    assert torch.allclose(short, full, atol=1e-6)


def test_log_rank_uses_the_best_relevant_item_and_skips_hidden_ones() -> None:
    data = synthesize(num_users=20, num_items=30)
    relevance = make_relevance("recent", data)
    reward = make_reward("log_rank", data, relevance, k=5)
    user = int(relevance.users[0])
    shown, relevant = relevance.visible[user].indices, relevance.relevant[user].indices
    scores = torch.zeros(1, 30)
    scores[0, shown] = 9.0  # in no list, so above nobody
    scores[0, relevant[-1]] = 1.0
    others = np.setdiff1d(np.arange(30), [*shown, *relevant])
    scores[0, others[:2]] = 2.0
    assert float(reward(scores, torch.tensor([user])).value) == pytest.approx(1 / math.log2(4))


@pytest.mark.parametrize("name", ["reciprocal_rank", "ndcg", "r_ra", "log_rank"])
def test_other_rewards_depend_on_the_target_only(name: str) -> None:
    reward = make_reward(name, DATA.episodes, make_relevance("train", DATA), k=3)
    best, other = torch.zeros(2, ITEMS)
    best[2], other[4] = 1.0, 1.0
    high, low = (float(reward(scores[None], torch.tensor([1])).value) for scores in (best, other))
    assert high > low
