"""ELBO training: it learns, it resumes bit for bit, and the controls see what they should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.pretrain import PretrainConfig, Pretrainer, pretrain
from refit_env.backbones import make_backbone
from refit_env.data import Dataset, load_dataset
from refit_env.rewards import make_relevance

SMALL = PretrainConfig(epochs=4, users_per_batch=16, eval_every=2, patience=0)
NETWORK = {"hidden": (16,), "num_steps": 5, "noise_scale": 0.01, "noise_min": 0.001, "noise_max": 0.01}


def trainer(data: Dataset, config: PretrainConfig = SMALL, **kwargs: Any) -> Pretrainer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Pretrainer(
            data, make_backbone("diffrec", data.num_items, NETWORK), config, device="cpu", **kwargs
        )


def test_it_learns_to_rank_unseen_items() -> None:
    data = load_dataset("synthetic")
    result = pretrain(data, config=PretrainConfig(epochs=16, eval_every=4), device="cpu")
    start = result.history[0]["valid/recall@20"]
    assert result.best_value > 2 * start and result.best_epoch > 0
    assert not result.backbone.training


def test_the_same_seed_gives_the_same_model_and_another_another(small_data: Dataset) -> None:
    runs = [pretrain(small_data, config=SMALL, seed=s, device="cpu").backbone.state_dict() for s in (0, 0, 1)]
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])
    assert not all(torch.equal(runs[0][k], runs[2][k]) for k in runs[0])


def test_global_seeds_are_left_alone(small_data: Dataset) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    pretrain(small_data, config=SMALL, device="cpu")
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(small_data: Dataset, tmp_path: Path) -> None:
    whole = trainer(small_data).learn()

    def stop(epoch: int, scalars: dict[str, float]) -> None:
        if epoch == 3:  # after the state of epoch 2 was saved
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(small_data).learn(tmp_path, callback=stop)
    again = trainer(small_data).load(tmp_path).learn(tmp_path)
    mine, theirs = whole.backbone.state_dict(), again.backbone.state_dict()
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert [row["epoch"] for row in again.history] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_resume_refuses_another_configuration(small_data: Dataset, tmp_path: Path) -> None:
    trainer(small_data).save(tmp_path)
    with pytest.raises(ValueError, match="another configuration"):
        trainer(small_data, replace(SMALL, learning_rate=0.1)).load(tmp_path)


def test_the_same_information_control_sees_what_the_reward_leaves_visible(small_data: Dataset) -> None:
    control = trainer(small_data, replace(SMALL, target="recent"))
    users = torch.arange(small_data.num_users)
    relevance = make_relevance("recent", small_data)
    assert torch.equal(control.shown(users), torch.from_numpy(relevance.visible.toarray()))
    assert torch.equal(control.target(users), torch.from_numpy(small_data.train.csr.toarray()))


def test_seconds_and_patience_end_training(small_data: Dataset) -> None:
    limited = trainer(small_data, replace(SMALL, epochs=10_000, max_seconds=0.05)).learn()
    assert 0.05 <= limited.seconds < 5
    patient = trainer(small_data, replace(SMALL, epochs=1000, patience=4, learning_rate=0.0)).learn()
    assert patient.history[-1]["epoch"] == 4.0


def test_wrong_settings_are_refused(small_data: Dataset) -> None:
    with pytest.raises(ValueError, match="Did you mean 'recent'"):
        trainer(small_data, replace(SMALL, target="recnt"))
    with pytest.raises(ValueError, match="backbone has 3 items"):
        Pretrainer(small_data, make_backbone("diffrec", 3, NETWORK))


@pytest.mark.slow
def test_fidelity_on_ml_1m(data_home: Path) -> None:
    """DiffRec's split and protocol: Recall@20 and NDCG@20 near an independent run's .1741 and .1109."""
    from refit_env.evaluation import evaluate
    from refit_env.policy import DiffusionPolicy

    data = load_dataset("ml-1m")
    result = pretrain(data, config=PretrainConfig(epochs=16), device="cpu")
    for steps in (40, 4):
        means = evaluate(DiffusionPolicy(result.backbone, steps).scorer(data), data, "test").means_over_all()
        assert means["recall@20"] >= 0.170 and means["ndcg@20"] >= 0.108
