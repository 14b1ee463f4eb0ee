"""Tests of lists and metrics: ties, published formulae, an independent oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
import pytrec_eval
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refit_env.evaluation.metrics import (
    coverage_at_k,
    discounts,
    gini,
    ideal_dcg,
    ndcg_at_k,
    recall_at_k,
    top_k,
)

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]

few_levels = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 40)),
    elements=st.sampled_from([-math.inf, -1.0, 0.0, -0.0, 0.5, 1.0, math.inf]),
)


def sorted_lists(scores: np.ndarray, k: int) -> np.ndarray:
    """Return lists by a stable sort: ties keep the order of the ids."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@given(few_levels, st.data())
@settings(max_examples=200, deadline=None)
def test_ties_go_to_the_lower_id(scores: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, scores.shape[1]))
    assert np.array_equal(top_k(torch.from_numpy(scores), k).numpy(), sorted_lists(scores, k))


@given(few_levels, st.data())
@settings(max_examples=100, deadline=None)
def test_hidden_items_come_last(scores: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, scores.shape[1]))
    hidden = data.draw(hnp.arrays(np.bool_, scores.shape))
    lists = top_k(torch.from_numpy(scores), k, torch.from_numpy(hidden))
    ids = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    below = np.where(hidden, 0.0, -scores)  # hidden items come last, by id, after items with score -inf
    assert np.array_equal(lists.numpy(), np.lexsort((ids, below, hidden), axis=1)[:, :k])


@pytest.mark.parametrize("device", DEVICES)
def test_lists_of_a_batch_are_the_lists_of_its_users(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 50, (64, 300), generator=generator).float().to(device)
    lists = top_k(scores, 20)
    assert torch.equal(lists, torch.cat([top_k(row[None], 20) for row in scores]))
    assert np.array_equal(lists.cpu().numpy(), sorted_lists(scores.cpu().numpy(), 20))


def test_the_scores_are_not_changed() -> None:
    scores = torch.zeros(3, 9)
    top_k(scores, 4, torch.ones(3, 9, dtype=torch.bool))
    assert torch.equal(scores, torch.zeros(3, 9))


@pytest.mark.parametrize("hidden", [None, torch.tensor([[False, True, False], [False, False, False]])])
def test_nan_is_refused_at_any_position(hidden: torch.Tensor | None) -> None:
    scores = torch.tensor([[3.0, math.nan, 1.0], [1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match=r"NaN \(first at row 0, item 1\)"):
        top_k(scores, 1, hidden)


def test_infinities_are_numbers() -> None:
    scores = torch.tensor([[math.inf, -math.inf, 0.0]])  # their sum is NaN
    assert top_k(scores, 3).tolist() == [[0, 2, 1]]


@pytest.mark.parametrize("k", [0, 4, -1])
def test_a_length_outside_the_catalogue_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.3"):
        top_k(torch.zeros(1, 3), k)


def hand_example() -> tuple[torch.Tensor, torch.Tensor]:
    """Return lists and relevant items of four users over 40 items; the lists are 0, 1, 2 ... 19.

    A: 12 relevant, hits at ranks 1, 3, 4. B: 2 relevant, hits at 2 and 15. C: relevant, never hit.
    D: 3 relevant, hits at 1, 2, 3.
    """
    relevant = torch.zeros(4, 40, dtype=torch.bool)
    relevant[0, [0, 2, 3, *range(30, 39)]] = True
    relevant[1, [1, 14]] = True
    relevant[2, [39]] = True
    relevant[3, [0, 1, 2]] = True
    return torch.arange(20).expand(4, 20), relevant


def test_hand_example() -> None:
    lists, relevant = hand_example()
    # Recall divides by all relevant items: A has 3 of 12 hits in ten places, not 3 of 10.
    assert recall_at_k(lists[:, :10], relevant).tolist() == pytest.approx([3 / 12, 1 / 2, 0, 1])
    assert recall_at_k(lists[:, :3], relevant).tolist() == pytest.approx([2 / 12, 1 / 2, 0, 1])
    # A at 10: DCG 1 + 1/log2(4) + 1/log2(5) = 1.930677, ideal of ten hits 4.543559: .424926.
    # B at 10: 1/log2(3) = .630930 over 1 + .630930: .386853. At 20, rank 15 adds 1/log2(16) = .25: .540140.
    assert ndcg_at_k(lists[:, :10], relevant).tolist() == pytest.approx([0.424926, 0.386853, 0, 1], abs=1e-6)
    assert ndcg_at_k(lists, relevant)[1].item() == pytest.approx(0.540140, abs=1e-6)


@given(
    hnp.arrays(np.float32, (5, 30), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
    hnp.arrays(np.bool_, (5, 30)),
    st.sampled_from([1, 3, 10, 20]),
)
@settings(max_examples=60, deadline=None)
def test_metrics_equal_trec_eval(scores: np.ndarray, relevant: np.ndarray, k: int) -> None:
    items = scores.shape[1]
    # trec_eval breaks ties by the greater name, so names descend as ids ascend.
    names = [f"{items - i:03d}" for i in range(items)]
    run = {str(u): dict(zip(names, row.tolist(), strict=True)) for u, row in enumerate(scores)}
    qrel = {str(u): {n: int(r) for n, r in zip(names, row, strict=True)} for u, row in enumerate(relevant)}
    measured = pytrec_eval.RelevanceEvaluator(qrel, {f"recall.{k}", f"ndcg_cut.{k}"}).evaluate(run)
    lists = top_k(torch.from_numpy(scores), k)
    recall = recall_at_k(lists, torch.from_numpy(relevant))
    ndcg = ndcg_at_k(lists, torch.from_numpy(relevant))
    for u in range(len(scores)):
        assert recall[u].item() == pytest.approx(measured[str(u)][f"recall_{k}"], abs=1e-6)
        assert ndcg[u].item() == pytest.approx(measured[str(u)][f"ndcg_cut_{k}"], abs=1e-6)


def test_ideal_dcg_is_the_dcg_of_an_ideal_list() -> None:
    assert ideal_dcg(torch.tensor([0, 1, 2, 99]), 2).tolist() == pytest.approx([1, 1, 1.63093, 1.63093])
    assert discounts(2).tolist() == pytest.approx([1, 0.63093])


def test_coverage_and_gini() -> None:
    lists = torch.tensor([[0, 1], [0, -1]])  # -1 marks an empty position
    assert coverage_at_k(lists, 4) == 0.5
    # Counts 0, 0, 1, 2: (2 * (1*0 + 2*0 + 3*1 + 4*2) - 5 * 3) / (4 * 3) = 7 / 12.
    assert gini(lists, 4) == pytest.approx(7 / 12)
    assert gini(torch.tensor([[3]]), 4) == pytest.approx(3 / 4)
    assert gini(torch.tensor([[-1]]), 4) == 0.0


@given(hnp.arrays(np.int64, (6, 3), elements=st.integers(0, 9)))
@settings(max_examples=50, deadline=None)
def test_gini_is_half_the_relative_mean_difference(lists: np.ndarray) -> None:
    counts = np.bincount(lists.ravel(), minlength=10)
    difference = np.abs(counts[:, None] - counts[None, :]).mean()
    assert gini(torch.from_numpy(lists), 10) == pytest.approx(difference / (2 * counts.mean()))
