"""Objective ``ranking``: every CF backbone learns held-out items through the noise-free chain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.runs.work import Work, work_in
from agents.training.examples import RankedExamples
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer, has_ranking_loss, pretrain
from refit_env.backbones import Backbone, backbone_class, backbone_for, backbone_names
from refit_env.backbones.closed_form import ClosedForm
from refit_env.data import Dataset
from refit_env.errors import SettingError
from refit_env.policy import DiffusionPolicy
from refit_env.rewards import make_relevance

CONFIG = PretrainConfig(
    objective="ranking", target="recent", epochs=6, users_per_batch=16, eval_every=2, patience=0,
    learning_rate=3e-3, temperature=0.2,
)  # fmt: skip
BY_CHAIN = sorted(
    {*backbone_names()} - {"causal-dreamrec", "dreamrec", "diff-poi"}
)  # these have losses of their own


@pytest.fixture
def make_backbone_of(task_data: dict[str, Dataset], small_configs: dict[str, dict[str, Any]]) -> Any:
    """A factory: name -> a small backbone with its data set; closed forms are fitted."""

    def make(name: str, task: str | None = None) -> tuple[Dataset, Backbone]:
        data = task_data[task or backbone_class(name).tasks[0]]
        backbone = backbone_for(data, name, small_configs[name], seed=0)
        if isinstance(backbone, ClosedForm):
            backbone.fit(data)
        return data, backbone

    return make


def loss_of(trainer: Pretrainer) -> float:
    """Over all users."""
    return float(trainer._loss(trainer.examples.ids).detach())


@pytest.mark.parametrize("name", BY_CHAIN)
def test_every_backbone_learns_held_out_items(name: str, make_backbone_of: Any) -> None:
    data, backbone = make_backbone_of(name)
    assert not has_ranking_loss(backbone)
    config = replace(CONFIG, target="train") if data.has_rows else CONFIG
    trainer = Pretrainer(data, backbone, config, num_steps=2, device="cpu")
    before = loss_of(trainer)
    result = trainer.learn()
    trainer.backbone.load_state_dict(trainer.training_weights())
    assert loss_of(trainer) < before
    batches, rows = CONFIG.epochs, trainer.examples.ids.numel()
    assert work_in(result.history) == result.work == Work(2 * batches * rows, 2 * batches * rows)


@pytest.mark.parametrize("name", ["linear", "spectral"])
def test_closed_forms_learn_the_next_item_of_sequences(name: str, make_backbone_of: Any) -> None:
    data, backbone = make_backbone_of(name, "sequential")
    trainer = Pretrainer(data, backbone, replace(CONFIG, target="train"), num_steps=1, device="cpu")
    assert trainer.examples.hidden is None  # type: ignore[union-attr]
    before = loss_of(trainer)
    trainer.learn()
    trainer.backbone.load_state_dict(trainer.training_weights())
    assert loss_of(trainer) < before


@pytest.mark.parametrize("target", ["recent", "holdout"])
def test_it_ranks_what_a_reward_counts_and_shows_what_its_environment_shows(
    target: str, make_backbone_of: Any
) -> None:
    data, backbone = make_backbone_of("linear")
    trainer = Pretrainer(data, backbone, replace(CONFIG, target=target), num_steps=1, device="cpu")
    relevance, examples = make_relevance(target, data), trainer.examples
    ids = examples.ids
    assert ids.tolist() == relevance.users.tolist()
    visible, relevant = (torch.from_numpy(m.toarray())[ids] for m in (relevance.visible, relevance.relevant))
    assert torch.equal(examples.shown(ids), visible)
    assert torch.equal(examples.relevant(ids), relevant)  # type: ignore[union-attr]
    # By hand: mean over users of the mean over their held-out items of -log softmax, without what is shown.
    scores = visible @ backbone.weight[0] / CONFIG.temperature
    logs = torch.log_softmax(scores.masked_fill(visible > 0, -torch.inf), 1)
    each = [-logs.detach()[n][relevant[n] > 0].mean() for n in range(len(ids))]
    assert loss_of(trainer) == pytest.approx(float(torch.stack(each).mean()), rel=1e-5)


@pytest.mark.parametrize("name", ["diffrec", "cf-diff", "linear", "l-diffrec", "hdrm"])
def test_its_gradient_matches_finite_differences(name: str, make_backbone_of: Any) -> None:
    """In float64, through a chain of two steps, along random directions of all weights."""
    data, backbone = make_backbone_of(name)
    trainer = Pretrainer(data, backbone, CONFIG, num_steps=2, device="cpu")
    trainer._chain = DiffusionPolicy(backbone.double(), 2).double()
    ids, weights = trainer.examples.ids[:8], [p for p in backbone.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(trainer._loss(ids), weights, allow_unused=True)
    generator, step = torch.Generator().manual_seed(0), 1e-5
    for _ in range(3):
        along = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in weights]
        values = []
        for sign in (1, -2):
            with torch.no_grad():
                for p, d in zip(weights, along, strict=True):
                    p.add_(d, alpha=sign * step)
                values.append(float(trainer._loss(ids).detach()))
        with torch.no_grad():
            for p, d in zip(weights, along, strict=True):
                p.add_(d, alpha=step)
        own = sum(float((g * d).sum()) for g, d in zip(gradients, along, strict=True) if g is not None)
        assert own == pytest.approx((values[0] - values[1]) / (2 * step), rel=2e-3, abs=1e-6)


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(make_backbone_of: Any, tmp_path: Path) -> None:
    def trainer(epochs: int) -> Pretrainer:
        return Pretrainer(*make_backbone_of("linear"), replace(CONFIG, epochs=epochs), device="cpu")

    whole, first = trainer(6), trainer(2)
    whole.learn()
    first.learn(tmp_path)
    second = trainer(6).load(tmp_path)
    second.learn()
    mine, theirs = whole.training_weights(), second.training_weights()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_model_with_a_ranking_loss_learns_held_out_items_by_its_chain(make_backbone_of: Any) -> None:
    data, backbone = make_backbone_of("causal-dreamrec")
    trainer = Pretrainer(data, backbone, replace(CONFIG, epochs=2), num_steps=1, device="cpu")
    before, rows = loss_of(trainer), trainer.examples.ids.numel()
    assert isinstance(trainer.examples, RankedExamples)
    work = trainer.learn().work
    trainer.backbone.load_state_dict(trainer.training_weights())
    assert loss_of(trainer) < before and work == Work(2 * rows, 2 * rows)  # a history is encoded once
    own = Pretrainer(data, backbone, replace(CONFIG, target="train"), num_steps=1, device="cpu")
    assert not isinstance(own.examples, RankedExamples)


def test_rows_that_are_shown_whole_leave_nothing_to_rank(make_backbone_of: Any) -> None:
    data, backbone = make_backbone_of("diffrec")
    with pytest.raises(SettingError, match="must be recent or holdout for objective 'ranking'"):
        pretrain(data, backbone, replace(CONFIG, target="train"), device="cpu")
    with pytest.raises(SettingError, match="temperature must be > 0"):
        replace(CONFIG, temperature=0.0)
