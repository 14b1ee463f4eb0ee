"""Metrics beyond accuracy against values by hand, and against plain loops over Python lists."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch

from refit_env.data import load_dataset
from refit_env.data.dataset import Dataset
from refit_env.data.interactions import Interactions
from refit_env.evaluation.beyond_accuracy import beyond_accuracy, beyond_names, means_of
from refit_env.evaluation.catalogue import catalogue_of, clusters
from refit_env.evaluation.ranking import Evaluation, evaluate

GENRES = np.array(["drama", "drama|war", "war", "", "comedy"])


def shop(genres: bool = True) -> Dataset:
    """Four users and five items: item 0 has three train users, 1 two, 2 one, 3 and 4 none."""
    train = Interactions.from_pairs([0, 0, 1, 1, 2, 3], [0, 1, 0, 2, 0, 1], num_users=4, num_items=5)
    valid = Interactions.from_pairs([0], [4], num_users=4, num_items=5)
    test = Interactions.from_pairs([0, 1, 2, 3], [2, 3, 1, 0], num_users=4, num_items=5)
    features = {"genres": GENRES} if genres else None
    return Dataset("shop", "cf", train, valid, test, time_ordered=False, item_features=features)


def by_hand(lists: list[list[int]]) -> Evaluation:
    """The evaluation of given lists of two items on the shop."""
    users = np.arange(4)
    ndcg = np.array([1.0, 0.5, 0.0, 0.0])
    return Evaluation(users, {"ndcg@2": ndcg, "recall@2": ndcg}, 4, np.array(lists), 5)


LISTS = [[2, 3], [3, 1], [3, 2], [3, 2]]


def test_golden_values_of_each_users_list() -> None:
    found = beyond_accuracy(by_hand(LISTS), shop())
    users = found.per_user
    # Train counts are 3, 2, 1, 0, 0 of four users; the head is 80 % of six interactions: items 0 and 1.
    assert users["arp@2"].tolist() == [0.5, 1.0, 0.5, 0.5]
    assert users["aplt@2"].tolist() == [1.0, 0.5, 1.0, 1.0]
    assert users["novelty@2"].tolist() == [2.0, 1.5, 2.0, 2.0]  # -log2 of 1/4, 2/4, 1/4 and 1/4 for none
    # Item 3 has no genre: its vector is 0, and the distance of the pair is 1.
    assert users["ild@2"].tolist() == [1.0, 1.0, 1.0, 1.0]
    # Hits: user 0 item 2 at rank 1, popularity rank 3: (5 - 3) / 5 over K = 2. User 1 item 3, rank 4.
    assert users["serendipity@2"].tolist() == pytest.approx([0.2, 0.3, 0.0, 0.0])


def test_golden_intra_list_diversity_of_genres() -> None:
    found = beyond_accuracy(by_hand([[0, 1], [0, 2], [1, 2], [0, 4]]), shop(), names=["ild"])
    half = 1 - 1 / math.sqrt(2)  # drama against drama and war
    assert found.per_user["ild@2"].tolist() == pytest.approx([half, 1.0, half, 1.0], abs=1e-6)


def test_golden_calibration() -> None:
    # User 2 has one drama item; a list of drama and of half drama, half war has q = (3/4, 1/4).
    found = beyond_accuracy(by_hand([[0, 1], [0, 1], [0, 1], [0, 1]]), shop(), names=["calibration"])
    smooth = 0.99 * 0.75 + 0.01
    assert found.per_user["calibration@2"][2] == pytest.approx(-math.log(smooth), abs=1e-6)
    assert (found.per_user["calibration@2"] >= 0).all()


def test_golden_values_of_all_lists() -> None:
    means = beyond_accuracy(by_hand(LISTS), shop()).means
    counts = [0, 1, 3, 4, 0]
    assert means["coverage@2"] == pytest.approx(3 / 5)
    assert means["gini@2"] == pytest.approx(
        sum((2 * r - 6) * c for r, c in enumerate(sorted(counts), 1)) / 40
    )
    entropy = -sum(c / 8 * math.log(c / 8) for c in counts if c) / math.log(5)
    assert means["entropy@2"] == pytest.approx(entropy)
    # Of the six pairs of lists three are the same two items, and three share one item.
    assert means["personalization@2"] == pytest.approx(1 - (2 + 2 + 2 + 1 + 1 + 1) / (2 * 6))
    # Of four times items 0 and 1, five are masked: 3 candidates; of the others two of twelve.
    head, tail = 1 / 3, 7 / (4 * 3 - 2)
    spread = np.std([head, tail]) / np.mean([head, tail])
    assert means["pop_rsp@2"] == pytest.approx(spread)
    # Relevant: item 2, 3 (tail) and 1, 0 (head); hits are items 2 and 3.
    assert means["pop_reo@2"] == pytest.approx(np.std([0.0, 1.0]) / np.mean([0.0, 1.0]))
    assert means["user_gap@2"] == pytest.approx(abs(1.0 - 0.5 / 3))  # user 0 is the most active fifth


def test_an_empty_end_of_a_list_does_not_count() -> None:
    found = beyond_accuracy(by_hand([[2, -1], [3, 1], [-1, -1], [3, 2]]), shop())
    assert found.per_user["arp@2"].tolist() == [1.0, 1.0, 0.0, 0.5]
    assert found.per_user["ild@2"][0] == found.per_user["ild@2"][2] == 0.0
    assert all(math.isfinite(value) for value in found.means.values())


def test_metrics_equal_plain_loops_on_real_lists() -> None:
    data = load_dataset("synthetic")
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(data.num_users, data.num_items, generator=generator)
    result = evaluate(lambda users: scores[users], data)
    found = beyond_accuracy(result, data)
    lists = [[int(i) for i in row if i >= 0] for row in result.lists]
    train = data.train.csr.toarray()
    counts = train.sum(0)
    held = Counter(item for row in lists for item in row)
    assert found.means["arp@20"] == pytest.approx(
        np.mean([np.mean([counts[i] for i in row]) for row in lists])
    )
    assert found.means["novelty@20"] == pytest.approx(
        np.mean([np.mean([-math.log2(max(counts[i], 1) / len(train)) for i in row]) for row in lists])
    )
    pairs = [len(set(a) & set(b)) / 20 for a, b in combinations(lists, 2)]
    assert found.means["personalization@20"] == pytest.approx(1 - np.mean(pairs))
    share = np.array(list(held.values())) / sum(held.values())
    assert found.means["entropy@20"] == pytest.approx(-(share * np.log(share)).sum() / math.log(400))
    vectors = catalogue_of(data).vectors
    ild = [np.mean([1 - vectors[a] @ vectors[b] for a, b in combinations(row, 2)]) for row in lists]
    assert found.means["ild@20"] == pytest.approx(np.mean(ild), abs=1e-5)


def test_item_vectors_without_genres_have_the_cosines_of_the_columns() -> None:
    vectors = catalogue_of(shop(genres=False)).vectors  # three factors of a matrix of rank three
    columns = shop().train.csr.toarray()[:, :3]
    unit = columns / np.linalg.norm(columns, axis=0)
    assert vectors[:3] @ vectors[:3].T == pytest.approx(unit.T @ unit, abs=1e-5)
    assert not vectors[3:].any()


def test_the_source_of_the_features_is_stated() -> None:
    assert catalogue_of(shop()).source == "3 item genres"
    assert catalogue_of(shop(genres=False)).source.startswith("no item categories: vectors are 3 factors")


def test_groups_and_tastes_are_distributions() -> None:
    for data in (shop(), load_dataset("synthetic")):
        known = catalogue_of(data)
        assert known.groups.sum(1) == pytest.approx(np.ones(data.num_items), abs=1e-5)
        assert known.taste.sum(1) == pytest.approx(np.ones(data.num_users), abs=1e-5)


def test_clusters_find_separate_groups() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 20)
    points = np.array([[0, 0], [9, 0], [0, 9]], np.float32)[truth] + rng.normal(0, 0.1, (60, 2))
    labels = clusters(points.astype(np.float32), 3)
    assert len({(t, label) for t, label in zip(truth, labels, strict=True)}) == 3


def test_further_metrics_are_measured_once_they_are_named() -> None:
    data = load_dataset("synthetic")
    result = evaluate(lambda users: torch.ones(users.numel(), data.num_items), data)
    plain, more = means_of(result, data, "test"), means_of(result, data, "test", beyond_names(result))
    assert "novelty@20" not in plain and more.items() >= plain.items() and "novelty@20" in more
    assert more["gini@20"] == plain["gini@20"] and more["coverage@20"] == plain["coverage@20"]
