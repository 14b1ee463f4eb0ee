"""Sessions on hidden train items, the Q-learning of NICF and the constrained steps of FCPO."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.distributions import Normal

from agents.baselines import baseline, evaluate_baseline
from agents.baselines.constrained import constrained_step, improve, solve
from agents.baselines.learning import ready
from agents.baselines.nicf import bellman
from agents.baselines.sessions import Session, TrainItems
from refit_env.data import Dataset, Interactions
from refit_env.errors import SettingError


def built(name: str, data: Dataset, **settings: Any) -> Any:
    kind = baseline(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(kind.config_class(embedding=4, **settings)).build(data)  # type: ignore[attr-defined]


def in_order(data: Dataset) -> Dataset:
    return replace(data, time_ordered=True)


@pytest.fixture
def two_tastes() -> Dataset:
    """Users of two kinds, each kind with 12 items of its own; 8 more items that most users have."""
    rng = np.random.default_rng(0)
    users, items, split = [], [], []
    for user in range(60):
        own = 12 * (user % 2) + rng.permutation(12)[:10]
        common = 24 + rng.permutation(8)[:5]
        chosen = np.concatenate([rng.permutation(np.concatenate([own[:6], common])), own[6:]])
        users += [user] * 15
        items += chosen.tolist()
        split += [0] * 11 + [1] * 2 + [2] * 2
    at = np.asarray(split)
    parts = [
        Interactions.from_pairs(np.asarray(users)[at == k], np.asarray(items)[at == k], 60, 32)
        for k in range(3)
    ]
    return Dataset("tastes", "cf", *parts, time_ordered=False)


def test_a_session_knows_a_part_and_hides_the_rest(few: Dataset, table: np.ndarray) -> None:
    torch.manual_seed(3)
    items = TrainItems(few, latest=True)
    sizes = set()
    for _ in range(40):
        session = items.draw(6, 2)
        for window, known, hidden in zip(session.window, session.known, session.hidden, strict=True):
            whole = (known | hidden).numpy()
            assert not (known & hidden).any() and hidden.any()
            assert any((whole == row.astype(bool)).all() for row in table)
            last = [item for item in window.tolist() if item < 6]
            assert len(last) == min(int(known.sum()), 2) and known[last].all()
            sizes.add(int(known.sum()))
    assert sizes == {0, 1, 2}


def test_what_is_hidden_is_the_latest_or_random(few: Dataset) -> None:
    user = replace(few, train=few.train.select(few.train.users == 0))  # items 0, 1, 5 in this order
    torch.manual_seed(0)
    latest, mixed = TrainItems(in_order(user), True), TrainItems(in_order(user), False)
    prefixes = {(), (0,), (0, 1)}
    found = {tuple(row.nonzero().flatten().tolist()) for row in latest.draw(60, 3).known}
    assert found == prefixes
    session = mixed.draw(100, 3)
    drawn = {tuple(row.nonzero().flatten().tolist()) for row in session.known}
    assert drawn == {(), (0,), (1,), (5,), (0, 1), (0, 5), (1, 5)}
    for window in session.window:  # in the order of time
        last = [item for item in window.tolist() if item < 6]
        assert last == sorted(last) and window.tolist() == [6] * (3 - len(last)) + last
    assert latest.window(torch.tensor([0, 1]), 2).tolist() == [[1, 5], [6, 6]]


def test_a_session_shows_nothing_twice_and_pays_for_hidden_items() -> None:
    known, hidden = torch.tensor([[True, False, False, False]]), torch.tensor([[False, True, False, False]])
    session = Session(torch.tensor([[0]]), known, hidden)
    scores = torch.tensor([[9.0, 1.0, 3.0, 2.0]])
    shown = []
    for _ in range(4):
        item = session.best(scores)
        shown.append((int(item), bool(session.show(item))))
    assert shown == [(2, False), (3, False), (1, True), (4, False)]  # 4: nothing is left


def test_the_target_is_the_reward_and_the_discounted_best_of_what_is_open() -> None:
    later = torch.tensor([[[0.2, 0.9, 0.6], [0.2, 0.9, 0.6], [-1.0, -2.0, 9.0], [0.5, 0.5, 0.5]]])
    closed = torch.tensor([[[0, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]]]).bool()
    last = torch.tensor([False, False, False, False])
    reward = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    wanted = torch.tensor([[1.0 + 0.8 * 0.9, 0.8 * 0.6, 0.8 * 5.0, 1.0]])  # at most 1 / (1 - gamma)
    torch.testing.assert_close(bellman(reward, later, closed, last, 0.8), wanted)
    torch.testing.assert_close(bellman(reward, later, closed, ~last, 0.8), reward)


def test_nicfs_loss_is_the_squared_error_of_the_stored_steps(few: Dataset) -> None:
    model = built("nicf", few, history=3, horizon=2, sessions=1, memory=1, dropout=0.0, blocks=1, gamma=0.5)
    torch.manual_seed(1)
    model.begin("all")
    items, liked = model.items[0], model.liked[0]  # 3 known at most, 2 shown
    with torch.no_grad():
        model.head[-1].bias[items[3]] += 1.0  # the first item would be the best again, were it open
    before, between = (model.values(items[None, :at], liked[None, :at], at)[0, 0] for at in (3, 4))
    open_ = ~model.known[0]
    open_[items[3]] = False
    target = liked[3].float() + 0.5 * between[open_].max().clamp(0, 2)
    errors = (before[items[3]] - target).square(), (between[items[4]] - liked[4].float()).square()
    torch.testing.assert_close(model.loss(torch.arange(3), "all"), torch.stack(errors).mean())


def test_nicfs_values_of_all_steps_are_those_of_each_prefix(few: Dataset) -> None:
    model = built("nicf", few, history=3, horizon=3, dropout=0.0)
    items = torch.tensor([[6, 1, 4, 0, 5, 2], [2, 3, 5, 1, 6, 6]])
    liked = torch.tensor([[0, 1, 1, 0, 1, 0], [1, 1, 1, 0, 0, 0]]).bool()
    whole = model.values(items, liked, 3)
    assert whole.shape == (2, 4, 6)
    for step in range(4):
        alone = model.values(items[:, : 3 + step], liked[:, : 3 + step], 3 + step)[:, 0]
        torch.testing.assert_close(whole[:, step], alone)


def test_nicfs_feedback_has_its_own_sequence(few: Dataset) -> None:
    model = built("nicf", few, history=3, horizon=2, dropout=0.0)
    ready(model)
    items, none = torch.tensor([[1, 4, 2]]), torch.tensor([[6, 6, 6]])
    yes, no = torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.bool)
    liked, disliked, empty = (model.values(*state, 3) for state in ((items, yes), (items, no), (none, no)))
    assert not torch.equal(liked, disliked) and not torch.equal(liked, empty)
    mixed = model.values(items, torch.tensor([[True, False, True]]), 3)
    apart = model.values(torch.tensor([[4, 6, 1, 2]]), torch.tensor([[False, False, True, True]]), 4)
    torch.testing.assert_close(mixed, apart)  # the order between the kinds of feedback is not read
    last = model.train_items.window(torch.tensor([0]), 3)
    torch.testing.assert_close(model.scores(torch.tensor([0])), model.values(last, yes, 3)[:, 0])


def dense(matrix: Tensor) -> Any:
    return lambda vector: matrix @ vector


@pytest.mark.parametrize("excess", [-2.0, -0.3, 0.0, 0.15, 0.4])
@pytest.mark.parametrize("seed", range(4))
def test_the_constrained_step_is_the_best_one(excess: float, seed: int) -> None:
    """Against SciPy's solver of the same problem, whose constraint can be met."""
    rng = np.random.default_rng(seed)
    root, g, b = rng.normal(size=(5, 5)), rng.normal(size=5), rng.normal(size=5)
    h, radius = root @ root.T + np.eye(5), 0.5
    step, feasible = constrained_step(
        torch.as_tensor(g), torch.as_tensor(b), excess, dense(torch.as_tensor(h)), radius
    )
    x = step.numpy()
    if excess > np.sqrt(2 * radius * (b @ np.linalg.solve(h, b))):
        assert not feasible
        return
    limits = [
        {"type": "ineq", "fun": lambda y: radius - y @ h @ y / 2, "jac": lambda y: -h @ y},
        {"type": "ineq", "fun": lambda y: -excess - b @ y, "jac": lambda y: -b},
    ]
    best = minimize(lambda y: -g @ y, np.zeros(5), jac=lambda y: -g, constraints=limits, method="SLSQP")
    assert feasible and x @ h @ x / 2 <= radius + 1e-6 and excess + b @ x <= 1e-6
    assert g @ x == pytest.approx(-best.fun, abs=1e-4)


def test_a_constraint_out_of_reach_is_approached_by_the_whole_region() -> None:
    b = torch.tensor([3.0, 4.0], dtype=torch.float64)
    step, feasible = constrained_step(torch.tensor([1.0, 0.0]).double(), b, 6.0, lambda x: x, radius=0.5)
    assert not feasible
    torch.testing.assert_close(step, -b / 5.0)
    parallel, met = constrained_step(b, b, 0.0, lambda x: x, radius=0.5)  # all reward costs too much
    assert met and abs(float(b @ parallel)) < 1e-6 and float(parallel @ parallel) <= 1.0 + 1e-6
    below, met = constrained_step(b, b, -2.0, lambda x: x, radius=0.5)
    assert met and float(b @ below) == pytest.approx(2.0, abs=1e-4)
    none, met = constrained_step(torch.zeros(2), torch.zeros(2), 1.0, lambda x: x, radius=0.5)
    assert not met and none.tolist() == [0.0, 0.0]


def test_conjugate_gradients_solve_a_system() -> None:
    matrix = torch.tensor([[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]])
    right = torch.tensor([1.0, -2.0, 0.5])
    torch.testing.assert_close(matrix @ solve(dense(matrix), right, 3), right)


def test_steps_reach_the_constrained_optimum_of_a_known_problem() -> None:
    """Reward -|a - (2, 2)|^2, cost a_1 of at most .5: the best mean is (2, .5)."""
    mean = nn.Parameter(torch.tensor([0.0, 3.0]))

    def policy(states: Tensor | slice) -> Normal:
        return Normal(mean.expand(1000, 2)[states], 0.5)

    torch.manual_seed(0)
    for _ in range(80):
        old = policy(slice(None))
        actions, before = old.sample(), mean.detach().clone()
        gains = torch.stack([-(actions - 2.0).square().sum(1), actions[:, 1]], 1)
        improve(
            [mean], policy, actions, gains, float(gains[:, 1].mean() - 0.5), torch.arange(100), 0.02, 1e-3
        )
        assert float((mean.detach() - before).square().sum() / 0.5**2 / 2) <= 0.0301  # 1.5 times the radius
    torch.testing.assert_close(mean.detach(), torch.tensor([2.0, 0.5]), atol=0.25, rtol=0)


def test_fcpos_sessions_pay_for_hits_and_popular_items(small_data: Dataset) -> None:
    model = built("fcpo", small_data, sessions=32, horizon=4, hidden=4, popular=0.5)
    counts = np.bincount(small_data.train.items, minlength=small_data.num_items)
    popular = model.popular.numpy()[:-1]
    assert popular.sum() == round(0.5 * small_data.num_items) and not model.popular[-1]
    assert counts[popular].min() >= counts[~popular].max()
    with torch.no_grad():
        (recent, user), actions, paid = model._run()
    assert paid.shape == (4, 32, 2) and recent.shape == (128, 5) and actions.shape == user.shape == (128, 4)
    hits = paid[:-1, :, 0].flatten().bool()
    moved = (recent[32:] != recent[:-32]).any(1)
    assert (
        (moved <= hits).all() and hits.any() and not hits.all()
    )  # a hit enters the state, nothing else does
    best = (actions[:32] @ model.vectors[:-1].T).argsort(1, descending=True)
    newest = recent[32:64, -1][hits[:32]]
    assert all(item in row[:20] for item, row in zip(newest, best[hits[:32]], strict=True))


def test_fcpo_keeps_its_limit_on_popular_items(two_tastes: Dataset) -> None:
    settings = {"embedding": 8, "sessions": 64, "horizon": 4, "hidden": 16, "popular": 0.25, "radius": 0.1}
    settings |= {"epochs": 15, "eval_every": 15, "std": 0.2, "fisher": 64}

    def share(limit: float) -> float:
        model = built_with("fcpo", two_tastes, settings | {"limit": limit})
        with torch.no_grad():
            return float(model._run()[2][:, :, 1].mean())

    free, held = share(1.0), share(0.2)
    assert held < 0.3 and free > held + 0.1


def built_with(name: str, data: Dataset, settings: dict[str, Any]) -> Any:
    """Return the trained network of a baseline."""
    kept = {}
    kind = baseline(name)
    made = kind(kind.config_class(**settings))
    build = made.build  # type: ignore[attr-defined]

    def keep(episodes: Dataset) -> Any:
        kept["model"] = build(episodes)
        return kept["model"]

    made.build = keep  # type: ignore[attr-defined]
    made.fit(data, 0)
    return kept["model"]


@pytest.mark.parametrize("name", ["nicf", "fcpo"])
def test_a_policy_finds_each_users_kind(name: str, two_tastes: Dataset) -> None:
    settings: dict[str, Any] = {
        "nicf": {"embedding": 16, "history": 12, "horizon": 6, "epochs": 20, "learning_rate": 0.01}
        | {"updates": 10, "gamma": 0.2, "sessions": 100, "exploring": 5, "eval_every": 5},
        "fcpo": {"embedding": 8, "hidden": 16, "sessions": 32, "horizon": 4, "epochs": 5, "limit": 1.0},
    }[name]
    learned = evaluate_baseline(two_tastes, name, settings)[1]["metrics"]["ndcg@10"]
    popular = evaluate_baseline(two_tastes, "popularity")[1]["metrics"]["ndcg@10"]
    assert learned > popular + 0.1


@pytest.mark.parametrize("name", ["nicf", "fcpo"])
def test_users_with_one_item_or_none_and_few_items(
    name: str, few: Dataset, small_settings: dict[str, dict[str, Any]]
) -> None:
    """A session of such users begins with nothing known, and may have nothing left to show."""
    single = Interactions.from_pairs([0, 1, 2, 3], [0, 1, 2, 3], 5, 6)
    for train in (single, few.train):
        data = replace(few, train=train)
        kind = baseline(name)
        settings = small_settings[name] | {"horizon": 8}
        scores = kind(kind.config_class(**settings)).fit(data)(torch.arange(5))
        assert scores.shape == (5, 6) and scores.isfinite().all()


@pytest.mark.filterwarnings("error")
def test_fcpo_makes_no_step_to_a_policy_without_a_density(few: Dataset) -> None:
    """A trust region without an end has steps to deviations of 0; a single state has no deviation."""
    for settings in ({"radius": 1e9}, {"sessions": 1, "horizon": 1, "fisher": 1}):
        model = built("fcpo", few, **({"sessions": 8, "hidden": 4, "limit": 1.0} | settings))
        for _ in range(4):
            model.begin("")
            assert all(weight.isfinite().all() for weight in model.parameters())
            assert (model.log_std.exp() > 0).all()


def test_settings_out_of_bounds_are_refused_in_one_line() -> None:
    for name, field, value, message in (
        ("nicf", "gamma", 1.0, r"gamma must be >= 0 and < 1, found 1\.0"),
        ("nicf", "heads", 3, r"heads must divide embedding=50, found 3"),
        ("nicf", "epsilon", 1.5, r"epsilon must be >= 0 and <= 1, found 1\.5"),
        ("fcpo", "limit", -0.1, r"limit must be >= 0 and <= 1, found -0\.1"),
        ("fcpo", "radius", 0.0, r"radius must be > 0, found 0\.0"),
    ):
        with pytest.raises(SettingError, match=f"^{message}$"):
            baseline(name).config_class(**{field: value})
