"""Tests of Diff-POI: the SDE, inputs, scores, gradients, freezing, saving."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from refit_env.backbones import Condition, backbone_for, make_backbone, sized_config
from refit_env.backbones.diffpoi import DiffPoi
from refit_env.data import Dataset, RowDataset, synthesize_checkins, synthesize_sessions
from refit_env.diffusion import Diffusion, vp_betas
from refit_env.errors import DataError
from refit_env.policy import DiffusionPolicy

OPTIONS = {"embedding": 8, "history": 6, "num_steps": 20, "chain_steps": 4, "buckets": 16}


@pytest.fixture(scope="module")
def checkins() -> Dataset:
    return synthesize_checkins(num_users=15, num_items=24, checkins=20)


def model(dataset: Dataset, **changes: object) -> DiffPoi:
    made = backbone_for(dataset, "diff-poi", OPTIONS | changes, seed=0)
    assert isinstance(made, DiffPoi)
    return made.eval()


def some(dataset: Dataset, backbone: DiffPoi, count: int = 64) -> tuple[Tensor, Tensor]:
    """Return the inputs of the first train rows, and their targets."""
    rows = dataset.episodes
    assert isinstance(rows, RowDataset)
    ids = torch.arange(count)
    return backbone.shown(dataset, "cpu")(ids), torch.as_tensor(rows.targets.items[:count]).long()


# ---------------------------------------------------------------------- the SDE


def test_the_chain_has_the_sdes_marginals() -> None:
    for steps in (7, 100):
        t = (np.arange(steps) + 1) / steps
        assert np.allclose(Diffusion.from_betas(vp_betas(steps)).abar, np.exp(-0.1 * t - 19.9 * t**2 / 2))
    with pytest.raises(ValueError, match="num_steps=0"):
        vp_betas(0)
    with pytest.raises(ValueError, match="low=0"):
        vp_betas(5, low=0.0)


def euler_maruyama(u: Tensor, score: Tensor, t: float, dt: float) -> tuple[Tensor, float]:
    """Return mean and deviation of a step from t to t - dt of du = -(beta u / 2 + beta score) dt + sqrt(beta)
    dw run backwards (Song et al., 2021, Eq. 6 with the VP-SDE's drift and diffusion)."""
    beta = 0.1 + 19.9 * t
    return u + (beta * u / 2 + beta * score) * dt, math.sqrt(beta * dt)


@pytest.mark.parametrize("t", [0.25, 0.5, 1.0])
def test_a_step_of_the_chain_is_the_reverse_euler_maruyama_step_to_first_order(t: float) -> None:
    """The difference of the means falls with the square of the step, the ratio of deviations tends to 1."""
    generator = torch.Generator().manual_seed(0)
    u, eps = torch.randn(2, 1, 5, generator=generator, dtype=torch.float64)
    apart, ratios = [], []
    for steps in (400, 800, 1600):
        chain = Diffusion.from_betas(vp_betas(steps))
        k = round(t * steps) - 1
        score = -eps / math.sqrt(1 - chain.abar[k])
        theirs, deviation = euler_maruyama(u, score, t, 1 / steps)
        ours = chain.posterior_mean(chain.x0_from_eps(u, eps, k), u, k)
        apart.append(float((ours - theirs).abs().max()))
        ratios.append(abs(chain.posterior_std[k] / deviation - 1))
    assert apart[0] / apart[1] == pytest.approx(4, rel=0.1) and apart[1] / apart[2] == pytest.approx(
        4, rel=0.1
    )
    assert ratios[0] > ratios[1] > ratios[2] and ratios[2] < 0.02


def test_with_the_true_score_the_chain_ends_in_the_data_distribution() -> None:
    """If clean vectors are N(m, 0.25), the reverse chain from noise ends in N(m, 0.25)."""
    chain, mean, var = Diffusion.from_betas(vp_betas(200)), 2.0, 0.25
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    for k in reversed(range(200)):
        abar = chain.abar[k]
        eps = (u - math.sqrt(abar) * mean) * math.sqrt(1 - abar) / (abar * var + 1 - abar)  # -std * score
        noise = torch.randn(u.shape, generator=generator, dtype=torch.float64)
        u = chain.posterior_mean(chain.x0_from_eps(u, eps, k), u, k) + chain.posterior_std[k] * noise
    assert float(u.mean()) == pytest.approx(mean, abs=0.02) and float(u.var()) == pytest.approx(var, abs=0.02)


# ---------------------------------------------------------------------- inputs


def test_visits_are_the_latest_with_their_gaps(checkins: Dataset) -> None:
    rows = checkins.episodes
    assert isinstance(rows, RowDataset) and checkins.train.timestamps is not None
    shown = model(checkins).shown(checkins, "cpu")(torch.tensor([0, 11]))
    assert shown.shape == (2, 6, 2)
    assert (
        shown[0, :, 0].tolist() == [float(checkins.train.of(0)[0])] + [24.0] * 5 and not shown[0, :, 1].any()
    )
    assert shown[1, :, 0].tolist() == checkins.train.of(0)[6:12].tolist()
    assert torch.allclose(shown[1, :, 1], torch.from_numpy(np.diff(checkins.train.timestamps[5:12])).float())


def test_an_encoding_does_not_depend_on_the_batch(checkins: Dataset) -> None:
    backbone = model(checkins)
    shown, _ = some(checkins, backbone, 7)
    ids = torch.arange(7)
    for encode in (backbone.context, backbone.initial_state):
        together = encode(ids, shown)
        assert together is not None and together.shape == (7, 8)
        alone = [encode(ids[n : n + 1], shown[n : n + 1]) for n in range(7)]
        assert torch.allclose(together, torch.cat(alone), atol=1e-5)  # type: ignore[arg-type]
    box = backbone.context_box()
    assert box is not None and backbone.encode_visits(shown).abs().max() <= box[1] and box[2] == 8
    assert backbone.initial_state(ids, shown).abs().max() <= backbone.largest()


def test_places_without_times_are_read_too(checkins: Dataset) -> None:
    backbone = model(checkins)
    shown, _ = some(checkins, backbone, 64)  # some of them places with several predecessors
    timeless = shown.clone()
    timeless[..., 1] = 0
    assert backbone.encode_visits(timeless).isfinite().all()
    assert (backbone.encode_visits(timeless) - backbone.encode_visits(shown)).abs().max() > 1e-5


def test_invalid_data_and_settings_are_refused(checkins: Dataset) -> None:
    with pytest.raises(ValueError, match="is for poi data"):
        model(synthesize_sessions(num_sessions=30))
    with pytest.raises(ValueError, match="predicts must be one of x0, noise; found 'mean'"):
        model(checkins, predicts="mean")
    with pytest.raises(ValueError, match="heads must divide embedding=8, found 3"):
        model(checkins, heads=3)
    with pytest.raises(ValueError, match=r"rows of 'synthetic-checkins' have 1\.\.50"):
        model(checkins, history=51).shown(checkins, "cpu")
    unordered = Dataset("town", "poi", checkins.train, checkins.valid, checkins.test, time_ordered=False)
    with pytest.raises(ValueError, match="'diffrec' can be used"):
        model(unordered)
    nowhere = Dataset("town", "poi", checkins.train, checkins.valid, checkins.test, time_ordered=True)
    with pytest.raises(DataError, match="no coordinates"):
        model(nowhere)


# ---------------------------------------------------------------------- scores


def test_scores_are_the_two_products(checkins: Dataset) -> None:
    backbone = model(checkins).double()
    u0, state = torch.randn(2, 3, 8, dtype=torch.float64)
    places, geo = backbone.places.weight[:24], backbone.geo(backbone.places.weight[:24], backbone.graph)
    scores = backbone.scores(u0, torch.arange(3), state)
    assert scores.shape == (3, 24) and torch.allclose(scores, state @ places.T + u0 @ geo.T)
    table = backbone.score_table()
    moved = backbone.scores(u0 + 1, torch.arange(3), state) - scores
    assert torch.allclose(moved, table.sum(1).expand(3, -1))


def test_the_table_follows_the_weights(checkins: Dataset) -> None:
    backbone = model(checkins)
    with torch.no_grad():
        before = backbone.geo_table()
        assert backbone.geo_table() is before
        next(backbone.geo.parameters()).add_(0.1)
        assert not torch.allclose(backbone.geo_table(), before)
    assert backbone.geo_table().requires_grad
    backbone.freeze_scores()
    assert not backbone.geo_table().requires_grad and backbone.double().geo_table().dtype == torch.float64


# ---------------------------------------------------------------------- losses


@pytest.mark.parametrize("loss", ["elbo_loss", "ranking_loss"])
@pytest.mark.parametrize("predicts", ["x0", "noise"])
def test_gradients_reach_every_weight(checkins: Dataset, loss: str, predicts: str) -> None:
    backbone = model(checkins, dropout=0.0, predicts=predicts, chain_noise=True).train()
    shown, target = some(checkins, backbone, 200)
    getattr(backbone, loss)(shown, target, torch.Generator().manual_seed(3)).backward()
    silent = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert all(name == "spatial.key.bias" for name in silent)  # a softmax is invariant to what all keys share
    assert backbone.places.weight.grad is not None and not backbone.places.weight.grad[24].any()


def test_the_loss_is_the_cross_entropy_of_the_policys_scores(checkins: Dataset) -> None:
    """Training and evaluation run the same chain."""
    backbone = model(checkins, denoising_weight=0.0)
    shown, target = some(checkins, backbone, 9)
    scores = DiffusionPolicy(backbone, num_steps=4).eval().recommend_scores(torch.arange(9), shown)
    expected = torch.nn.functional.cross_entropy(scores, target)
    assert torch.allclose(
        backbone.elbo_loss(shown, target, torch.Generator().manual_seed(0)), expected, atol=1e-5
    )


@pytest.mark.parametrize("predicts", ["x0", "noise"])
def test_the_denoising_loss_by_hand(checkins: Dataset, predicts: str) -> None:
    backbone = model(checkins, predicts=predicts)
    state, x0 = torch.randn(2, 5, 8)
    found = backbone.denoising_loss(state, x0, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    k = torch.randint(20, (5,), generator=generator)
    noise = torch.randn(5, 8, generator=generator)
    abar = torch.as_tensor(backbone.diffusion.abar)[k][:, None].float()
    out = backbone.denoiser(abar.sqrt() * x0 + (1 - abar).sqrt() * noise, state, k)
    assert torch.allclose(found, (out - (x0 if predicts == "x0" else noise)).square().mean(), atol=1e-6)


def test_the_spatial_query_is_detached_and_the_condition_too(checkins: Dataset) -> None:
    backbone = model(checkins, dropout=0.0)
    shown, _ = some(checkins, backbone, 9)
    state = backbone.encode_visits(shown).detach().requires_grad_(True)
    backbone.encode_places(shown, state, backbone.geo_table()).sum().backward()
    assert state.grad is None
    backbone.denoising_loss(state, torch.randn(9, 8)).backward()
    assert state.grad is None


def test_training_records_the_largest_value_of_its_chains(checkins: Dataset, tmp_path: Path) -> None:
    backbone = model(checkins, dropout=0.0)
    with torch.no_grad():
        backbone.denoiser.last.weight.mul_(100.0)
    shown, target = some(checkins, backbone, 9)
    before = backbone.largest()
    backbone.train().ranking_loss(shown, target)
    policy = DiffusionPolicy(backbone.eval(), num_steps=4)
    end = policy.denoise(backbone.initial_state(target, shown), backbone.context(target, shown))
    assert before < float(end.detach().abs().max()) <= backbone.largest()
    policy.save(tmp_path)
    assert DiffusionPolicy.load(tmp_path).backbone.largest() == backbone.largest()


# ---------------------------------------------------------------------- as a policy


def test_fine_tuning_trains_only_the_denoiser(checkins: Dataset) -> None:
    backbone = model(checkins)
    backbone.freeze_scores()
    left = [name for name, p in backbone.named_parameters() if p.requires_grad]
    assert left and all(name.startswith("denoiser.") for name in left)


@pytest.mark.parametrize("predicts", ["x0", "noise"])
def test_the_chain_is_deterministic_and_the_step_matters(checkins: Dataset, predicts: str) -> None:
    policy = DiffusionPolicy(model(checkins, predicts=predicts, dropout=0.5), num_steps=5)
    shown = policy.backbone.shown(checkins, "cpu")
    users = torch.arange(4)
    once = policy.recommend_scores(users, shown(users))
    assert torch.equal(once, policy.recommend_scores(users, shown(users))) and once.isfinite().all()
    u, state = torch.randn(2, 3, 8)
    together = policy.backbone.predict_x0(u, torch.tensor([0, 7, 19]), Condition(state))
    apart = [
        policy.backbone.predict_x0(u[n : n + 1], k, Condition(state[n : n + 1]))
        for n, k in enumerate((0, 7, 19))
    ]
    assert torch.allclose(together, torch.cat(apart), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(policy.backbone.predict_x0(u, 3), policy.backbone.predict_x0(u, 15))


def test_a_checkpoint_needs_no_data(checkins: Dataset, tmp_path: Path) -> None:
    policy = DiffusionPolicy(model(checkins), num_steps=4)
    policy.save(tmp_path, checkins)
    again = DiffusionPolicy.load(tmp_path)
    users = torch.tensor([0, 5, 40])
    assert torch.equal(policy.scorer(checkins)(users), again.scorer(checkins)(users))
    assert isinstance(again.backbone, DiffPoi) and again.backbone.graph.coordinates.isfinite().all()


def test_without_coordinates_a_network_can_be_built_and_filled(checkins: Dataset) -> None:
    bare = make_backbone("diff-poi", 24, OPTIONS)
    bare.load_state_dict(model(checkins).state_dict())
    users = torch.arange(3)
    shown = bare.shown(checkins, "cpu")(users)
    filled = model(checkins).initial_state(users, shown)
    assert torch.equal(bare.eval().initial_state(users, shown), filled)


def test_the_sizes() -> None:
    assert sized_config("diff-poi", "nyc").embedding == 64
    assert sized_config("diff-poi", "nyc", "small").history < sized_config("diff-poi", "tky").history
