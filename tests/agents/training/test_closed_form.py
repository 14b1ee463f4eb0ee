"""The search of settings on validation: what it chooses, what it leaves alone, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.baselines import fit_baseline
from agents.training.closed_form import base_settings, fit_closed_form
from agents.training.closed_form_search import NEEDS, Trials, fitted_policy, search_settings
from agents.tuning.floor import as_term
from refit_env.backbones import backbone_class, backbone_for
from refit_env.data import Dataset, synthesize, synthesize_checkins
from refit_env.evaluation.ranking import evaluate, evaluated_groups, selecting_rule
from refit_env.evaluation.statistics import Gain
from refit_env.policy import DiffusionPolicy


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthesize(num_users=150, num_items=60)


@pytest.mark.parametrize("name", ["linear", "spectral"])
def test_it_gives_the_best_of_what_it_tried_unless_that_is_noise(data: Dataset, name: str) -> None:
    result = fit_closed_form(data, name, device="cpu")
    values = [row["valid/ndcg@20"] for row in result.tried]
    assert len(values) > 5 and result.best_value >= values[0]
    assert result.best_value == values[result.best_trial - 1]
    per_user = []
    for settings in (result.tried[max(range(len(values)), key=values.__getitem__)], result.tried[0]):
        policy = fitted_policy(data, name, settings["settings"], 1, torch.device("cpu"))
        per_user.append(evaluate(policy.scorer(data), data, "valid").per_user["ndcg@20"])
    best, first = per_user
    if (best - first).mean() < (best - first).std() / len(best) ** 0.5:  # the largest is noise over the first
        assert result.best_value < max(values) or result.best_trial == 1
    again = evaluate(DiffusionPolicy(result.backbone, 1).scorer(data), data, "valid", device="cpu")
    assert again.means()["ndcg@20"] == result.best_value
    settings = [tuple(sorted(row["settings"].items())) for row in result.tried]
    assert len(set(settings)) == len(settings)  # nothing is tried twice


def test_given_options_are_not_searched(data: Dataset) -> None:
    space = backbone_class("linear").search_space(data)  # type: ignore[attr-defined]
    options = {key: values[0] for key, values in space.items()} | {"l2": 7.0, "targets": "row"}
    result = fit_closed_form(data, "linear", options, device="cpu")
    assert len(result.tried) == 1 and result.backbone.config.l2 == 7.0


def test_only_settings_that_change_the_fit_are_tried(data: Dataset) -> None:
    tried = fit_closed_form(data, "linear", device="cpu").tried
    space = backbone_class("linear").search_space(data)  # type: ignore[attr-defined]
    for key, (needed, value) in NEEDS.items():
        if key not in space:
            continue
        active = value if callable(value) else value.__eq__
        other = [row["settings"] for row in tried if not active(row["settings"][needed])]
        for settings in other:  # of those that differ in this one alone, one is tried
            twins = [s for s in other if {**s, key: None} == {**settings, key: None}]
            assert len(twins) == 1, (key, twins)


def test_wrong_names_are_refused(data: Dataset) -> None:
    with pytest.raises(ValueError, match="has no closed form"):
        fit_closed_form(data, "diffrec")
    with pytest.raises(ValueError, match="ndgc@20"):
        fit_closed_form(data, "linear", select="ndgc@20", device="cpu")


def test_the_settings_of_a_hybrid_are_those_of_its_base_alone(data: Dataset) -> None:
    given = {"recency": "none", "targets": "row", "score_power": 0.0, "rank": 8, "user_power": 0.5}
    options = {"base": "spectral", "hidden": (8,), **given}
    found = base_settings(data, "hybrid", options, select="ndcg@20", device="cpu")
    assert found == fit_closed_form(data, "spectral", given, device="cpu").backbone.config_dict()
    unset = {**options, "l2": 0.0}  # 0 leaves l2 to the search
    assert base_settings(data, "hybrid", unset, select="ndcg@20", device="cpu") == found


def test_one_update_of_reinforce_moves_the_network_of_a_hybrid_alone(data: Dataset) -> None:
    policy = DiffusionPolicy(backbone_for(data, "hybrid", {"hidden": (8,)}, seed=0), 1)
    before = {name: value.clone() for name, value in policy.backbone.state_dict().items()}
    config = ReinforceConfig(iterations=1, users_per_batch=32, eval_every=1, learning_rate=1e-3)
    kwargs = {"data": data, "reward": "ndcg", "relevance": "recent", "k": 5}
    agent = Reinforce(policy, "ReFiT-Custom-v0", config, env_kwargs=kwargs, device="cpu")
    agent.learn()
    after = agent.training_weights()
    moved = {name for name, value in before.items() if not torch.equal(after[f"backbone.{name}"], value)}
    assert moved == {"network.layers.1.weight", "network.layers.1.bias"}  # the others' gradients are 0 yet


def test_reinforce_moves_its_matrix(data: Dataset) -> None:
    policy = DiffusionPolicy(fit_closed_form(data, "linear", {"recency": "rising"}, device="cpu").backbone, 1)
    before = policy.backbone.state_dict()["weight"].clone()
    config = ReinforceConfig(iterations=3, users_per_batch=32, eval_every=3, learning_rate=1e-3)
    kwargs = {"data": data, "reward": "ndcg", "relevance": "recent", "k": 5}
    agent = Reinforce(policy, "ReFiT-Custom-v0", config, env_kwargs=kwargs, device="cpu")
    problem = agent.env.problem
    assert problem.config.backbone == "linear"
    row = problem.initial_state(torch.as_tensor(problem.users[:1]))
    assert 0 < float(row[row > 0].min()) < 1  # the environment starts from the policy's weighted rows
    agent.learn()
    assert not torch.equal(agent.policy.backbone.state_dict()["weight"], before) or agent._best[1] == 0


def scores_by(data: Dataset, name: str, **settings: object) -> torch.Tensor:
    """Scores of all users by a fitted closed form, up to a factor."""
    policy = fitted_policy(data, name, settings, 1, torch.device("cpu"))
    out = policy.scorer(data)(torch.arange(data.num_users))
    return out / out.norm()


@pytest.mark.parametrize("name", ["linear", "spectral"])
@pytest.mark.parametrize("neighbors", [5, 59])
def test_a_neighbourhood_alone_is_rp3beta(data: Dataset, name: str, neighbors: int) -> None:
    alpha, beta = 0.7, 0.4
    near = {"count_power": alpha + beta, "balance": beta / (alpha + beta), "row_power": alpha, "shrink": 0.0}
    found = scores_by(data, name, neighborhood=1.0, neighbors=neighbors, **near)
    theirs = {"alpha": alpha, "beta": beta, "neighbors": neighbors}
    expected = fit_baseline(data, "rp3beta", theirs)[0](torch.arange(data.num_users))
    torch.testing.assert_close(found, expected / expected.norm(), atol=1e-6, rtol=0)


def test_the_neighbourhood_is_searched_alone_before_the_sum() -> None:
    """Its share rises from 0 by no step that is clear, but the whole of it is far better here."""
    tried = []

    class Counted(Trials):
        def value(self, settings: dict[str, object]) -> float:
            tried.append(settings)
            good = {0.0: 1.0, 1.0: 0.4}.get(settings["shrink"], -1.0)  # type: ignore[call-overload]
            return float(good * settings["neighborhood"])  # type: ignore[operator]

        def error_of(self, settings: dict[str, object], other: dict[str, object]) -> float:
            return 0.5

    small = synthesize(num_users=40, num_items=30)
    rule = selecting_rule("ndcg@20", small)
    trials = Counted(small, "linear", 1, rule, torch.device("cpu"), None, [])
    chosen = search_settings(trials, {"targets": "row", "recency": "none"})
    assert (chosen["neighborhood"], chosen["shrink"]) == (1.0, 0.0)
    assert tried[0]["neighborhood"] == 0.0
    tried.clear()
    assert search_settings(trials, {}, lambda share: share < 1.0)["neighborhood"] == 0.0  # no time for it
    assert {settings["neighborhood"] for settings in tried} == {0.0}


def test_a_factorisation_is_tried_with_the_settings_of_a_baseline() -> None:
    """With its first settings no share of it helps; with those of iALS one does, and is improved further."""
    own = {"factorization_l2": 0.3, "unobserved": 0.03, "embedding": 16}

    class Counted(Trials):
        def value(self, settings: dict[str, object]) -> float:
            good = all(settings[name] == value for name, value in own.items())
            share = float(settings["factorization"])  # type: ignore[arg-type]
            return share + 0.1 * (settings["score_power"] == 0.1) * bool(share) if good else -share

        def error_of(self, settings: dict[str, object], other: dict[str, object]) -> float:
            return 0.0

    small = synthesize(num_users=40, num_items=30)
    trials = Counted(small, "linear", 1, selecting_rule("ndcg@20", small), torch.device("cpu"), None, [])
    assert search_settings(trials, {})["factorization"] == 0.0
    chosen = search_settings(trials, {}, starts=[own])
    assert {**chosen, **own, "factorization": 0.8, "score_power": 0.1} == chosen
    assert search_settings(trials, {"embedding": 64}, starts=[own])["factorization"] == 0.0


class Valued(Trials):
    """Trials with a value that a test computes, and a count of those that are new."""

    new = 0

    def value(self, settings: dict[str, object]) -> float:
        known = self._row_of(settings)
        if known is None:
            self.new += 1
            known = {"settings": settings, "valid/ndcg@20": self.of(settings)}
            self.rows.append(known)
        return float(known["valid/ndcg@20"])

    def of(self, settings: dict[str, object]) -> float:
        good = 1.0 + (settings["shrink"] == 0.0) + (settings["neighbors"] == 7)
        return float(settings["neighborhood"]) * good + 0.1 * (settings["l2"] == 2000.0)  # type: ignore[arg-type]

    def error_of(self, settings: dict[str, object], other: dict[str, object]) -> float:
        return 0.0


def test_a_later_call_begins_with_the_settings_of_baselines_and_keeps_what_was_found() -> None:
    small = synthesize(num_users=40, num_items=30)
    given = {"targets": "row", "recency": "none"}
    rule = selecting_rule("ndcg@20", small)
    trials = Valued(small, "linear", 1, rule, torch.device("cpu"), None, [])
    first = search_settings(trials, given, lambda share: trials.new >= 10 * share)
    assert trials.new <= 11 and first["shrink"] != 0.0
    start = as_term("rp3beta", {"alpha": 1.0, "beta": 0.6, "neighbors": 7})
    assert start is not None
    again = Valued(small, "linear", 1, rule, torch.device("cpu"), None, trials.rows)
    found = search_settings(again, given, lambda share: again.new >= 10 * share, [start])
    assert again.rows[len(trials.rows)]["settings"]["neighbors"] == 7  # before anything else that is new
    assert (found["neighbors"], found["shrink"], found["neighborhood"]) == (7, 0.0, 1.0)
    late = Valued(small, "linear", 1, rule, torch.device("cpu"), None, again.rows)
    worse = {**start, "shrink": 1000.0, "neighbors": 3}
    assert search_settings(late, given, lambda share: True, [worse]) == found


@pytest.mark.parametrize("name", ["linear", "spectral"])
def test_settings_of_a_baseline_do_not_replace_given_options(data: Dataset, name: str) -> None:
    given = {"neighbors": 7, "recency": "none", "targets": "row", "score_power": 0.0}
    start = as_term("rp3beta", {"alpha": 1.0, "beta": 0.6, "neighbors": 20})
    assert start is not None
    tried = fit_closed_form(data, name, given, device="cpu", starts=[start]).tried
    assert {row["settings"]["neighbors"] for row in tried} == {7}
    assert any(row["settings"]["count_power"] == start["count_power"] for row in tried)


def test_settings_of_time_that_are_good_only_together_are_found() -> None:
    """Plain rows and plain targets are best here, each of them alone is worse than neither."""
    tried = []

    class Counted(Trials):
        def value(self, settings: dict[str, object]) -> float:
            tried.append(settings)
            plain = (settings["targets"] == "row") + (settings["recency"] == "none")
            return (0.5, 0.0, 1.0)[plain] - float(settings["neighborhood"])  # type: ignore[arg-type]

        def error_of(self, settings: dict[str, object], other: dict[str, object]) -> float:
            return 0.0

    small = synthesize(num_users=40, num_items=30)
    rule = selecting_rule("ndcg@20", small)
    for name in ("linear", "spectral"):
        trials = Counted(small, name, 1, rule, torch.device("cpu"), None, [])
        chosen = search_settings(trials, {})
        assert (chosen["targets"], chosen["recency"]) == ("row", "none")
        chosen = search_settings(trials, {"targets": "future"})
        assert (chosen["targets"], chosen["recency"]) == ("future", "reciprocal")
    assert tried[0]["targets"] == "future"  # the usual settings are the first trial: a rule's start


def test_a_neighbourhood_alone_is_item_knn(data: Dataset) -> None:
    settings = {"neighbors": 7, "shrink": 3.0, "balance": 0.3}
    near = as_term("item-knn", settings)
    assert near is not None
    expected = fit_baseline(data, "item-knn", settings)[0](torch.arange(data.num_users))
    found = scores_by(data, "linear", neighborhood=1.0, **near)
    torch.testing.assert_close(found, expected / expected.norm(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["linear", "spectral"])
def test_a_factorisation_alone_is_ials(data: Dataset, name: str) -> None:
    settings = {"embedding": 6, "unobserved": 0.2, "l2": 0.3}
    expected = fit_baseline(data, "ials", settings)[0](torch.arange(data.num_users))
    own = as_term("ials", settings)
    assert own is not None
    found = scores_by(data, name, factorization=1.0, **own)
    torch.testing.assert_close(found, expected / expected.norm(), atol=1e-4, rtol=0)  # one half step more


def test_settings_of_a_term_are_tried_with_the_term_alone_and_the_neighbourhood_without_it() -> None:
    """A factorisation and a regression on nearest items that improve are chosen, with settings of theirs."""
    tried: list[dict[str, object]] = []

    class Counted(Trials):
        def value(self, settings: dict[str, object]) -> float:
            tried.append(settings)
            own = {"factorization": settings["embedding"] == 32, "regression": settings["regressors"] == 50}
            return sum(float(settings[name]) * (1.0 + better) for name, better in own.items())  # type: ignore[arg-type]

        def error_of(self, settings: dict[str, object], other: dict[str, object]) -> float:
            return 0.0

    small = synthesize(num_users=40, num_items=30)
    trials = Counted(small, "spectral", 1, selecting_rule("ndcg@20", small), torch.device("cpu"), None, [])
    chosen = search_settings(trials, {"targets": "row", "recency": "none"})
    assert (chosen["factorization"], chosen["embedding"]) == (0.8, 32)
    assert (chosen["regression"], chosen["regressors"]) == (0.9, 50)
    for settings in tried:
        if settings["neighborhood"] == 1.0:
            assert not settings["factorization"] and not settings["regression"]
        elif not settings["factorization"]:
            assert (settings["embedding"], settings["unobserved"]) == (64, 0.1)


def test_settings_of_a_closed_form_on_rows_are_compared_with_whole_users() -> None:
    data = synthesize_checkins(num_users=40, num_items=24, checkins=30)
    trials = Trials(data, "linear", 1, selecting_rule("ndcg@20", data), torch.device("cpu"), None, [])
    one, other = {"l2": 1.0}, {"l2": 300.0}
    before, after = (
        evaluate(trials.policy_of(settings).scorer(data.episodes), data.episodes, "valid")
        for settings in (other, one)
    )
    values = before.per_user["ndcg@20"], after.per_user["ndcg@20"]
    groups = evaluated_groups(data, "valid")
    assert np.unique(groups).size < groups.size  # users with several rows
    found = trials.error_of(one, other)
    assert found == pytest.approx(Gain.of(*values, groups=groups).error)
    assert found != pytest.approx(Gain.of(*values).error, rel=0.01)
