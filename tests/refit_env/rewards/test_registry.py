"""Names, settings, mixes and users' functions, and the errors for wrong ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from refit_env.data.dataset import Dataset
from refit_env.errors import SettingError
from refit_env.rewards import (
    ListReward,
    Reward,
    RewardContext,
    make_relevance,
    make_reward,
    register_reward,
    registry,
    reward_names,
)
from refit_env.rewards.class_settings import settings_of
from refit_env.rewards.collaborative import CollaborativeReward
from refit_env.rewards.racs import Racs
from refit_env.rewards.racs_ndcg import RacsNdcg

SCORES, USERS = torch.zeros(3, 6), torch.arange(3)


def own_reward(scores: Tensor, users: Tensor) -> Tensor:
    return scores.sum(1) + users


@pytest.fixture
def make(five: Dataset, model_for: Callable[[Dataset], Path]) -> Callable[..., Reward]:
    relevance, model = make_relevance("train", five), model_for(five)
    return lambda spec, **kwargs: make_reward(spec, five, relevance, **{"k": 2, "model": model, **kwargs})


@pytest.fixture
def names() -> Iterator[None]:
    """Names registered in a test are forgotten after it."""
    before = dict(registry._REWARDS)
    yield
    registry._REWARDS.clear()
    registry._REWARDS.update(before)


@pytest.mark.parametrize(
    ("spec", "kwargs", "message"),
    [
        (
            "rac",
            {},
            "unknown reward 'rac'. Did you mean 'racs'[?] Known: average_precision, calibration, cov",
        ),
        ({"racs": 1.0, "novlety": 1.0}, {}, "Did you mean 'novelty'"),
        ({}, {}, "reward needs a weight other than 0, found nothing"),
        ({"racs": 0, "ndcg": 0.0}, {}, "reward needs a weight .* found racs=0, ndcg=0"),
        ({"racs": math.nan}, {}, "reward weight of 'racs' must be a number.*found nan"),
        ({"racs": None}, {}, "reward weight of 'racs' must be a number.*found None"),
        ({"racs": 1e300}, {}, "reward weight of 'racs' must be >= -1000000.0 and <= 1000000.0"),
        ("racs", {"alpha": "much"}, "alpha of reward 'racs' must be a number, found 'much'"),
        ("ease", {"l2": [1]}, "l2 of reward 'ease' must be a number, found a list"),
        ("ease", {"leave_one_out": "no"}, "leave_one_out of reward 'ease' must be true or false"),
        ("recommender", {"checkpoint": 3}, "checkpoint of reward 'recommender' must be a folder, found 3"),
        ({"ndcg": 1, "racs": 1}, {"variant": 3}, "variant of reward 'racs' must be a text, found 3"),
        ("racs", {"alhpa": 0.3}, "alhpa is no setting of reward 'racs'. Did you mean 'alpha'[?]"),
        (
            "racs",
            {"power": 1},
            "Known: alpha, checkpoint, discount, neighbor_relevance, neighbors, neighbors_among",
        ),
        ("ndcg", {"alpha": 0.3}, "alpha is no setting of reward 'ndcg', which has none"),
        ({"ndcg": 1, "racs": 1}, {"haed": 1}, "haed is no setting of the mixed rewards"),
        ("racs", {"alpha": 1.5}, "alpha of reward 'racs' must be >= 0 and <= 1, found 1.5"),
        ("racs", {"alpha": math.nan}, "alpha of reward 'racs' must be a number, found nan"),
        ({"ndcg": 1, "racs": 1}, {"alpha": -1}, "alpha of reward 'racs' must be >= 0 and <= 1, found -1"),
        ("racs", {"neighbors": 0}, "neighbors of reward 'racs' must be >= 1"),
        ("racs", {"neighbor_relevance": "none"}, "neighbor_relevance of reward 'racs' must be one of"),
        ("racs", {"neighbors": 2.5}, "neighbors of reward 'racs' must be a whole number, found 2.5"),
        ("racs", {"variant": "target"}, "Did you mean 'target_list'"),
        ("racs", {"neighbor_relevance": "trian"}, "Did you mean 'train'"),
        ("racs", {"discount": "linear"}, "'flat' or 'log'"),
        ("long_tail", {"head": 2.0}, "head of reward 'long_tail' must be >= 0 and <= 1, found 2.0"),
        ("unbiased_hits", {"cap": 0.5}, "cap of reward 'unbiased_hits' must be >= 1"),
        ("unbiased_hits", {"power": -1.0}, "power of reward 'unbiased_hits' must be >= 0"),
        ("ease", {"l2": 0}, "l2 of reward 'ease' must be > 0"),
        ("gf_cf", {"rank": 0}, "rank of reward 'gf_cf' must be >= 1"),
        ("gf_cf", {"alpha": -0.5}, "alpha of reward 'gf_cf' must be >= 0"),
        ("recommender", {"temperature": 0.0}, "temperature of reward 'recommender' must be > 0"),
        ("r_ra", {"k": 0}, "k must be >= 1, found 0"),
        ("r_ra", {"k": 7}, r"1\.\.6"),
        ("r_ra", {"k": 2.0}, "k must be a whole number >= 1, found 2.0"),
        (lambda s, u: s.sum(1), {"alpha": 1}, "alpha is no setting of a function as reward, which has none"),
        ({own_reward: 1.0}, {"alpha": 1}, "alpha is no setting of the mixed rewards, which has none"),
        ({own_reward: 1.0, "own_reward": 1.0}, {}, "unknown reward 'own_reward'|are named 'own_reward'"),
        ({(lambda s, u: s): 1.0, (lambda s, u: u): 1.0}, {}, "two rewards of the mix are named '<lambda>'"),
    ],
)
def test_mistakes_are_named(
    make: Callable[..., Reward], spec: Any, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(spec, **kwargs)


def test_what_is_no_reward_is_refused(make: Callable[..., Reward]) -> None:
    for spec in (3, {3: 1.0}):
        with pytest.raises(
            SettingError, match=r"reward must be a name, a function .* or a mapping .* found 3"
        ):
            make(spec)
    for kind in (Racs, {Racs: 1.0}):
        with pytest.raises(SettingError, match="reward is the class Racs: pass its name"):
            make(kind)


@pytest.mark.parametrize(
    "name", sorted({*reward_names(rows=False, dislikes=False, outside=False)} - {"learned"})
)
def test_scores_that_do_not_fit_are_refused(make: Callable[..., Reward], name: str) -> None:
    reward = make(name)
    with pytest.raises(ValueError, match=r"shape \(3, 5\), expected \(3, 6\)"):
        reward(torch.zeros(3, 5), USERS)
    bad = SCORES.clone()
    bad[1, 2] = math.nan
    with pytest.raises(ValueError, match="row 1, item 2"):
        reward(bad, USERS)
    with pytest.raises(ValueError, match="row 1, item 2"):
        reward(bad, USERS, torch.zeros(3, 2, dtype=torch.int64))


@pytest.mark.parametrize("name", ["racs", "coverage"])
@pytest.mark.parametrize(
    ("lists", "message"),
    [(torch.zeros(5, 3), "shape"), (torch.full((5, 2), 6), "outside"), (torch.full((5, 2), -1), "outside")],
)
def test_tables_of_lists_are_checked(
    make: Callable[..., Reward], name: str, lists: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(name).set_lists(lists)


@pytest.mark.usefixtures("names")
def test_a_registered_reward_is_known_with_its_settings(make: Callable[..., Reward]) -> None:
    @register_reward("mean_score")
    class MeanScore(Reward):
        term_names = ("mean",)

        def __init__(self, context: RewardContext, *, scale: float = 1.0) -> None:
            super().__init__(context)
            self.scale = scale

        def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            value = scores.mean(1) * self.scale
            return value, {"mean": value}

    assert "mean_score" in reward_names()
    assert make("mean_score", scale=3.0)(SCORES + 1, USERS).value.tolist() == [3.0] * 3
    assert make({"mean_score": 0.5, "ndcg": 0.0}, scale=2.0)(SCORES + 1, USERS).value.tolist() == [1.0] * 3
    with pytest.raises(ValueError, match="Did you mean 'scale'"):
        make("mean_score", scael=3.0)
    with pytest.raises(ValueError, match="registered already"):
        register_reward("mean_score")(MeanScore)
    with pytest.raises(TypeError, match="subclass"):
        register_reward("other")(dict)  # type: ignore[type-var]


class Wrong(ListReward):
    """A list reward with one fault."""

    def __init__(self, context: RewardContext, *, fault: str = "") -> None:
        self.fault = fault
        if fault == "context":
            self.context = context
        elif fault != "base":
            ranks = 1 if fault == "discount" else context.k
            super().__init__(context, torch.ones(ranks), {"hits": 1.0})

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        items = 2 if self.fault == "gains" else self.context.num_items
        return {"hit" if self.fault == "term" else "hits": torch.ones(len(users), items)}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("base", r"reward 'wrong': its constructor must call super\(\)\.__init__\(context, \.\.\.\)"),
        ("context", r"reward 'wrong': its constructor must call super\(\)\.__init__\(context, \.\.\.\)"),
        ("discount", r"Wrong: discount of shape \(1,\), expected \([0-9]+,\): a weight for each rank"),
        ("gains", r"Wrong: term_gains returned shape \(3, 2\) for 'hits', expected \(3, [0-9]+\)"),
        ("term", "Wrong: term_gains returned the term 'hit', which has no weight; the weights are of hits"),
    ],
)
@pytest.mark.usefixtures("names")
def test_faults_of_a_users_class_are_named(make: Callable[..., Reward], fault: str, message: str) -> None:
    register_reward("wrong")(Wrong)
    with pytest.raises(ValueError, match=message):
        make("wrong", fault=fault)(SCORES, USERS)


def test_a_users_function(make: Callable[..., Reward]) -> None:
    reward = make(own_reward)
    result = reward(SCORES, USERS)
    assert result.value.tolist() == [0.0, 1.0, 2.0] and reward.term_names == ("custom",)
    assert {name: value.tolist() for name, value in result.terms.items()} == {"custom": [0.0, 1.0, 2.0]}
    assert torch.equal(result.lists, reward.top_k(SCORES, USERS))


def test_a_reward_is_a_function_too(make: Callable[..., Reward]) -> None:
    """A reward object can be passed to an environment like a plain function."""
    inner = make("novelty")
    assert torch.equal(make(inner)(SCORES, USERS).value, inner(SCORES, USERS).value)


def test_a_users_function_in_a_mix(make: Callable[..., Reward]) -> None:
    reward = make({"ndcg": 0.0, own_reward: 2.0})
    result = reward(SCORES, USERS)
    assert result.value.tolist() == [0.0, 2.0, 4.0]
    assert reward.term_names == ("ndcg", "own_reward")
    assert result.terms["own_reward"].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "given",
    [[0, 1, 2], np.array([0.0, 1.0, 2.0]), torch.tensor([0, 1, 2]), torch.tensor([False, True, True]) * 1],
)
def test_any_array_of_numbers_is_accepted(make: Callable[..., Reward], given: Any) -> None:
    reward = make(lambda scores, users: given)
    result = reward(SCORES, USERS)
    assert result.value.dtype == torch.float32 and result.value.shape == (3,)
    assert result.terms["custom"].dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (torch.zeros(3, 1), ValueError, r"returned shape \(3, 1\), expected \(3,\)"),
        (torch.tensor(1.0), ValueError, r"returned shape \(\), expected \(3,\)"),
        (torch.tensor([0.0, math.nan, 0.0]), ValueError, "nan for user 1"),
        (torch.tensor([0.0, 0.0, math.inf]), ValueError, "inf for user 2"),
        (torch.zeros(3, dtype=torch.complex64), TypeError, "complex64"),
        ("three", TypeError, "returned str"),
        (None, TypeError, "returned NoneType"),
    ],
)
def test_the_result_of_a_function_is_checked(
    make: Callable[..., Reward], given: Any, error: type[Exception], message: str
) -> None:
    def mine(scores: Tensor, users: Tensor) -> Any:
        return given

    with pytest.raises(error, match=f"reward 'mine' .*{message}" if "returned" not in message else message):
        make(mine)(SCORES, USERS)


def test_the_two_forms_of_racs_have_their_shared_settings_from_one_class() -> None:
    shared = {
        "alpha",
        "checkpoint",
        "neighbor_relevance",
        "neighbors",
        "neighbors_among",
        "neighbors_by",
    }
    for cls in (Racs, RacsNdcg):
        settings = settings_of(cls)
        assert {name for name, setting in settings.items() if setting.of is CollaborativeReward} == shared
    assert settings_of(Racs)["neighbors"].default == 10


@pytest.mark.usefixtures("names")
def test_a_reward_has_the_settings_that_it_passes_on(make: Callable[..., Reward]) -> None:
    @register_reward("own_racs")
    class OwnRacs(Racs):
        def __init__(self, context: RewardContext, *, bonus: float = 0.0, **racs: Any) -> None:
            super().__init__(context, **racs)
            self.bonus = bonus

    reward = make("own_racs", bonus=1.0, alpha=0.3, discount="log")
    assert isinstance(reward, OwnRacs) and (reward.bonus, reward.weights["n_k"]) == (1.0, 0.3)
    with pytest.raises(SettingError, match=r"alfa is no setting of .*'own_racs'.*'alpha'"):
        make("own_racs", alfa=0.3)
    with pytest.raises(SettingError, match="neighbors of reward 'own_racs' must be a whole number"):
        make("own_racs", neighbors="ten")
