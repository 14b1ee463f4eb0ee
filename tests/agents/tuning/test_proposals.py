"""What is proposed: the defaults first, then Optuna's, the same after a stop as without one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agents.tuning.inspection import inspect_data
from agents.tuning.proposals import propose
from agents.tuning.space import HOLDOUTS, first_points, rates, relevances, rewards, settings_of
from agents.tuning.trials import FINE_TUNING, Trial
from refit_env.data import synthesize

FACTS = inspect_data(synthesize(num_users=60, num_items=50))
STARTS = ["linear", "diffrec"]


def tried(count: int) -> list[Trial]:
    """Fine-tunings as a study proposes them, valued by their step size."""
    trials: list[Trial] = []
    for _ in range(count):
        params = propose(FACTS, STARTS, trials, seed=3)
        value = -abs(params["learning_rate"] - 3e-4)
        trials.append(Trial(FINE_TUNING, params["start"], {}, value, notes={"params": params}))
    return trials


def test_the_defaults_come_first_and_racs_is_among_them() -> None:
    points = first_points(FACTS, STARTS)
    assert [propose(FACTS, STARTS, tried(n), seed=3) for n in range(len(points))] == points
    assert [p["start"] for p in points] == ["linear", "linear", "linear", "diffrec", "linear"]
    assert [p["reward"] for p in points] == ["ndcg", "racs", "ndcg", "ndcg", "ndcg"]
    assert [p["relevance"] for p in points] == ["recent"] * 4 + ["holdout"]
    assert points[2]["learning_rate"] < points[0]["learning_rate"]


def test_a_study_that_was_stopped_proposes_what_an_unbroken_one_would() -> None:
    pytest.importorskip("optuna", reason="the extra 'tune' is not installed")
    trials = tried(9)
    for count in (5, 8):
        assert propose(FACTS, STARTS, trials[:count], seed=3) == trials[count].notes["params"]
    assert propose(FACTS, STARTS, trials[:6], seed=4) != trials[6].notes["params"]


def test_drawn_values_are_in_the_space() -> None:
    pytest.importorskip("optuna", reason="the extra 'tune' is not installed")
    for trial in tried(12)[3:]:
        params = trial.notes["params"]
        low, high = rates(FACTS, params["start"])
        assert low <= params["learning_rate"] <= high
        assert params["reward"] in rewards(FACTS, params["start"])
        chosen = settings_of(params, FACTS, 40)
        assert chosen.agent.iterations == 40 and chosen.agent.learning_rate == params["learning_rate"]
        assert chosen.env == {"reward": params["reward"], "relevance": params["relevance"]}
        assert chosen.agent.relevance_draws == (HOLDOUTS if params["relevance"] == "holdout" else 1)


def test_trials_of_a_start_that_is_gone_are_left_out() -> None:
    pytest.importorskip("optuna", reason="the extra 'tune' is not installed")
    assert propose(FACTS, ["linear"], tried(6), seed=3)["start"] == "linear"


@pytest.mark.parametrize(
    ("facts", "modes"),
    [
        ({}, ["recent", "holdout", "train"]),
        ({"split": "random"}, ["holdout", "recent", "train"]),
        ({"split": "random", "ordered": False}, ["holdout", "train"]),
        ({"form": "rows"}, ["train"]),
    ],
)
def test_validation_items_are_never_relevant(facts: dict[str, Any], modes: list[str]) -> None:
    assert relevances(replace(FACTS, **facts), "linear") == modes


def test_trials_of_a_version_without_relevance_are_continued() -> None:
    pytest.importorskip("optuna", reason="the extra 'tune' is not installed")
    trials = tried(6)
    for trial in trials:
        del trial.notes["params"]["relevance"]
    assert propose(FACTS, STARTS, trials, seed=3)["relevance"] in relevances(FACTS, "linear")
    assert settings_of(trials[0].notes["params"], FACTS, 10).env["relevance"] == "recent"


@pytest.mark.parametrize(
    ("reward", "relevance"), [("ease", "none"), ("ndcg", "holdout"), ("racs", "holdout")]
)
def test_a_reward_that_counts_relevant_items_has_some(reward: str, relevance: str) -> None:
    facts = replace(FACTS, split="random")
    point = {**first_points(facts, ["recdiff"])[0], "reward": reward}
    assert settings_of(point, facts, 10).env == {"reward": reward, "relevance": relevance}
