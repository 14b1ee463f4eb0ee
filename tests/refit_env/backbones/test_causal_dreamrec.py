"""Tests of DreamRec with a causal encoder: one-step chains, places, histories of sets, losses by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import pretrain
from refit_env.backbones import backbone_for, make_backbone
from refit_env.backbones.causal_dreamrec import CausalDreamRec
from refit_env.backbones.dreamrec import SIMILARITIES
from refit_env.data import Dataset, Interactions, synthesize, synthesize_sessions
from refit_env.errors import DataError, SettingError
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.relevance import make_relevance

ITEMS = 12


def model(**changes: object) -> CausalDreamRec:
    torch.manual_seed(0)
    out = make_backbone(
        "causal-dreamrec", ITEMS, {"embedding": 8, "history": 4, "num_steps": 20, "blocks": 1} | changes
    )
    assert isinstance(out, CausalDreamRec)
    return out.eval()


def histories(*rows: list[int]) -> Tensor:
    return torch.tensor([row + [ITEMS] * (4 - len(row)) for row in rows])


def perturbed(backbone: CausalDreamRec) -> CausalDreamRec:
    """Give the denoiser's last layer, which starts at 0, other weights."""
    with torch.no_grad():
        backbone.output_layer.weight.normal_(std=0.3)
        backbone.output_layer.bias.normal_(std=0.3)
    return backbone


@pytest.fixture
def ordered() -> Dataset:
    train = Interactions.from_pairs([0, 0, 0, 0, 0, 1, 1], [3, 0, 2, 1, 7, 2, 4], 3, ITEMS)
    valid = Interactions.from_pairs([0, 1], [4, 0], 3, ITEMS)
    test = Interactions.from_pairs([1], [1], 3, ITEMS)
    return Dataset("set", "cf", train, valid, test, time_ordered=True)


# ---------------------------------------------------------------------- the encoder


def test_a_state_does_not_depend_on_later_items_or_on_the_batch() -> None:
    backbone = model()
    rows = histories([3, 1], [3, 1, 5, 2], [7])
    states = backbone._states(rows)
    torch.testing.assert_close(states[0, :2], states[1, :2])
    alone = torch.cat([backbone.encode(row[None].float()).value for row in rows])
    torch.testing.assert_close(backbone.encode(rows.float()).value, alone)
    torch.testing.assert_close(alone[0], states[0, 1])  # the last item's state, not that of padding
    assert (alone[0] - backbone.encode(histories([1, 3]).float()).value[0]).abs().max() > 1e-3


@pytest.mark.parametrize("predictor", ["linear", "mlp"])
def test_an_untrained_denoiser_adds_nothing(predictor: str) -> None:
    backbone = model(predictor=predictor)
    state, u = torch.randn(3, 8), torch.randn(3, 8)
    assert torch.equal(backbone(u, state, torch.tensor([0, 5, 19])), state)
    assert not torch.equal(perturbed(backbone)(u, state, 5), state)


def test_without_guidance_the_state_is_the_condition_alone() -> None:
    rows = histories([3, 1], [7]).float()
    plain, guided = perturbed(model()), perturbed(model(guidance=1.0))
    guided.load_state_dict(plain.state_dict())
    u, condition = torch.randn(2, 8), plain.encode(rows)
    conditional, nothing = plain(u, condition.value, 3), plain(u, plain.nothing, 3)
    assert torch.equal(plain.predict_x0(u, 3, condition), conditional)
    torch.testing.assert_close(guided.predict_x0(u, 3, condition), 2 * conditional - nothing)


# ---------------------------------------------------------------------- histories of sets


def test_histories_of_sets_are_the_latest_visible_items(ordered: Dataset) -> None:
    backbone = model()
    shown = backbone.shown(ordered, "cpu")(torch.tensor([0, 1, 2]))
    assert shown.tolist() == histories([0, 2, 1, 7], [2, 4], []).tolist()
    visible = make_relevance("recent", ordered, fraction=0.4).visible  # hides items 1 and 7 of user 0
    seen = backbone.shown(ordered.showing(visible), "cpu")(torch.tensor([0, 1]))
    assert seen.tolist() == histories([3, 0, 2], [2]).tolist()


def test_examples_hold_each_next_item_once(ordered: Dataset) -> None:
    shown, target, ids = model(history=2).examples(ordered, "cpu")
    found = sorted(
        (tuple(h[: n + 1]), t[n])
        for h, t in zip(shown(ids).tolist(), target(ids).tolist(), strict=True)
        for n in range(2)
        if h[n] < ITEMS
    )
    pairs = [(h[-1], t) for h, t in found]
    assert sorted(pairs) == [(0, 2), (1, 7), (2, 1), (2, 4), (3, 0)]


def test_histories_are_no_longer_than_rows() -> None:
    data = synthesize_sessions(num_sessions=60, num_items=24)
    backbone = backbone_for(data, "causal-dreamrec", {"history": 50, "embedding": 8})
    assert backbone.context_size == data.episodes.history.shape[1] == 10  # type: ignore[attr-defined]
    assert backbone.shown(data, "cpu")(torch.tensor([0])).shape == (1, 10)


def test_data_without_an_order_is_refused(ordered: Dataset) -> None:
    unordered = replace(ordered, time_ordered=False)
    for use in (lambda: model().shown(unordered, "cpu"), lambda: backbone_for(unordered, "causal-dreamrec")):
        with pytest.raises(
            DataError, match="in order of time, which data set 'set' does not have: prepare it"
        ):
            use()
    with pytest.raises(SettingError, match="must divide embedding=8, found 3"):
        model(heads=3)


# ---------------------------------------------------------------------- losses


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_ranking_loss_is_the_mean_over_places(similarity: str) -> None:
    backbone = perturbed(model(guidance=1.0, similarity=similarity))
    shown, target = histories([3, 1, 5], [7]), torch.tensor([[1, 5, 2, 0], [4, 0, 0, 0]])
    found = backbone.ranking_loss(shown, target, torch.Generator().manual_seed(1))
    drawn = torch.Generator().manual_seed(1)
    k, noise = torch.randint(20, (2, 4), generator=drawn), torch.randn(2, 4, 8, generator=drawn)
    losses = []
    for row, place in [(0, 0), (0, 1), (0, 2), (1, 0)]:
        prefix = histories(shown[row, : place + 1].tolist()).float()
        x0 = backbone.predict_x0(noise[row, place][None], k[row, place][None], backbone.encode(prefix))
        scores = backbone.scores(x0, torch.zeros(1))
        losses.append(functional.cross_entropy(scores, target[row, place][None]))
    torch.testing.assert_close(found, torch.stack(losses).mean())


@pytest.mark.parametrize("task", ["cf", "sequential"])
def test_training_to_rank_beats_the_start(task: str) -> None:
    data = (
        synthesize(num_users=80, num_items=40, seed=1)
        if task == "cf"
        else synthesize_sessions(num_sessions=200, num_items=24)
    )
    options: dict[str, Any] = {"embedding": 16, "history": 6, "num_steps": 20, "blocks": 1, "dropout": 0.0}
    backbone = backbone_for(data, "causal-dreamrec", options, seed=0)
    policy = DiffusionPolicy(backbone, 1)
    before = evaluate(policy.scorer(data.episodes), data.episodes, "valid").means()
    config = PretrainConfig(
        objective="ranking", epochs=15, users_per_batch=16, learning_rate=5e-3, eval_steps=1, select="ndcg@20"
    )
    result = pretrain(data, backbone, config, seed=0, device="cpu")
    assert result.best_value > before["ndcg@20"] + 0.02
    losses = [row["train/loss"] for row in result.history if "train/loss" in row]
    assert losses[-1] < losses[0] - 0.1
