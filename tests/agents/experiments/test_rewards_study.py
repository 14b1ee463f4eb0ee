"""The studies of rewards: one's own reward as a variant, closed-form starts, what records hold of rewards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agents.commands.compare import Compare
from agents.commands.comparing import variants_of, with_reward
from agents.experiments.columns import COLUMNS
from agents.experiments.plan import plan
from agents.experiments.records import read_records
from agents.experiments.report import find
from agents.experiments.shipped import study_path
from agents.experiments.study import Study, read_study
from agents.experiments.summary import steps_to

TINY = """
# Rewards in seconds
title: Tiny rewards
seeds: 1
budget: {steps: 512, validations: 2}
variants:
  pretrained: {title: start, make: pretrain}
  ndcg: {title: ndcg, make: finetune, parent: pretrained, algorithm: reinforce, env: {reward: ndcg}}
  model: {title: by the model, make: finetune, parent: pretrained, algorithm: reinforce, settings_of: ndcg,
          env: {reward: racs, reward_kwargs: {neighbors_by: model}}}
environments:
  ReFiT-Synthetic-v0:
    models:
      linear:
        num_steps: 1
        options: {l2: 50.0}
        env: {relevance: recent}
        variants: {ndcg: {users_per_batch: 16}}
tables:
  - {kind: rows, title: "On {env}", each: true, columns: [ndcg@20, to 95 %, variance, cold users, cold gain]}
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yml").write_text(TINY)
    Path("my_reward.py").write_text(
        "def margin(scores, users):\n    return scores.amax(1) - scores.mean(1)\n"
    )
    return read_study(Path("tiny.yml"))


def test_ones_own_reward_is_a_variant(study: Study, run: Callable[..., object]) -> None:
    own = with_reward(study, "my_reward.py:margin")
    run(own, Path("tiny.jsonl"))
    records = {str(record["variant"]): record for record in read_records(Path("tiny.jsonl")).values()}
    assert list(records) == ["pretrained", "ndcg", "model", "margin"]
    assert records["pretrained"]["curve"] == {} and records["margin"]["env_steps"] == 512
    spread = records["ndcg"]["reward_spread"]
    assert isinstance(spread, dict) and 0 < spread["within_user_std"] < 0.5 and 0 < spread["within_share"] < 1
    entries = {entry["variant"]: entry for entry in find(own, list(records.values()), {}).entries}
    for name in ("to 95 %", "variance", "cold users", "cold gain"):
        assert isinstance(COLUMNS[name].cell(entries["ndcg"], "test"), str)
    assert COLUMNS["variance"].cell(entries["ndcg"], "test").endswith("% of all")
    before = plan(own, Path("tiny.jsonl"), variants=["margin"])[-1].settings
    Path("my_reward.py").write_text("def margin(scores, users):\n    return scores.amax(1)\n")
    assert plan(own, Path("tiny.jsonl"), variants=["margin"])[-1].settings != before


def test_ones_own_reward_is_run_beside_the_rewards_that_are_named(study: Study) -> None:
    place = "my_reward.py:margin"
    command = Compare(study="tiny.yml", variants="ndcg", reward_file=place)
    keys = [
        cell.key
        for cell in plan(with_reward(study, place), Path("tiny.jsonl"), variants=variants_of(command))
    ]
    assert [key.split("_")[2] for key in keys] == ["pretrained", "ndcg", "margin"]
    assert variants_of(Compare(study="tiny.yml", reward_file=place)) == []  # all


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("my_reward.py:marjin", "Did you mean 'margin'"),
        ("ndcg", "must read FILE.py:NAME"),
        ("my_ndcg.py:ndcg", "has a variant 'ndcg' already"),
    ],
)
def test_mistakes(place: str, message: str, study: Study) -> None:
    Path("my_ndcg.py").write_text("def ndcg(scores, users):\n    return scores.amax(1)\n")
    with pytest.raises(ValueError, match=message):
        with_reward(study, place)


def test_the_steps_to_a_share_of_the_gain() -> None:
    curve = {"steps": [0.0, 1.0, 2.0, 3.0], "valid/ndcg@20": [0.2, 0.29, 0.3, 0.1]}
    assert steps_to(curve) == 2.0 and steps_to(curve, 0.5) == 1.0
    assert steps_to({"steps": [0.0, 1.0], "valid/ndcg@20": [0.2, 0.1]}) is None and steps_to({}) is None


def test_the_shipped_studies_hold_the_rewards() -> None:
    rewards = read_study(study_path("rewards"))
    assert {"racs", "racs_ndcg", "ndcg", "r_ra", "r_cos", "rwr", "rwr-exp"} <= {
        v.key for v in rewards.variants
    }
    assert len(rewards.environments) == 8 and rewards.seeds == (0, 1, 2, 3, 4)
    parts = read_study(study_path("racs")).place("ReFiT-ML1M-v0")
    assert {"alpha0", "m1", "m50", "k5", "lists", "factors", "model"} <= {v.key for v in parts.variants}
