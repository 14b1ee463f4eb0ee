"""The rules: which backbone, and which reward and relevance, for which data; and that they go together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.algorithms.reinforce import Reinforce
from agents.tuning.defaults import (
    LINEAR,
    MANY,
    PRETRAINED,
    backbones_for,
    default_backbone,
    default_finetuning,
)
from agents.tuning.inspection import DataFacts, inspect_data
from refit_env.backbones import make_backbone
from refit_env.data import synthesize
from refit_env.policy import DiffusionPolicy

DATA = synthesize(num_users=60, num_items=50)
TIME = inspect_data(DATA)
RANDOM = replace(TIME, split="random")
ROWS = replace(TIME, form="rows", task="sequential")


def test_a_closed_form_that_fits_the_catalogue() -> None:
    assert default_backbone(replace(TIME, items=LINEAR)).value == "linear"
    large = default_backbone(replace(TIME, items=LINEAR + 1))
    assert large.value == "spectral" and "10,001 items are more than 10,000" in large.why


@pytest.mark.parametrize(
    ("facts", "networks"),
    [
        (RANDOM, []),
        (replace(RANDOM, task="social", social=True), ["recdiff"]),
        (replace(RANDOM, task="social", social=False), []),
        (replace(RANDOM, task="social", social=True, train=PRETRAINED + 1), []),
        (ROWS, ["stacked", "dreamrec"]),
        (replace(ROWS, train=PRETRAINED + 1), ["stacked"]),
        (replace(ROWS, task="poi"), ["stacked"]),
    ],
)
def test_networks_are_tried_where_closed_forms_are_often_behind_them(
    facts: DataFacts, networks: list[str]
) -> None:
    assert backbones_for(facts) == ["linear", "spectral", *networks]


@pytest.mark.parametrize(
    "facts, backbone, reward, relevance",
    [
        (TIME, "linear", "ndcg", "recent"),
        (TIME, "diffrec", "ndcg", "recent"),
        (replace(TIME, ordered=False), "linear", "ndcg", "holdout"),  # nothing says what is recent
        (RANDOM, "linear", "ndcg", "holdout"),
        (RANDOM, "diffrec", "ease", "holdout"),
        (RANDOM, "recdiff", "ease", "none"),
        (replace(RANDOM, items=20_000, users=30_000), "diffrec", "gf_cf", "holdout"),
        (replace(RANDOM, items=20_000, users=3_000), "diffrec", "ease", "holdout"),  # solved by users
        (ROWS, "linear", "ndcg", "train"),
        (ROWS, "stacked", "ndcg", "train"),
        (ROWS, "dreamrec", "log_rank", "train"),
    ],
)
def test_reward_and_relevance_follow_from_the_data(
    facts: DataFacts, backbone: str, reward: str, relevance: str
) -> None:
    assert default_finetuning(facts, backbone).env == {"reward": reward, "relevance": relevance}


def test_rows_of_a_catalogue_that_is_too_large_for_linear_are_not_stacked() -> None:
    assert "stacked" not in backbones_for(replace(ROWS, items=LINEAR + 1))


def test_a_small_network_uses_longer_steps_than_a_matrix() -> None:
    small, matrix = (default_finetuning(ROWS, name).agent for name in ("stacked", "linear"))
    assert (small.learning_rate, small.exploration_std, small.iterations) == (2e-3, 0.02, 320)
    assert small.users_per_batch < matrix.users_per_batch
    assert matrix.learning_rate <= 1e-5


def test_a_closed_form_on_a_random_split_uses_small_steps_and_many_hold_outs() -> None:
    gentle, usual = (default_finetuning(facts, "linear").agent for facts in (RANDOM, TIME))
    assert gentle.learning_rate < usual.learning_rate and gentle.relevance_draws > usual.relevance_draws == 1


def test_few_interactions_take_shorter_steps() -> None:
    few = default_finetuning(replace(TIME, train=MANY), "linear").agent
    many = default_finetuning(replace(TIME, train=MANY + 1), "linear").agent
    assert few.learning_rate < many.learning_rate and few.exploration_std < many.exploration_std
    assert few.anneal_lr and many.anneal_lr and few.blends == many.blends > 0


@pytest.mark.parametrize("facts", [TIME, RANDOM], ids=["time", "random"])
@pytest.mark.parametrize("backbone", ["linear", "diffrec"])
def test_an_agent_accepts_them(facts: DataFacts, backbone: str) -> None:
    chosen = default_finetuning(facts, backbone)
    policy = DiffusionPolicy(make_backbone(backbone, DATA.num_items, {"num_steps": 5}), 1)
    kwargs = {"data": DATA, **chosen.env}
    agent = Reinforce(policy, "ReFiT-Custom-v0", chosen.agent, env_kwargs=kwargs, device="cpu")
    assert agent.env.problem.relevance.mode == chosen.env["relevance"]
