"""Every reward on five users, computed by hand.

Lists of K = 2 from the scores below (train relevance: nothing is masked):

user 0: 0 2    has 0 1      one hit, at rank 1
user 1: 3 1    has 0 1 2    one hit, at rank 2
user 2: 2 4    has 1 2      one hit, at rank 1 (items 2, 4 and 5 tie: the lower ids)
user 3: 3 4    has 3 4      two hits
user 4: 0 1    has 3        none (all scores tie)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log2, sqrt
from typing import Any

import numpy as np
import pytest
import torch

from refit_env.data.dataset import Dataset
from refit_env.rewards import Reward, make_relevance, make_reward

SCORES = torch.tensor(
    [
        [0.9, 0.1, 0.8, 0.0, 0.0, 0.0],
        [0.0, 0.5, 0.0, 0.9, 0.0, 0.2],
        [0.0, 0.0, 0.3, 0.0, 0.3, 0.3],
        [0.1, 0.0, 0.0, 0.9, 0.8, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ]
)
USERS = torch.arange(5)
LISTS = [[0, 2], [3, 1], [2, 4], [3, 4], [0, 1]]
OTHER_LISTS = torch.tensor([[0, 1], [0, 1], [0, 2], [3, 4], [3, 0]])

N_K = [1 / 2, 1 / 2, 1 / 2, 1.0, 0.0]
# The lists' hits in the neighbours' items, over two neighbours and K = 2:
# 0: in 1's items 0 and 2, in 2's item 2: (2 + 1) / 2 / 2. 1: item 1 in 0's and in 2's. 2: item 2 in 1's.
# 3: item 3 in 4's, and no second neighbour. 4: nothing in 3's.
N_SIM_K = [3 / 4, 1 / 2, 1 / 4, 1 / 4, 0.0]
SECOND = 1 / log2(3)  # DCG's weight of rank 2: .630930
IDEAL = 1 + SECOND


@pytest.fixture
def make(five: Dataset) -> Callable[..., Reward]:
    relevance = make_relevance("train", five)
    return lambda spec, **kwargs: make_reward(spec, five, relevance, k=2, **kwargs)


def check(reward: Reward, expected: list[float]) -> dict[str, list[float]]:
    """Compare the rewards; their terms."""
    result = reward(SCORES, USERS)
    assert result.value.tolist() == pytest.approx(expected, abs=1e-6)
    assert result.lists.tolist() == LISTS
    return {name: value.tolist() for name, value in result.terms.items()}


def terms_of(reward: Reward) -> dict[str, list[float]]:
    return {name: value.tolist() for name, value in reward(SCORES, USERS).terms.items()}


def test_lists(make: Callable[..., Reward]) -> None:
    assert make("r_ra").top_k(SCORES, USERS).tolist() == LISTS


def test_racs(make: Callable[..., Reward]) -> None:
    reward = make("racs", neighbors=2)
    terms = check(reward, [0.5 * own + 0.5 * similar for own, similar in zip(N_K, N_SIM_K, strict=True)])
    assert terms["n_k"] == pytest.approx(N_K)
    assert terms["n_sim_k"] == pytest.approx(N_SIM_K)
    assert reward.term_names == ("n_k", "n_sim_k")


# NDCG of the target's list in each neighbour's items, over two neighbours:
# 0: all of 1's (1), item 2 of 2's at rank 2. 1: item 1 of both at rank 2. 2: item 2 of 1's at rank 1, none of
# 0's. 3: 4's only item at rank 1, and no second neighbour. 4: none of 3's.
NDCG_SIM = [(1 + SECOND / IDEAL) / 2, SECOND / IDEAL, 0.5 / IDEAL, 0.5, 0.0]


def test_racs_ndcg(make: Callable[..., Reward]) -> None:
    own = make("ndcg")(SCORES, USERS).value.tolist()
    assert make("racs_ndcg", alpha=1.0)(SCORES, USERS).value.tolist() == pytest.approx(own)
    reward = make("racs_ndcg", neighbors=2, alpha=0.25)
    terms = check(reward, [0.25 * a + 0.75 * b for a, b in zip(own, NDCG_SIM, strict=True)])
    assert terms["ndcg"] == pytest.approx(own) and terms["ndcg_sim"] == pytest.approx(NDCG_SIM)


def test_racs_ndcg_without_what_everyone_has(make: Callable[..., Reward]) -> None:
    everyone = [2 / IDEAL / 5, 3 / IDEAL / 5, 2 / IDEAL / 5, (1 / IDEAL + 1) / 5, 1 / IDEAL / 5]
    less = [everyone[first] + SECOND * everyone[second] for first, second in LISTS]
    check(
        make("racs_ndcg", neighbors=2, alpha=0.0, excess=True),
        [similar - usual for similar, usual in zip(NDCG_SIM, less, strict=True)],
    )


@pytest.mark.parametrize("name", ["racs", "racs_ndcg"])
def test_similar_users_by_factors(name: str, make: Callable[..., Reward]) -> None:
    by_rows = make(name, neighbors=1, alpha=0.0)(SCORES, USERS).value  # of 1's two, 0 has the lower id
    by_factors = make(name, neighbors=1, alpha=0.0, neighbors_by="factors")(SCORES, USERS).value
    keep = [0, 2, 3, 4]  # 4 of 6 factors of rank-5 rows: the ties of user 1 are broken
    assert by_factors[keep].tolist() == pytest.approx(by_rows[keep].tolist())
    with pytest.raises(ValueError, match=r"neighbors_by of reward 'racs.*' 'model' needs a pretrained model"):
        make(name, neighbors_by="model")


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_alpha_weighs_the_terms_and_leaves_them(make: Callable[..., Reward], alpha: float) -> None:
    reward = make("racs", neighbors=2, alpha=alpha)
    terms = check(
        reward, [alpha * own + (1 - alpha) * similar for own, similar in zip(N_K, N_SIM_K, strict=True)]
    )
    assert terms["n_sim_k"] == pytest.approx(N_SIM_K)


def test_one_neighbour(make: Callable[..., Reward]) -> None:
    # User 1's nearest is 0, by a tie with 2. 0: 1 has items 0 2. 1: 0 has 1. 2: 1 has 2. 3: 4 has 3.
    reward = make("racs", neighbors=1)
    terms = terms_of(reward)
    assert terms["n_sim_k"] == pytest.approx([1.0, 0.5, 0.5, 0.5, 0.0])


def test_racs_with_discounted_ranks(make: Callable[..., Reward]) -> None:
    reward = make("racs", neighbors=2, discount="log")
    terms = terms_of(reward)
    first, second = 1 / IDEAL, SECOND / IDEAL  # .613147, .386853
    assert terms["n_k"] == pytest.approx([first, second, first, 1.0, 0.0], abs=1e-6)
    # Of two neighbours have: 0: item 0 one, item 2 both. 1: item 1 both. 2: item 2 one. 3: item 3 one.
    expected = [first / 2 + second, second, first / 2, first / 2, 0.0]
    assert terms["n_sim_k"] == pytest.approx(expected, abs=1e-6)


def test_neighbor_lists_use_the_neighbours_lists(make: Callable[..., Reward]) -> None:
    reward = make("racs", neighbors=2, variant="neighbor_lists")
    reward.set_lists(torch.tensor(LISTS))
    # Own hits over K are N_K; averaged over the neighbours 1 2; 0 2; 1 0; 4; 3:
    similar = [0.5, 0.5, 0.5, 0.0, 0.5]
    terms = check(reward, [0.5 * own + 0.5 * other for own, other in zip(N_K, similar, strict=True)])
    assert terms["n_sim_k"] == pytest.approx(similar)
    # Another table: own hits over K 1, 1, 1/2, 1, 1/2. 0: (1 + 1/2) / 2; 1: the same; 2: 1; 3: 1/4; 4: 1/2.
    reward.set_lists(OTHER_LISTS)
    terms = terms_of(reward)
    assert terms["n_sim_k"] == pytest.approx([0.75, 0.75, 1.0, 0.25, 0.5])


def test_neighbor_lists_start_as_a_nearest_neighbour_recommender(make: Callable[..., Reward]) -> None:
    reward = make("racs", neighbors=2, variant="neighbor_lists")
    # Neighbours' items, by how many of the two have them, then by popularity (0: 2, 1: 3, 2: 2, 3: 2, 4: 1):
    # 0: 1 and 2 both have 1 2; 1: 0 has 0 1, 2 has 1 2: 1 first, then 0 (as popular as 2);
    # 2: both have 0 1: 1 first; 3: 3, then the most popular, 1; 4: 3 4.
    assert reward.context.reference_lists(2).tolist() == [[1, 2], [1, 0], [1, 0], [3, 1], [3, 4]]
    terms = terms_of(reward)
    # Own hits over K: 1/2, 1, 1/2, 1/2, 1/2. 0: (1 + 1/2) / 2; 1: (1/2 + 1/2) / 2; 2: as 0; 3 and 4: 1/4.
    assert terms["n_sim_k"] == pytest.approx([0.75, 0.5, 0.75, 0.25, 0.25])


def cosine(user: int, dot: float, items: int) -> float:
    """dot / (|scores| sqrt(items))."""
    return dot / (float(np.linalg.norm(SCORES[user].numpy())) * sqrt(items))


GOLDEN: dict[str, tuple[Mapping[str, Any], list[float]]] = {
    "r_ra": ({}, N_K),
    "precision": ({}, N_K),
    "recall": ({}, [1 / 2, 1 / 3, 1 / 2, 1.0, 0.0]),
    "reciprocal_rank": ({}, [1.0, 1 / 2, 1.0, 1.0, 0.0]),
    # Every user but 4 has at least two items, so that the DCG of a perfect list is 1 + .630930.
    "ndcg": ({}, [1 / IDEAL, SECOND / IDEAL, 1 / IDEAL, 1.0, 0.0]),
    # Dot products with the items that they have: .9 + .1; .5; .3; .9 + .8; 0.
    "r_cos": ({}, [cosine(0, 1.0, 2), cosine(1, 0.5, 3), cosine(2, 0.3, 2), cosine(3, 1.7, 2), 0.0]),
    # Popularity 2 3 2 2 1 0 of 5 users; -log2(p) / log2(5) is .569323, .317394, .569323, .569323, 1, 1.
    "novelty": ({}, [0.569323, 0.443358, 0.784662, 0.784662, 0.443358]),
    # By popularity 1 0 2 3 4 5; before them 0 3 5 7 9 10 of 10 interactions: 4 and 5 are beyond 80 %.
    "long_tail": ({}, [0.0, 0.0, 1 / 2, 1 / 2, 0.0]),
    # (3 / popularity)^(1/2), at most 1.5, over 1.5: item 0, 2, 3: .816497; item 1: 2/3; item 4: 1.
    "unbiased_hits": ({"cap": 1.5}, [0.408248, 1 / 3, 0.408248, 0.908248, 0.0]),
    # Common users: items 0 and 2 share one of 2 and 2; 3 and 1, as 2 and 4, none; 3 and 4 one of 2 and 1;
    # 0 and 1 two of 2 and 3.
    "diversity": ({}, [1 / 2, 1.0, 1.0, 1 - 1 / sqrt(2), 1 - 2 / sqrt(6)]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(make: Callable[..., Reward], name: str) -> None:
    kwargs, expected = GOLDEN[name]
    check(make(name, **kwargs), expected)


def test_coverage(make: Callable[..., Reward]) -> None:
    reward = make("coverage")
    reward.set_lists(OTHER_LISTS)
    # Other users whose list holds the item: 0: item 0 three, item 2 one. 1: item 3 two, item 1 one.
    # 2: item 2 none, item 4 one. 3: item 3 one, item 4 none. 4: item 0 three, item 1 two.
    check(
        reward,
        [(1 / 4 + 1 / 2) / 2, (1 / 3 + 1 / 2) / 2, (1 + 1 / 2) / 2, (1 / 2 + 1) / 2, (1 / 4 + 1 / 3) / 2],
    )


def test_coverage_of_all_users_is_the_number_of_distinct_items(make: Callable[..., Reward]) -> None:
    reward = make("coverage")
    reward.set_lists(OTHER_LISTS)
    scores = torch.zeros(5, 6).scatter(1, OTHER_LISTS, 1.0)
    assert float(reward(scores, USERS).value.sum()) * 2 == pytest.approx(OTHER_LISTS.unique().numel())


def test_mix(make: Callable[..., Reward]) -> None:
    reward = make({"racs": 2.0, "novelty": -0.5}, neighbors=2)
    racs = [0.5 * own + 0.5 * similar for own, similar in zip(N_K, N_SIM_K, strict=True)]
    terms = check(reward, [2 * r - 0.5 * n for r, n in zip(racs, GOLDEN["novelty"][1], strict=True)])
    assert tuple(terms) == reward.term_names == ("racs", "racs/n_k", "racs/n_sim_k", "novelty")
    assert terms["racs/n_sim_k"] == pytest.approx(N_SIM_K)
    assert [weight for _, weight in reward.parts()] == [2.0, -0.5]
