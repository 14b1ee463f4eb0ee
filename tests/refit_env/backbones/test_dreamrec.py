"""Tests of DreamRec: masks, padding and guidance by hand, learning, saving."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from refit_env.backbones import Condition, backbone_class, make_backbone, published_config
from refit_env.backbones.dreamrec import DreamRec, DreamRecConfig, HistoryEncoder, step_embedding
from refit_env.data import Dataset, synthesize, synthesize_sessions
from refit_env.policy import DiffusionPolicy

ITEMS = 12
SMALL = DreamRecConfig(embedding=8, history=4, num_steps=20)


def model(**changes: object) -> DreamRec:
    torch.manual_seed(0)
    config = {"embedding": 8, "history": 4, "num_steps": 20} | changes
    out = make_backbone("dreamrec", ITEMS, config)
    assert isinstance(out, DreamRec)
    return out.eval()


def histories(*rows: list[int]) -> Tensor:
    return torch.tensor([row + [ITEMS] * (4 - len(row)) for row in rows])


@pytest.fixture(scope="module")
def sessions() -> Dataset:
    return synthesize_sessions(num_sessions=60, num_items=ITEMS)


# ---------------------------------------------------------------------- the encoder


def by_the_book(encoder: HistoryEncoder, embedded: Tensor, length: int) -> Tensor:
    """Compute the whole published block for one row: all queries, both masks; (D,) at the last item."""
    size, total = embedded.shape[1], embedded.shape[0]
    mask = (torch.arange(total) < length).float()[:, None]  # (L, 1)
    sequence = (embedded + encoder.positions.weight) * mask  # (L, D)
    queries = encoder.norms[0](sequence)
    logits = encoder.query(queries) @ encoder.key(sequence).T / math.sqrt(size)  # (L, L)
    causal = torch.ones(total, total).tril().bool() & (mask[:, 0] > 0)[None]
    shares = logits.masked_fill(~causal, -(2.0**32) + 1).softmax(1)
    x = encoder.norms[1](shares @ encoder.value(sequence) + queries)
    x = encoder.norms[2](x + encoder.narrow(functional.relu(encoder.widen(x))))
    return encoder.norms[3](x * mask)[length - 1]


@pytest.mark.parametrize("length", [1, 2, 4])
def test_the_last_state_is_the_whole_blocks(length: int) -> None:
    backbone = model()
    row = histories([3, 1, 4, 1][:length])
    state = backbone.encode(row.float()).value[0]
    expected = by_the_book(backbone.encoder, backbone.items(row[0]), length)
    assert torch.allclose(state, expected, atol=1e-6)


def test_padding_is_ignored() -> None:
    backbone = model()
    before = backbone.encode(histories([3, 1]).float()).value
    with torch.no_grad():
        backbone.items.weight[ITEMS] += 5.0
    assert torch.equal(backbone.encode(histories([3, 1]).float()).value, before)


def test_order_and_every_item_of_a_history_matter() -> None:
    backbone = model()
    states = backbone.encode(histories([3, 1], [1, 3], [3, 2], [2, 1], [3, 1, 1]).float()).value
    assert torch.pdist(states).min() > 1e-3


def test_an_empty_history_is_the_unconditional_embedding() -> None:
    backbone = model()
    states = backbone.encode(histories([], [2]).float()).value
    assert torch.equal(states[0], backbone.nothing[0]) and not torch.equal(states[1], backbone.nothing[0])
    u = torch.randn(1, 8)
    assert torch.allclose(
        backbone.predict_x0(u, 5, Condition(states[:1])), backbone.predict_x0(u, 5), atol=1e-5
    )


def test_a_row_does_not_depend_on_its_batch() -> None:
    backbone = model()
    rows = histories([3, 1], [5], [2, 2, 7, 11], []).float()
    together = backbone.encode(rows).value
    assert torch.allclose(together, torch.cat([backbone.encode(row[None]).value for row in rows]), atol=1e-6)


# ---------------------------------------------------------------------- the denoiser


@pytest.mark.parametrize("predictor", ["linear", "mlp"])
@pytest.mark.parametrize("timestep", [7, torch.tensor([0, 7, 19])])
def test_guidance_is_the_weighted_difference(predictor: str, timestep: int | Tensor) -> None:
    backbone = model(predictor=predictor, guidance=3.0)
    u, state = torch.randn(3, 8), torch.randn(3, 8)
    conditional, unconditional = backbone(u, state, timestep), backbone(u, backbone.nothing, timestep)
    guided = backbone.predict_x0(u, timestep, Condition(state))
    assert torch.allclose(guided, 4.0 * conditional - 3.0 * unconditional, atol=1e-5)
    assert (conditional - unconditional).abs().max() > 0.1


def test_the_one_layer_denoiser_is_the_layer() -> None:
    backbone = model()
    u, state, k = torch.randn(3, 8), torch.randn(3, 8), torch.tensor([0, 4, 19])
    assert isinstance(backbone.predictor, torch.nn.Linear)
    together = torch.cat([u, state, backbone.time(step_embedding(k, 8, u))], 1)
    assert torch.allclose(backbone(u, state, k), backbone.predictor(together), atol=1e-6)


def test_step_embedding_by_hand() -> None:
    found = step_embedding(torch.tensor([0, 2]), 4, torch.zeros(1))
    expected = [[0, 0, 1, 1], [math.sin(2), math.sin(2e-4), math.cos(2), math.cos(2e-4)]]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float32), atol=1e-6)


def test_distances_rank_the_nearest_items_first() -> None:
    backbone, u0 = model(similarity="distance"), torch.randn(5, 8)
    with torch.no_grad():
        backbone.items.weight.mul_(torch.rand(ITEMS + 1, 1))  # norms differ, so that inner products would not
    scores = backbone.scores(u0, torch.arange(5))
    nearest = torch.cdist(u0, backbone.score_table()).square()  # (5, I)
    torch.testing.assert_close(scores, (u0.square().sum(1, keepdim=True) - nearest) / 2)
    assert not torch.equal(scores.argmax(1), model().scores(u0, torch.arange(5)).argmax(1))


def test_the_padding_item_is_never_scored() -> None:
    backbone = model()
    with torch.no_grad():
        backbone.items.weight[ITEMS] = 100.0
    scores = backbone.scores(torch.ones(2, 8), torch.tensor([0, 1]))
    assert scores.shape == (2, ITEMS)
    assert torch.allclose(scores[0], backbone.items.weight[:ITEMS].sum(1), atol=1e-5)
    assert backbone.largest() == 100.0


# ---------------------------------------------------------------------- losses


@pytest.mark.parametrize("loss", ["elbo_loss", "ranking_loss"])
@pytest.mark.parametrize("predictor", ["linear", "mlp"])
def test_gradients_reach_every_weight(loss: str, predictor: str) -> None:
    backbone = model(predictor=predictor, dropout=0.0, drop_condition=0.5).train()
    shown = torch.randint(ITEMS, (64, 4), generator=torch.Generator().manual_seed(1))
    target = torch.randint(ITEMS, (64,), generator=torch.Generator().manual_seed(2))
    getattr(backbone, loss)(shown, target, torch.Generator().manual_seed(3)).backward()
    silent = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a softmax over keys is invariant to what is added to all of them
    assert silent == ["encoder.key.bias"] or all("key.bias" in name for name in silent)
    assert backbone.items.weight.grad is not None
    assert not backbone.items.weight.grad[ITEMS].any()  # padding has no gradient


def test_the_published_loss_is_the_squared_error_of_the_embedding() -> None:
    backbone = model(drop_condition=0.0)
    shown, target = histories([1], [2, 3]), torch.tensor([4, 5])
    loss = backbone.elbo_loss(shown, target, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    k = torch.randint(20, (2,), generator=generator)
    noise = torch.randn(2, 8, generator=generator)
    x0 = backbone.items(target)
    abar = torch.as_tensor(backbone.diffusion.abar)[k][:, None].float()
    u = abar.sqrt() * x0 + (1 - abar).sqrt() * noise
    out = backbone(u, backbone.encode(shown).value, k)
    assert torch.allclose(loss, (out - x0).square().mean(), atol=1e-6)


def test_dropout_is_off_in_evaluation_and_on_in_training() -> None:
    backbone = model(dropout=0.5)
    rows = histories([1, 2, 3]).float()
    assert torch.equal(backbone.encode(rows).value, backbone.encode(rows).value)
    backbone.train()
    assert not torch.equal(backbone.encode(rows).value, backbone.encode(rows).value)


# ---------------------------------------------------------------------- as a policy


def test_the_chain_from_zero_is_the_mean_of_the_chains_from_noise() -> None:
    """With one linear layer the noise-free chain from u_T = 0 is the mean of chains from noise."""
    policy = DiffusionPolicy(model(), num_steps=5, exploration_std=0.0)
    context = histories([1, 2]).float()
    with torch.no_grad():
        noise = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0))
        mean = policy.denoise(noise, policy.encode(context.expand(20_000, -1))).mean(0)
        assert torch.allclose(policy.denoise(torch.zeros(1, 8), context)[0], mean, atol=0.03)


def test_a_context_may_be_encoded_in_advance(sessions: Dataset) -> None:
    policy = DiffusionPolicy(model(), num_steps=4)
    context, u, t = histories([1, 2], [3]).float(), torch.randn(2, 8), torch.tensor([0, 2])
    encoded = policy.encode(context)
    assert torch.equal(policy.mean(u, t, context), policy.mean(u, t, encoded))
    assert torch.equal(policy.log_prob(u, u, 1, context), policy.log_prob(u, u, 1, encoded))
    assert encoded is not None and policy.encode(encoded) is encoded and policy.encode(None) is None
    twice = encoded.repeat_interleave(2)
    assert torch.equal(twice.value, encoded.value[[0, 0, 1, 1]])


def test_scores_are_frozen_in_a_policy_that_was_loaded(tmp_path: Path, sessions: Dataset) -> None:
    backbone = model(history=10)
    DiffusionPolicy(backbone, num_steps=4).save(tmp_path / "run", sessions)
    policy = DiffusionPolicy.load(tmp_path / "run")
    assert not policy.backbone.items.weight.requires_grad  # type: ignore[union-attr]
    assert sum(p.requires_grad for p in policy.parameters()) == sum(1 for _ in policy.parameters()) - 1
    users = torch.arange(5)
    scores = policy.scorer(sessions)(users)
    assert torch.equal(scores, DiffusionPolicy(backbone, num_steps=4).scorer(sessions)(users))
    assert scores.shape == (5, ITEMS)


def test_it_accepts_only_rows_of_sequential_data(sessions: Dataset) -> None:
    shown = model(history=10).shown(sessions, "cpu")
    rows = sessions.episodes
    assert np.array_equal(shown(torch.tensor([0, 3])).numpy(), rows.history[[0, 3]])  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="is for sequential, poi data; data set 'synthetic' is cf"):
        model(history=10).shown(synthesize(num_users=20, num_items=30), "cpu")
    with pytest.raises(ValueError, match=r"a history of 11 items is not available; rows of .* have 1\.\.10"):
        model(history=11).shown(sessions, "cpu")


def test_it_reads_the_latest_items_of_longer_histories(sessions: Dataset) -> None:
    rows = sessions.episodes
    row = int(rows.lengths.argmax())  # type: ignore[attr-defined]
    wanted = rows.train.of(row)[-4:].tolist()
    assert rows.lengths[row] > 4  # type: ignore[attr-defined]
    assert model().shown(sessions, "cpu")(torch.tensor([row]))[0].tolist() == wanted


def test_settings_and_names() -> None:
    assert backbone_class("dreamrec") is DreamRec
    assert published_config("dreamrec", "zhihu").guidance == 4.0
    assert published_config("dreamrec", "elsewhere") == DreamRecConfig()
    assert published_config("dreamrec", "kuairec").diffusion().num_steps == 2000
    abar = [published_config("dreamrec", name).diffusion().abar[-1] for name in ("yoochoose", "zhihu")]
    assert abar == pytest.approx([0.0063, 0.0064], abs=5e-5)
    with pytest.raises(ValueError, match="predictor must be one of linear, mlp; found 'cnn'"):
        model(predictor="cnn")
    with pytest.raises(ValueError, match="no ranking loss of its own"):
        make_backbone("diffrec", 5).ranking_loss(torch.zeros(1, 5), torch.zeros(1, 5))
