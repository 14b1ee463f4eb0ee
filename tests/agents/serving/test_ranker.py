from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from agents.serving.ranker import NoHistory, NoRepeats, Query, Ranker
from refit_env.backbones import backbone_names

KNOWN_USERS = ("recdiff",)
"""Backbones that rank for the users of their data alone."""
OTHERS = [name for name in backbone_names() if name not in KNOWN_USERS]
WEIGHTED = [("linear", "rising"), ("linear", "reciprocal"), ("spectral", "reciprocal")]


def check_histories(policy: Any, data: Any) -> None:
    """A person with the history of a user has the user's list."""
    ranker = Ranker(policy, data)
    for user in range(0, data.num_users, 3):
        whole = data.served.train.of(user)
        if data.has_rows:
            whole = np.concatenate([data.split(split).of(user) for split in ("train", "valid", "test")])
        own, hidden = ranker.scores([Query(user)])
        other, covered = ranker.scores([Query(history=tuple(map(int, whole)))])
        assert torch.equal(hidden, covered) and hidden[0].nonzero().flatten().tolist() == [
            *ranker.known(user)
        ]
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in OTHERS if name != "diff-poi"])  # it reads times, too
def test_the_owner_of_a_users_history_has_the_users_scores(name: str, policy_of: Callable[..., Any]) -> None:
    check_histories(*policy_of(name))


@pytest.mark.parametrize(("name", "recency"), WEIGHTED)
def test_weights_by_recency_are_those_of_the_data(
    name: str, recency: str, policy_of: Callable[..., Any]
) -> None:
    check_histories(*policy_of(name, recency=recency))


@pytest.mark.parametrize("name", backbone_names())
def test_a_batch_of_users_and_histories_is_ranked_like_each_alone(
    name: str, policy_of: Callable[..., Any]
) -> None:
    policy, data = policy_of(name)
    ranker = Ranker(policy, data)
    some = tuple(range(0, data.num_items, 2))
    queries = [Query(3), Query(0, hidden=(1, 2)), Query(7), Query(7, only=some), Query(8, only=some)]
    if name not in KNOWN_USERS:
        queries[1:1] = [Query(history=(5, 2, 9)), Query(), Query(history=(4,), hidden=(0,))]
    together = ranker.rank(queries, 6)
    for query, found in zip(queries, together, strict=True):
        (alone,) = ranker.rank([query], 6)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5, rtol=1e-4)
        assert not {*found.items.tolist()} & {*query.history, *query.hidden}
        assert found.items.size == 6 and (np.diff(found.scores) <= 0).all()
        assert query.only is None or {*found.items.tolist()} <= {*query.only}
        if query.user is not None:
            assert not {*found.items.tolist()} & {*ranker.known(query.user).tolist()}


@pytest.mark.parametrize("name", ["stacked", "dreamrec", "diff-poi"])
def test_lists_of_rows_may_repeat_what_a_person_has(name: str, policy_of: Callable[..., Any]) -> None:
    policy, data = policy_of(name)
    ranker = Ranker(policy, data)
    history = tuple(map(int, ranker.history(3)))
    queries = [Query(3), Query(3, repeats=True), Query(history=history, repeats=True, hidden=history[:1])]
    scores, hidden = ranker.scores(queries)
    assert hidden[0].sum() == len(history) and not hidden[1].any()
    assert hidden[2].nonzero().flatten().tolist() == [history[0]]
    _, again, _ = ranker.rank(queries, data.num_items)
    assert {*again.items.tolist()} == {*range(data.num_items)}
    np.testing.assert_allclose(again.scores, scores[1].sort(descending=True).values, atol=1e-5, rtol=1e-4)


def test_a_list_of_a_set_of_items_repeats_nothing(policy_of: Callable[..., Any]) -> None:
    with pytest.raises(NoRepeats, match="cannot repeat what a person has: it is a set of items"):
        Ranker(*policy_of("diffrec")).rank([Query(3, repeats=True)], 5)


@pytest.mark.parametrize("name", ["linear", "spectral"])
def test_a_person_without_items_has_the_popular_ones(name: str, policy_of: Callable[..., Any]) -> None:
    policy, data = policy_of(name)
    ranker = Ranker(policy, data)
    (found,) = ranker.rank([Query()], 6)
    count = np.zeros(data.num_items)
    for split in ("train", "valid", "test"):
        np.add.at(count, data.split(split).items, 1)
    assert found.scores[0] == 1.0 and found.scores == pytest.approx(count[found.items] / count.max())
    assert sorted(count[found.items]) == sorted(count)[-6:]
    assert ranker.chain(Query(), 6, 1)[-1][1].items.tolist() == found.items.tolist()


def test_a_list_ends_where_no_item_is_left(policy_of: Callable[..., Any]) -> None:
    ranker = Ranker(*policy_of("diffrec"))
    short, none = ranker.rank([Query(history=tuple(range(27))), Query(history=tuple(range(30)))], 10)
    assert {*short.items.tolist()} == {27, 28, 29} and short.scores.size == 3
    assert none.items.size == 0 == none.scores.size


def test_a_model_of_known_users_refuses_a_history(policy_of: Callable[..., Any]) -> None:
    ranker = Ranker(*policy_of("recdiff"))
    with pytest.raises(NoHistory, match="backbone 'recdiff' ranks for the users that it was trained on"):
        ranker.rank([Query(0), Query(history=(1,))], 3)


@pytest.mark.parametrize("name", backbone_names())
def test_the_chain_ends_with_the_list(name: str, policy_of: Callable[..., Any]) -> None:
    policy, data = policy_of(name, num_steps=5 if name != "linear" else 3)
    ranker = Ranker(policy, data)
    chain = ranker.chain(Query(4), 5, most=2)
    assert [done for done, _, _ in chain][-1] == policy.num_steps and len(chain) == 2
    (own,) = ranker.rank([Query(4)], 5)
    _, ranked, scores = chain[-1]
    assert ranked.items.tolist() == own.items.tolist()
    np.testing.assert_allclose(ranked.scores, own.scores, atol=1e-6, rtol=1e-5)
    assert torch.isinf(scores).nonzero().flatten().tolist() == ranker.known(4).tolist()


def test_a_history_is_in_order_of_time_and_names_an_item_once(policy_of: Callable[..., Any]) -> None:
    for name in ("diffrec", "dreamrec", "diff-poi"):
        policy, data = policy_of(name)
        ranker = Ranker(policy, data)
        events = np.concatenate([data.split(split).of(2) for split in ("train", "valid", "test")])
        found = ranker.history(2)
        assert sorted(found.tolist()) == ranker.known(2).tolist()
        if data.has_rows:
            latest = {int(item): at for at, item in enumerate(events)}
            assert found.tolist() == sorted(latest, key=latest.__getitem__)
