"""Tests of closed-form denoisers: an independent solver, rows, use as policies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import refit_env  # noqa: F401  # registers the ids
from refit_env.backbones import backbone_class, backbone_for, linear, make_backbone
from refit_env.backbones import nearest_items as item_pairs
from refit_env.backbones.closed_form import ClosedForm, train_counts
from refit_env.backbones.cooccurrence import Counting, cooccurrences
from refit_env.backbones.few_values import FEW_FROM
from refit_env.backbones.linear import LinearDenoiser
from refit_env.backbones.row_weights import reciprocal_weights, rising_weights
from refit_env.backbones.spectral import SpectralConfig, SpectralDenoiser
from refit_env.data import Dataset, Interactions, RowDataset, synthesize, synthesize_sessions
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy

NAMES = ["linear", "spectral"]
OPTIONS = {"linear": {"l2": 5.0}, "spectral": {"l2": 0.05, "rank": 8}}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthesize(num_users=60, num_items=25)


@pytest.fixture(scope="module")
def sessions() -> Dataset:
    return synthesize_sessions()


def fitted(data: Dataset, name: str, **options: object) -> ClosedForm:
    backbone = backbone_for(data, name, {**OPTIONS[name], **options})
    assert isinstance(backbone, ClosedForm)
    backbone.fit(data)
    return backbone


def test_few_items_of_a_large_catalogue_give_the_dense_product_and_its_gradient(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = fitted(data, "linear")
    u = torch.zeros(3, data.num_items)
    u[0, 2] = u[2, 0] = 0.5
    slope = torch.rand(3, data.num_items, generator=torch.Generator().manual_seed(0))
    dense = backbone.predict_x0(u, 0)
    (gradient,) = torch.autograd.grad((dense * slope).sum(), backbone.weight)
    monkeypatch.setattr(linear, "LARGE", data.num_items - 1)
    monkeypatch.setattr(linear, "SPARSE", 1.0)
    product, calls = linear.embedding_bag, []
    monkeypatch.setattr(
        linear, "embedding_bag", lambda *parts, **kw: calls.append(1) or product(*parts, **kw)
    )
    sparse = backbone.predict_x0(u, 0)
    torch.testing.assert_close(sparse, dense, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        torch.autograd.grad((sparse * slope).sum(), backbone.weight)[0], gradient, atol=1e-6, rtol=0
    )
    assert calls
    calls.clear()
    backbone.predict_x0(u.requires_grad_(), 0)  # its own gradient needs the items that it does not hold
    assert not calls


def test_each_column_of_linear_is_a_ridge_regression_on_all_other_items(data: Dataset) -> None:
    weight = fitted(data, "linear").state_dict()["weight"][0].double().numpy()
    rows = data.train.csr.toarray().astype(np.float64)
    for item in (0, 7, 24):
        others = np.delete(np.arange(25), item)
        x = rows[:, others]
        expected = np.linalg.solve(x.T @ x + 5.0 * np.eye(24), x.T @ rows[:, item])
        np.testing.assert_allclose(weight[others, item], expected, atol=1e-5)
        assert weight[item, item] == 0.0


def test_linear_on_rows_predicts_the_next_item(sessions: Dataset) -> None:
    weight = fitted(sessions, "linear", recency="reciprocal").state_dict()["weight"][0].double().numpy()
    data = sessions.episodes
    train = data.rows_of("train")  # type: ignore[attr-defined]
    x = reciprocal_weights(data.train).toarray()[train].astype(np.float64)
    y = np.zeros_like(x)
    y[np.arange(len(train)), data.targets.items] = 1.0  # type: ignore[attr-defined]
    expected = np.linalg.solve(x.T @ x + 5.0 * np.eye(x.shape[1]), x.T @ y)
    np.testing.assert_allclose(weight, expected, atol=1e-5)


@pytest.mark.parametrize("window, pair_power", [(1.0, 0.0), (0.25, 0.5)])
def test_the_future_is_regressed_on_the_past_of_each_row(
    data: Dataset, window: float, pair_power: float
) -> None:
    options = {"targets": "future", "recency": "reciprocal", "decay": 0.5, "cuts": 2}
    backbone = fitted(data, "linear", **options, window=window, pair_power=pair_power)
    gram, cross = 5.0 * np.eye(25), np.zeros((25, 25))
    for user in range(60):
        row = data.train.of(user)
        for cut in (0.5, 0.75):
            shares = np.arange(len(row)) / len(row)
            past, future = row[shares < cut], row[(cut <= shares) & (shares < cut + window)]
            x, y = np.zeros(25), np.zeros(25)
            x[past] = (len(past) - np.arange(len(past))) ** -0.5
            y[future] = 1.0
            if len(future):
                gram += np.outer(x, x) / len(future) ** pair_power
                cross += np.outer(x, y) / len(future) ** pair_power
    weight = backbone.state_dict()["weight"][0].numpy()
    np.testing.assert_allclose(weight, np.linalg.solve(gram, cross), atol=1e-5)


def test_co_occurrences_and_the_identity_are_added_in_units_of_the_regression(data: Dataset) -> None:
    plain = fitted(data, "linear").state_dict()["weight"][0].double()
    options = {"neighborhood": 0.25, "shrink": 2.0, "balance": 0.25, "row_power": 0.5, "repeat": 0.5}
    got = fitted(data, "linear", **options).state_dict()["weight"][0].double()
    x = data.train.csr.toarray().astype(np.float64)
    counts, pairs = x.sum(0), (x * x.sum(1, keepdims=True) ** -0.5).T @ x
    near = pairs / (np.outer(counts**0.75, counts**0.25) + 2.0)
    np.fill_diagonal(near, 0.0)
    size = plain.norm()
    expected = 0.75 * plain + 0.25 * size * torch.as_tensor(near / np.linalg.norm(near))
    expected += 0.5 * size / 5 * torch.eye(25)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("nearest_of", ["input", "target"])
def test_spectral_adds_the_nearest_items_as_linear_adds_all(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, nearest_of: str
) -> None:
    options = {"neighborhood": 0.5, "shrink": 1.0, "row_power": 1.0, "score_power": 0.2, "balance": 0.3}
    options |= {"nearest_of": nearest_of}
    backbone = fitted(data, "spectral", neighbors=4, **options)
    assert isinstance(backbone, SpectralDenoiser) and backbone.near is not None
    factor = np.maximum(np.bincount(data.train.items, minlength=25), 1)
    factor = (factor / factor.mean()) ** -0.2
    pairs = cooccurrences(data.train.csr, None, Counting(shrink=1.0, balance=0.3, row_power=1.0))
    nearest = np.zeros_like(pairs)
    for item in range(25):
        if nearest_of == "target":
            kept = np.argsort(-pairs[:, item], kind="stable")[:4]
            nearest[kept, item] = pairs[kept, item] * factor[item]
        else:
            kept = np.argsort(-pairs[item], kind="stable")[:4]
            nearest[item, kept] = pairs[item, kept] * factor[kept]
    filtered = fitted(data, "spectral", score_power=0.2).predict_x0(torch.eye(25), 0).detach().numpy()
    size = np.linalg.norm(filtered)
    expected = 0.5 * filtered + 0.5 * size * nearest / np.linalg.norm(nearest)
    u = torch.eye(25)
    with torch.no_grad():
        dense = backbone.predict_x0(u, 0)
        monkeypatch.setattr(item_pairs, "SPARSE", 1.0)
        np.testing.assert_allclose(backbone.predict_x0(u, 0), expected, atol=1e-5)
    torch.testing.assert_close(dense, backbone.predict_x0(u, 0), atol=1e-6, rtol=0)
    backbone.predict_x0(u, 0)[0].sum().backward()
    sparse = backbone.near.values.grad
    assert sparse is not None
    backbone.near.values.grad = None
    monkeypatch.setattr(item_pairs, "SPARSE", 0.0)
    backbone.predict_x0(u, 0)[0].sum().backward()
    torch.testing.assert_close(sparse, backbone.near.values.grad, atol=1e-6, rtol=0)
    state = backbone.state_dict()
    state["near.ids"][0, 0] = 25
    with pytest.raises(ValueError, match=r"near\.ids holds ids outside 0\.\.24"):
        backbone.check_state(state)


@pytest.mark.parametrize("neighborhood", [0.0, 0.6])
def test_spectral_adds_each_items_regression_on_its_nearest_ones(data: Dataset, neighborhood: float) -> None:
    """Compare with a regression of NumPy on the items with the largest co-occurrences, item by item."""
    options = {"neighborhood": neighborhood, "neighbors": 5, "shrink": 1.0, "score_power": 0.2}
    backbone = fitted(data, "spectral", regression=0.25, regressors=4, regression_l2=2.0, **options)
    x = data.train.csr.toarray().astype(np.float64)
    pairs = cooccurrences(data.train.csr, None, Counting(shrink=1.0))
    counts = x.sum(0)
    weights = np.zeros((25, 25))
    for item in range(25):
        chosen = np.argsort(-pairs[:, item], kind="stable")[:4]
        known = x[:, chosen]
        weights[chosen, item] = np.linalg.solve(known.T @ known + 2.0 * np.eye(4), known.T @ x[:, item])
    weights *= (counts / counts.mean()) ** -0.2
    u = torch.eye(25)
    with torch.no_grad():
        rest = fitted(data, "spectral", **options).predict_x0(u, 0)
        size = fitted(data, "spectral", score_power=0.2).predict_x0(u, 0).norm()
        expected = 0.75 * rest + 0.25 * size * torch.as_tensor(weights / np.linalg.norm(weights))
        torch.testing.assert_close(backbone.predict_x0(u, 0), expected, atol=1e-5, rtol=0, check_dtype=False)
    assert isinstance(backbone, SpectralDenoiser) and backbone.regressed is not None
    backbone.predict_x0(u, 0)[0].sum().backward()
    assert backbone.regressed.values.grad is not None and backbone.regressed.values.grad.any()
    assert backbone.denoise(u, backbone.diffusion) is None
    state = backbone.state_dict()
    state["regressed.ids"][0, 0] = -1
    with pytest.raises(ValueError, match=r"regressed\.ids holds ids outside 0\.\.24"):
        backbone.check_state(state)


def test_the_regression_on_all_items_is_that_of_linear(data: Dataset) -> None:
    pairs = np.random.default_rng(0).random((60, 25)) < 0.4
    data = replace(data, train=Interactions.from_pairs(*np.nonzero(pairs), num_users=60, num_items=25))
    together = data.train.csr.T @ data.train.csr
    assert (together.toarray() > 0).all()  # else an item would not be a regressor
    backbone = fitted(data, "spectral", regression=1.0, regressors=25, regression_l2=5.0, shrink=0.0)
    got = backbone.predict_x0(torch.eye(25), 0).detach()
    expected = fitted(data, "linear").state_dict()["weight"][0]
    torch.testing.assert_close(got / got.norm(), expected / expected.norm(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pairs", ["targets", "sets"])
def test_all_of_the_neighborhood_on_rows_is_a_baseline(sessions: Dataset, pairs: str) -> None:
    options = {"neighborhood": 1.0, "pairs": pairs, "shrink": 3.0, "balance": 0.0, "recency": "reciprocal"}
    weight = fitted(sessions, "linear", repeats="sum", **options).state_dict()["weight"][0].numpy()
    data = sessions.episodes
    assert isinstance(data, RowDataset)
    if pairs == "targets":  # a Markov chain: the share of an item's followers, weighted by their distance
        train = data.rows_of("train")
        x = reciprocal_weights(data.train, 1.0, "sum")[train].toarray()
        y = np.eye(data.num_items)[data.targets.items]
        expected = x.T @ y / (x.sum(0)[:, None] + 3.0)
    else:
        x = np.zeros((data.sessions.max() + 1, data.num_items))
        train = data.rows_of("train")
        x[data.sessions[train], data.targets.items] = 1.0
        place, at = np.nonzero(data.history[train] < data.num_items)
        x[data.sessions[train][place], data.history[train][place, at]] = 1.0
        expected = x.T @ x / (x.sum(0)[:, None] + 3.0)
        np.fill_diagonal(expected, 0.0)
    np.testing.assert_allclose(
        weight / np.linalg.norm(weight), expected / np.linalg.norm(expected), atol=1e-6
    )


@pytest.mark.parametrize("repeats", ["latest", "sum"])
def test_a_history_alone_gives_the_row_of_a_session(sessions: Dataset, repeats: str) -> None:
    backbone = fitted(sessions, "linear", recency="reciprocal", decay=0.5, repeats=repeats)
    data = sessions.episodes
    assert isinstance(data, RowDataset)
    rows = backbone.shown(data, "cpu")(torch.arange(40))
    histories = torch.as_tensor(data.history[:40].astype(np.int64))
    torch.testing.assert_close(backbone.show(histories), rows, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_items_of_friends_are_a_context_that_scores_higher(data: Dataset, name: str) -> None:
    social = replace(data, task="social", social=np.array([[0, 1], [0, 2], [3, 0], [3, 0]], np.int32))
    options = {"factorization": 0.5, "embedding": 4, "score_power": 0.2}
    plain, backbone = fitted(data, name, **options), fitted(social, name, friends=0.3, **options)
    state = backbone.state_dict()
    assert state.keys() - plain.state_dict().keys() == {"by_friends"}
    assert all(value.equal(state[key]) for key, value in plain.state_dict().items())
    users = torch.tensor([0, 1, 3])
    shown = backbone.shown(social, "cpu")(users)
    x = data.train.csr.toarray()
    theirs = np.stack([x[1] + x[2], 0 * x[0], x[0]])
    theirs = theirs / np.maximum(np.linalg.norm(theirs, axis=1, keepdims=True), 1)
    u, context = backbone.initial_state(users, shown), backbone.context(users, shown)
    assert (
        context is not None and backbone.context_size == 25 and backbone.context_bounds(25, backbone.config)
    )
    np.testing.assert_allclose(u, x[[0, 1, 3]])
    np.testing.assert_allclose(context, theirs, atol=1e-6)
    contexts = backbone.contexts(social, backbone.config, "cpu")
    assert contexts is not None and contexts(users).equal(context)
    with torch.no_grad():
        more = backbone.predict_x0(u, 0, backbone.encode(context)) - backbone.predict_x0(u, 0)
        assert (more != 0).equal(context != 0)
        # In the mean over users the items of friends have .3 of the standard deviation of the other scores.
        rows = torch.as_tensor(data.train.csr.toarray(), dtype=torch.float32)
        spread = plain.predict_x0(rows, 0).std(1).mean()
    counts = x.sum(0)
    popular = torch.as_tensor((counts / counts.mean()) ** -0.2)
    others = torch.as_tensor(theirs[[0, 2]]).float().std(1).mean()
    torch.testing.assert_close(
        more, (0.3 * spread / others * popular * context).float(), rtol=1e-4, atol=1e-6
    )
    policy = DiffusionPolicy(backbone, 1).eval()
    with torch.no_grad():
        scores = backbone.predict_x0(u, 0, backbone.encode(context))
    torch.testing.assert_close(policy.recommend_scores(users, shown), scores)
    hybrid = backbone_for(social, "hybrid", {**OPTIONS[name], **options, "friends": 0.3, "base": name}).eval()
    torch.testing.assert_close(hybrid.predict_x0(u, 0, hybrid.encode(context)), scores)


def test_items_of_friends_need_friends(data: Dataset, sessions: Dataset) -> None:
    social = replace(data, task="social", social=np.array([[0, 1]], np.int32))
    backbone = fitted(social, "linear", friends=2.0)
    alone = backbone.show(torch.tensor([[1, 2]]))  # a person in no data set has no friends
    assert alone.nonzero().tolist() == [[0, 1], [0, 2]] and alone.shape == (1, 50)
    refusal = r"friends=2 adds .* has no social edges. Use friends=0"
    nobody = replace(social, social=np.zeros((0, 2), np.int32))
    for other in (data, sessions, nobody):
        with pytest.raises(ValueError, match=refusal):
            fitted(other, "linear", friends=2.0)
        with pytest.raises(ValueError, match=refusal):
            make_backbone("linear", other.num_items, {"friends": 2.0}).shown(other.episodes, "cpu")
    with pytest.raises(ValueError, match=refusal):
        backbone_for(sessions, "stacked", {"friends": 2.0})
    assert "friends" in backbone.search_space(social) and "friends" not in backbone.search_space(data)


def test_spectral_regresses_the_future_too(data: Dataset) -> None:
    options = {"rank": 24, "user_power": 0.0, "item_power": 0.0, "targets": "future", "cuts": 1}
    got = fitted(data, "spectral", **options, l2=3.0).predict_x0(torch.eye(25), 0).detach().numpy()
    full = fitted(data, "linear", targets="future", cuts=1, l2=3.0).predict_x0(torch.eye(25), 0)
    assert np.abs(got - full.detach().numpy()).max() < 0.05  # Lanczos leaves one of 25 directions out


def test_the_future_needs_an_order_of_time(data: Dataset) -> None:
    unordered = replace(data, time_ordered=False)
    with pytest.raises(ValueError, match=r"targets='future' .* not sorted by time"):
        fitted(unordered, "linear", targets="future")


def test_a_matrix_for_each_step_adds_the_steps_noise(data: Dataset) -> None:
    backbone = fitted(data, "linear", each_step=True, num_steps=3, noise_scale=20.0)
    shared = fitted(data, "linear").state_dict()["weight"][0]
    abar = backbone.diffusion.abar
    for k in range(3):
        l2 = (60 * (1 - abar[k]) + 5.0) / abar[k]
        alone = fitted(data, "linear", l2=float(l2)).state_dict()["weight"][0] / abar[k] ** 0.5
        np.testing.assert_allclose(backbone.state_dict()["weight"][k], alone, atol=1e-6)
    assert not torch.allclose(backbone.state_dict()["weight"][2], shared, atol=1e-3)
    u = torch.rand(4, 25, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([2, 0, 1, 2])
    together = backbone.predict_x0(u, steps)
    alone = torch.cat([backbone.predict_x0(u[i : i + 1], int(k)) for i, k in enumerate(steps)])
    torch.testing.assert_close(together, alone)


def test_spectral_with_the_full_rank_is_the_whole_ridge_regression(data: Dataset) -> None:
    """Compare with (X'X + l2)^-1 X'X, the regression without the zero diagonal, by another solver."""
    options = {"rank": 24, "l2": 3.0, "user_power": 0.0, "item_power": 0.0}
    backbone = fitted(data, "spectral", **options)
    x = data.train.csr.toarray().astype(np.float64)
    values, vectors = np.linalg.eigh(x.T @ x)
    keep = np.argsort(values)[1:]  # Lanczos computes all directions except the smallest
    expected = (vectors[:, keep] * values[keep] / (values[keep] + 3.0)) @ vectors[:, keep].T
    got = backbone.predict_x0(torch.eye(25), 0)
    np.testing.assert_allclose(got.detach().numpy(), expected, atol=1e-5)


def test_spectral_normalisation_keeps_the_direction_of_item_degrees(data: Dataset) -> None:
    """With both powers 1/2 the leading direction of X~ is sqrt(degree), with singular value 1."""
    backbone = fitted(data, "spectral", rank=1, l2=1e-9)
    degrees = np.asarray(data.train.csr.sum(0)).ravel()
    got = backbone.predict_x0(torch.ones(1, 25), 0).detach().numpy()[0]
    np.testing.assert_allclose(got / got.sum(), degrees / degrees.sum(), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_score_power_divides_by_popularity(data: Dataset, name: str) -> None:
    u = torch.rand(3, 25, generator=torch.Generator().manual_seed(1))
    plain = fitted(data, name).predict_x0(u, 0).detach()
    divided = fitted(data, name, score_power=0.5).predict_x0(u, 0).detach()
    counts = np.maximum(np.bincount(data.train.items, minlength=25), 1)
    torch.testing.assert_close(
        divided, plain * torch.as_tensor((counts / counts.mean()) ** -0.5).float(), rtol=1e-4, atol=1e-6
    )


def test_weights_of_rows_by_hand() -> None:
    train = Interactions.from_pairs([0, 0, 0, 2], [4, 1, 4, 3], num_users=3, num_items=5)
    np.testing.assert_allclose(rising_weights(train, 0.5, 1.0).toarray()[0], [0, 0.75, 0, 0, 1.0])
    np.testing.assert_allclose(reciprocal_weights(train).toarray()[0], [0, 0.5, 0, 0, 1.0])
    assert rising_weights(train, 0.5, 1.0).toarray()[2, 3] == 0.5
    assert not reciprocal_weights(train).toarray()[1].any()
    np.testing.assert_allclose(reciprocal_weights(train, 2.0).toarray()[0], [0, 0.25, 0, 0, 1.0])
    np.testing.assert_allclose(reciprocal_weights(train, 1.0, "sum").toarray()[0], [0, 0.5, 0, 0, 4 / 3])
    np.testing.assert_allclose(rising_weights(train, 0.5, 1.0, "sum").toarray()[0], [0, 0.75, 0, 0, 1.5])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options, message",
    [
        ({"l2": 0.0}, "l2 must be > 0, found 0"),
        ({"l2": float("nan")}, "l2 must be a number > 0, found nan"),
        ({"recency": "risen"}, "Did you mean 'rising'"),
        ({"targets": "futur"}, "Did you mean 'future'"),
        ({"cuts": 0}, "cuts must be >= 1 and <= 50, found 0"),
        ({"window": 0.0}, "window must be > 0 and <= 1, found 0"),
        ({"decay": 0.0}, "decay must be > 0 and <= 4, found 0"),
        ({"oldest": 0.0}, "oldest must be > 0 and <= 1, found 0"),
        ({"repeats": "sums"}, "Did you mean 'sum'"),
        ({"friends": -1.0}, "friends must be >= 0 and <= 100, found -1"),
        ({"score_power": 9.0}, "score_power must be >= -2 and <= 2, found 9"),
    ],
)
def test_wrong_settings_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_backbone(name, 10, options)


def test_a_catalogue_too_large_for_a_matrix_is_refused_before_it_is_made() -> None:
    with pytest.raises(ValueError, match="use 'spectral'"):
        LinearDenoiser(25_001)


@pytest.mark.parametrize("name", NAMES)
def test_rows_without_time_cannot_be_weighted_by_time(data: Dataset, name: str) -> None:
    unordered = replace(data, time_ordered=False)
    with pytest.raises(ValueError, match="recency='none'"):
        fitted(unordered, name, recency="rising")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["cf", "rows"])
def test_it_beats_chance_and_scores_the_same_after_loading(
    name: str, kind: str, sessions: Dataset, tmp_path: Path
) -> None:
    data = synthesize() if kind == "cf" else sessions
    options = {"l2": 20.0} if name == "linear" else {"rank": 16}
    recency = "reciprocal" if kind == "rows" else "none"
    policy = DiffusionPolicy(fitted(data, name, recency=recency, **options), 1)
    episodes = data.episodes
    recall = evaluate(policy.scorer(episodes), episodes, "test", device="cpu").means()["recall@20"]
    assert recall > 2 * 20 / data.num_items  # twice the value of random lists
    policy.save(tmp_path, data)
    again = DiffusionPolicy.load(tmp_path).scorer(episodes)(torch.arange(5))
    assert torch.equal(again, policy.scorer(episodes)(torch.arange(5)))


@pytest.mark.parametrize("name", NAMES)
def test_an_environment_starts_from_the_weighted_rows(name: str) -> None:
    options = {"recency": "rising", "oldest": 0.25}
    env = gym.make(
        "ReFiT-Synthetic-v0",
        backbone=name,
        num_steps=1,
        relevance="none",
        reward="ease",
        backbone_options=options,
    )
    observation, _ = env.reset(options={"user": 3})
    data = synthesize()
    np.testing.assert_allclose(observation["u"], rising_weights(data.train, 0.25, 1.0)[3].toarray()[0])
    assert (observation["u"][data.train.of(3)[:1]] == np.float32(0.25)).all()


def test_a_wrong_backbone_option_gets_a_did_you_mean() -> None:
    with pytest.raises(ValueError, match="Did you mean 'oldest'"):
        gym.make("ReFiT-Synthetic-v0", backbone="linear", num_steps=1, backbone_options={"oldst": 0.5})


@pytest.mark.parametrize("name", NAMES)
def test_a_fitted_denoiser_has_a_lower_elbo(data: Dataset, name: str) -> None:
    shown = torch.as_tensor(data.train.csr.toarray())
    empty = make_backbone(name, 25, OPTIONS[name])
    loss = [
        m.elbo_loss(shown, shown, torch.Generator().manual_seed(0)).item()
        for m in (empty, fitted(data, name))
    ]
    assert loss[1] < loss[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_search_space_names_fields_and_starts_at_valid_settings(name: str, data: Dataset) -> None:
    space = backbone_class(name).search_space(data)  # type: ignore[attr-defined]
    backbone = backbone_for(data, name, {key: values[0] for key, values in space.items()})
    assert isinstance(backbone, LinearDenoiser | SpectralDenoiser)


def test_a_popularity_penalty_is_a_trained_bias_that_subtracts_the_log_of_counts(data: Dataset) -> None:
    plain, penalised = fitted(data, "linear"), fitted(data, "linear", popularity_penalty=0.1)
    rows = torch.from_numpy(data.train.csr[:5].toarray()).float()
    counts = torch.from_numpy(train_counts(data)).float()
    difference = plain.predict_x0(rows, 0) - penalised.predict_x0(rows, 0)
    assert torch.allclose(difference, (0.1 * counts.log()).expand_as(difference), atol=1e-5)
    assert {"weight", "bias"} == dict(penalised.named_parameters()).keys()
    assert {"weight"} == dict(plain.named_parameters()).keys()


@pytest.mark.parametrize(("steps", "eta"), [(1, 1.0), (5, 1.0), (5, 0.0), (3, 0.4)])
def test_the_spectral_chain_at_once_is_the_chain_step_by_step(data: Dataset, steps: int, eta: float) -> None:
    options = {"rank": 12, "num_steps": 5, "noise_min": 0.02, "noise_max": 0.4, "noise_scale": 1.0}
    backbone = backbone_for(data, "spectral", options, seed=0)
    assert isinstance(backbone, SpectralDenoiser)
    backbone.fit(data)
    policy = DiffusionPolicy(backbone, steps, eta=eta).double()
    rows = torch.rand(6, data.num_items, dtype=torch.float64)
    with torch.enable_grad():
        step_by_step = policy.denoise(rows)
    with torch.no_grad():
        at_once = policy.denoise(rows)
        assert not step_by_step.allclose(rows @ backbone.into @ backbone.out) or steps == 1
        torch.testing.assert_close(at_once, step_by_step, rtol=1e-9, atol=1e-11)
        backbone.out.mul_(2.0)  # what was computed from the former weights is not used again
        changed = policy.denoise(rows)
    with torch.enable_grad():
        torch.testing.assert_close(changed, policy.denoise(rows), rtol=1e-9, atol=1e-11)


def test_the_spectral_chain_of_few_items_reads_their_rows_alone() -> None:
    config = SpectralConfig(rank=4, num_steps=3)
    backbone = SpectralDenoiser(FEW_FROM, config)
    torch.nn.init.normal_(backbone.out, std=0.1)
    policy = DiffusionPolicy(backbone, 3)
    rows = torch.zeros(2, FEW_FROM)
    rows[0, [3, 9]], rows[1, 500] = 1.0, 0.5
    wanted = policy.denoise(rows).detach()
    with torch.no_grad():
        torch.testing.assert_close(policy.denoise(rows), wanted, rtol=1e-4, atol=1e-6)
