"""Rewards of rows: one target, neighbours of other sessions by what precedes, ranks without a cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refit_env.data import Dataset, Interactions, RowDataset, synthesize
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
    relevance = make_relevance("validation", DATA)
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
