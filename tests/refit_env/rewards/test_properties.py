"""What holds for every reward: batch equals per user, torch equals NumPy, list rewards are additive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refit_env.data import load_dataset
from refit_env.data.dataset import Dataset
from refit_env.neighbors import nearest_users
from refit_env.rewards import MODES, ListReward, Relevance, Reward, make_relevance, make_reward, reward_names

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]

tables = hnp.arrays(
    np.int8,
    st.tuples(st.integers(2, 6), st.integers(4, 9)),
    elements=st.sampled_from([-1, -1, 0, 0, 0, 1, 2]),
)
UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
many = settings(max_examples=40, suppress_health_check=UNCHECKED)


ModelFor = Callable[[Dataset], Path]


@pytest.fixture(scope="module")
def synthetic() -> Dataset:
    return load_dataset("synthetic")


def every_reward(dataset: Dataset, relevance: Relevance, **kwargs: object) -> dict[str, Reward]:
    """All registered rewards and the variants of RACS."""
    names = reward_names(relevance.mode, rows=False, dislikes=False, outside=False)
    if dataset.name != "synthetic":
        names.remove("learned")  # it needs validation items of several users
    rewards = {name: make_reward(name, dataset, relevance, **kwargs) for name in names}  # type: ignore[arg-type]
    if relevance.mode == "none":
        return rewards
    for name, settings_ in {
        "racs log": {"discount": "log"},
        "racs neighbor_lists": {"variant": "neighbor_lists"},
        "racs train": {"neighbor_relevance": "train"},
    }.items():
        rewards[name] = make_reward("racs", dataset, relevance, **kwargs, **settings_)  # type: ignore[arg-type]
    rewards["mix"] = make_reward({"racs": 1.0, "ndcg": 0.3, "diversity": 0.1}, dataset, relevance, **kwargs)  # type: ignore[arg-type]
    return rewards


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_has_the_rewards_of_its_users(synthetic: Dataset, model_for: ModelFor, mode: str) -> None:
    relevance = make_relevance(mode, synthetic)
    users = torch.from_numpy(relevance.users[:24]).repeat_interleave(2)  # two episodes of each
    scores = torch.rand(48, synthetic.num_items, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    for name, reward in every_reward(synthetic, relevance, model=model_for(synthetic)).items():
        whole, terms, lists = reward(scores, users)
        assert torch.equal(lists, reward.top_k(scores, users)), name
        assert whole.dtype == torch.float32 and whole.shape == (48,), name
        assert tuple(terms) == reward.term_names, name
        assert all(term.dtype == torch.float32 and term.shape == (48,) for term in terms.values()), name
        alone = torch.cat([reward(scores[n : n + 1], users[n : n + 1]).value for n in range(48)])
        assert torch.equal(whole, alone), name
        assert torch.equal(whole[order], reward(scores[order], users[order]).value), name
        assert torch.equal(whole, reward(scores, users, lists, finite=True).value), name


@pytest.mark.parametrize("mode", MODES)
def test_single_rewards_are_normalised(synthetic: Dataset, model_for: ModelFor, mode: str) -> None:
    relevance = make_relevance(mode, synthetic)
    users = torch.from_numpy(relevance.users[:64])
    best = torch.from_numpy(relevance.relevant[relevance.users[:64]].toarray())
    for scores in (best, -best, torch.rand(best.shape, generator=torch.Generator().manual_seed(0))):
        for name, reward in every_reward(synthetic, relevance, model=model_for(synthetic)).items():
            if name != "mix":
                least = {"r_cos": -1 - 1e-6, "calibration": -5.0, "exposure_fairness": -100.0}.get(name, 0.0)
                value = reward(scores, users).value
                most = 100.0 if name == "marginal_calibration" else 1.0
                assert bool((value >= least).all()) and bool((value <= most + 1e-6).all()), name
    for name in {"ndcg", "r_cos", "reciprocal_rank"} & set(reward_names(mode)):
        assert torch.allclose(make_reward(name, synthetic, relevance)(best, users).value, torch.ones(64)), (
            name
        )


@pytest.mark.parametrize("mode", MODES)
def test_list_rewards_are_discount_times_gains(synthetic: Dataset, model_for: ModelFor, mode: str) -> None:
    relevance = make_relevance(mode, synthetic)
    users = torch.from_numpy(relevance.users[:32])
    scores = torch.rand(32, synthetic.num_items, generator=torch.Generator().manual_seed(0))
    for name, reward in every_reward(synthetic, relevance, model=model_for(synthetic)).items():
        if not isinstance(reward, ListReward) or name == "racs neighbor_lists":
            continue
        lists = reward.top_k(scores, users)
        assert reward.discount.shape == (20,) and bool((reward.discount.diff() <= 0).all())
        by_gains = (reward.gains(users).gather(1, lists) * reward.discount).sum(1)
        assert torch.allclose(by_gains, reward(scores, users).value, atol=1e-6), name
        shorter = reward.term_gains_at(users, lists)
        longer = ListReward.term_gains_at(reward, users, lists)
        assert all(torch.equal(shorter[term], longer[term]) for term in shorter), name


def test_neighbor_lists_gain_the_target_nothing(synthetic: Dataset) -> None:
    relevance = make_relevance("holdout", synthetic)
    users = torch.from_numpy(relevance.users[:8])
    reward = make_reward("racs", synthetic, relevance, variant="neighbor_lists", alpha=0.4)
    assert isinstance(reward, ListReward)
    own = torch.from_numpy(relevance.relevant[relevance.users[:8]].toarray())
    assert torch.allclose(reward.gains(users), 0.4 * own)


def numpy_racs(relevance: Relevance, scores: np.ndarray, k: int, neighbors: int, alpha: float) -> np.ndarray:
    """RACS by loops over users, lists and neighbours."""
    relevant, found = relevance.relevant.toarray(), nearest_users(relevance.visible, neighbors)[0]
    out = []
    for user, row in zip(relevance.users, scores, strict=True):
        row = row.copy()
        allowed = np.ones(row.size, dtype=bool)
        if relevance.hidden is not None:
            allowed = relevance.hidden[user].toarray().ravel() == 0
        items = [i for i in np.argsort(np.where(allowed, -row, np.inf), kind="stable")[:k] if allowed[i]]
        own = sum(relevant[user, i] for i in items) / k
        similar = sum(relevant[v, i] for v in found[user] if v >= 0 for i in items) / neighbors / k
        out.append(alpha * own + (1 - alpha) * similar)
    return np.array(out)


def numpy_ndcg(relevance: Relevance, scores: np.ndarray, k: int) -> np.ndarray:
    """NDCG by a loop."""
    out = []
    for user, row in zip(relevance.users, scores, strict=True):
        truth = set(relevance.relevant[user].indices.tolist())
        hidden = set() if relevance.hidden is None else set(relevance.hidden[user].indices.tolist())
        items = [i for i in np.argsort(-row, kind="stable") if i not in hidden][:k]
        gained = sum(1 / np.log2(rank + 2) for rank, i in enumerate(items) if i in truth)
        out.append(gained / sum(1 / np.log2(rank + 2) for rank in range(min(k, len(truth)))))
    return np.array(out)


def numpy_cosine(relevance: Relevance, scores: np.ndarray) -> np.ndarray:
    """Cosine of what a list may hold; 0 where there is no score."""
    out = []
    for user, row in zip(relevance.users, scores.astype(float), strict=True):
        if relevance.hidden is not None:
            row = np.where(relevance.hidden[user].toarray().ravel() > 0, 0.0, row)
        truth = relevance.relevant[user].toarray().ravel()
        length = np.linalg.norm(row) * np.linalg.norm(truth)
        out.append(row @ truth / length if length else 0.0)
    return np.array(out)


def numpy_diversity(relevance: Relevance, lists: np.ndarray) -> np.ndarray:
    """1 - mean cosine over the pairs of each list."""
    columns = relevance.visible.toarray().astype(float)
    unit = columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-12)
    cosine = unit.T @ unit
    pairs = np.triu_indices(lists.shape[1], 1)
    return np.array([1 - cosine[np.ix_(row, row)][pairs].mean() for row in lists])


@given(table=tables, data=st.data(), k=st.integers(2, 4), neighbors=st.integers(1, 4))
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "none"])
@many
def test_numpy_oracles(
    make_dataset: Callable[..., Dataset],
    mode: str,
    table: np.ndarray,
    data: st.DataObject,
    k: int,
    neighbors: int,
) -> None:
    dataset = make_dataset(table)
    try:
        relevance = make_relevance(mode, dataset)
    except ValueError:
        assume(False)
    shape = (len(relevance.users), table.shape[1])
    scores = data.draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([-1.0, 0.0, 0.5, 1.0])))
    users = torch.from_numpy(relevance.users)
    racs = make_reward("racs", dataset, relevance, k=k, neighbors=neighbors, alpha=0.3)
    expected = numpy_racs(relevance, scores, k, neighbors, 0.3)
    assert racs(torch.from_numpy(scores), users).value.numpy() == pytest.approx(expected, abs=1e-6)
    ndcg = make_reward("ndcg", dataset, relevance, k=k)
    assert ndcg(torch.from_numpy(scores), users).value.numpy() == pytest.approx(
        numpy_ndcg(relevance, scores, k), abs=1e-6
    )
    cosine = make_reward("r_cos", dataset, relevance, k=k)
    found = cosine(torch.from_numpy(scores), users).value.numpy()
    assert found == pytest.approx(numpy_cosine(relevance, scores), abs=1e-6)
    diversity = make_reward("diversity", dataset, relevance, k=k)
    lists = diversity.top_k(torch.from_numpy(scores), users)
    found = diversity(torch.from_numpy(scores), users, lists).value.numpy()
    assert found == pytest.approx(numpy_diversity(relevance, lists.numpy()), abs=1e-6)


def test_ranks_of_hidden_items_have_no_gain(make_dataset: Callable[..., Dataset]) -> None:
    # For users 0 and 1 one item is left for a list of three; the hidden item 0 is not everybody's.
    dataset = make_dataset(np.array([[0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [-1, 0, 0, 0, 1]], dtype=np.int8))
    relevance = make_relevance("validation", dataset, selection_share=0.0)
    scores, users = torch.zeros(2, 5), torch.arange(2)
    # Novelty: the unseen item is nobody's, 1; item 0 beside it would add log3(3 / 2).
    for name, expected in {"r_ra": 1 / 3, "racs": 1 / 3, "novelty": 1 / 3, "ndcg": 1.0}.items():
        kwargs = {"neighbors": 1} if name == "racs" else {}
        reward = make_reward(name, dataset, relevance, k=3, **kwargs)
        assert reward(scores, users).value.tolist() == pytest.approx([expected, expected]), name
    past = make_reward("racs", dataset, relevance, k=3, neighbors=1, neighbor_relevance="train", alpha=0.0)
    assert past(scores, users).value.tolist() == [0.0, 0.0]


def test_hidden_items_come_after_those_of_score_minus_infinity(make_dataset: Callable[..., Dataset]) -> None:
    """User 0 had items 0 and 1, which no list may hold; of the rest only item 3 has a score above -inf."""
    dataset = make_dataset(np.array([[0, 0, 0, 1, -1], [0, 0, 0, 1, -1]], dtype=np.int8))
    relevance = make_relevance("recent", dataset, fraction=0.3)  # item 2 is relevant
    scores, users = torch.full((1, 5), -torch.inf), torch.tensor([0])
    scores[0, 3] = 1.0
    reward = make_reward("log_rank", dataset, relevance, k=3)
    assert reward.top_k(scores, users).tolist() == [[3, 2, 4]]
    assert reward(scores, users).value.item() == pytest.approx(1 / np.log2(3))
    assert make_reward("r_ra", dataset, relevance, k=2)(scores, users).value.item() == 0.5
    scores[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"NaN \(first at row 0, item 0"):
        reward(scores, users)


@pytest.mark.parametrize("device", DEVICES)
def test_device(synthetic: Dataset, model_for: ModelFor, device: str) -> None:
    relevance = make_relevance("holdout", synthetic)
    users = torch.from_numpy(relevance.users[:16])
    scores = torch.rand(16, synthetic.num_items, generator=torch.Generator().manual_seed(0))
    here = every_reward(synthetic, relevance, model=model_for(synthetic))
    there = every_reward(synthetic, relevance, model=model_for(synthetic), device=device)
    for name in here:
        value = there[name](scores.to(device), users.to(device)).value
        assert value.device.type == device
        assert torch.allclose(value.cpu(), here[name](scores, users).value, atol=1e-6), name


def test_refresh_sets_the_lists_of_all_users(synthetic: Dataset) -> None:
    relevance = make_relevance("holdout", synthetic)
    table = torch.rand(synthetic.num_users, synthetic.num_items, generator=torch.Generator().manual_seed(0))
    users = torch.from_numpy(relevance.users[:16])
    mix = make_reward(
        {"racs": 1.0, "coverage": 1.0, "ndcg": 1.0}, synthetic, relevance, variant="neighbor_lists", alpha=0.0
    )
    before = mix(table[users], users).value
    mix.refresh(lambda some: table[some], batch=100)
    after = mix(table[users], users)
    assert not torch.equal(before, after.value)
    lists = mix.top_k(table, torch.arange(synthetic.num_users))
    hits = np.array(
        [np.isin(row, relevance.relevant[u].indices).mean() for u, row in enumerate(lists.numpy())]
    )
    neighbors = nearest_users(relevance.visible, 10)[0][relevance.users[:16]]
    expected = np.where(neighbors >= 0, hits[neighbors.clip(0)], 0.0).mean(1)
    assert after.terms["racs"].numpy() == pytest.approx(expected, abs=1e-6)
    assert mix.uses_lists and not make_reward("ndcg", synthetic, relevance).uses_lists


def test_similar_rows_are_memory_linear(synthetic: Dataset) -> None:
    reward = make_reward("racs", synthetic, make_relevance("train", synthetic))
    stored = reward.similar.rows.rows.values.numel()  # type: ignore[attr-defined]
    assert stored == synthetic.train.csr.nnz
    assert sp.issparse(reward.context.relevance.relevant)
