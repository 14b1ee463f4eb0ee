"""Tests of the hybrid denoiser: its start, its gradients, its fit, its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from refit_env.backbones import backbone_for, make_backbone
from refit_env.backbones.hybrid import HybridDenoiser
from refit_env.data import Dataset, synthesize, synthesize_sessions
from refit_env.policy import DiffusionPolicy

BASES: dict[str, dict[str, Any]] = {
    "linear": {"l2": 5.0, "num_steps": 4},
    "spectral": {"l2": 0.05, "rank": 8, "num_steps": 4},
}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthesize(num_users=60, num_items=25)


def hybrid_of(data: Dataset, base: str, **options: object) -> HybridDenoiser:
    backbone = backbone_for(data, "hybrid", {"base": base, "hidden": (8,), **BASES[base], **options}, seed=0)
    assert isinstance(backbone, HybridDenoiser)
    return backbone


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", ["cf", "rows"])
def test_before_training_it_equals_the_closed_form_exactly(base: str, kind: str, data: Dataset) -> None:
    data = data if kind == "cf" else synthesize_sessions()
    closed = backbone_for(data, base, BASES[base] | {"recency": "rising"})
    closed.fit(data)  # type: ignore[operator]
    hybrid = hybrid_of(data, base, recency="rising").train()  # dropout changes nothing, either
    u = torch.rand(6, data.num_items, generator=torch.Generator().manual_seed(0))
    for step in (0, 3, torch.tensor([0, 1, 2, 3, 1, 0])):
        assert torch.equal(hybrid.predict_x0(u, step), closed.predict_x0(u, step))
    assert closed.predict_x0(u, 0).any()
    users = torch.arange(5)
    shown = [backbone.shown(data, "cpu")(users) for backbone in (hybrid, closed)]
    assert torch.equal(*shown)  # the rows are weighted as those of the base
    scores = [
        DiffusionPolicy(backbone.eval(), 2).scorer(data.episodes)(users) for backbone in (hybrid, closed)
    ]
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-5)  # spectral computes its chain at once


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("train_base", [False, True])
def test_gradients_reach_the_base_only_where_that_is_set(base: str, train_base: bool, data: Dataset) -> None:
    hybrid = hybrid_of(data, base, train_base=train_base)
    shown = torch.as_tensor(data.train.csr.toarray())
    hybrid.requires_grad_(False).requires_grad_(True)  # as trainers do
    optimizer = torch.optim.AdamW(hybrid.parameters(), 0.1, weight_decay=0.1)
    before = {name: value.clone() for name, value in hybrid.state_dict().items()}
    for _ in range(2):  # the hidden layers have a gradient once the last one is not 0
        optimizer.zero_grad()
        hybrid.elbo_loss(shown, shown, torch.Generator().manual_seed(0)).backward()
        optimizer.step()
    moved = {name for name, value in hybrid.named_parameters() if not torch.equal(value, before[name])}
    expected = {name for name in before if name.startswith("network.") and "sampler" not in name}
    expected |= {name for name in before if train_base and name.startswith("base.")}
    assert moved == expected


def test_the_network_depends_on_the_step(data: Dataset) -> None:
    hybrid = hybrid_of(data, "linear").eval()
    torch.nn.init.ones_(hybrid.network.output_layer.weight)
    u = torch.rand(2, 25, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(hybrid.predict_x0(u, 0), hybrid.predict_x0(u, 3))


@pytest.mark.parametrize("base", BASES)
def test_a_saved_hybrid_scores_the_same_and_keeps_what_is_trained(
    base: str, data: Dataset, tmp_path: Path
) -> None:
    hybrid = hybrid_of(data, base).eval()
    torch.nn.init.normal_(hybrid.network.output_layer.weight)
    policy = DiffusionPolicy(hybrid, 2)
    policy.save(tmp_path, data)
    again = DiffusionPolicy.load(tmp_path)
    assert torch.equal(again.scorer(data)(torch.arange(5)), policy.scorer(data)(torch.arange(5)))
    trained = {name.split(".")[1] for name, p in again.named_parameters() if p.requires_grad}
    assert trained == {"network"}


@pytest.mark.parametrize("base", BASES)
def test_l2_and_neighbors_are_those_of_the_base_unless_they_are_set(base: str) -> None:
    assert make_backbone("hybrid", 10, {"base": base}).base.config == make_backbone(base, 10).config
    assert make_backbone("hybrid", 10, {"base": base, "l2": 7.0}).base.config.l2 == 7.0
    assert make_backbone("hybrid", 10, {"base": base, "neighbors": 3}).base.config.neighbors == 3


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"base": "spectra"},
            "base must be one of linear, spectral; found 'spectra'. Did you mean 'spectral'",
        ),
        ({"l2": -1.0}, r"l2 must be >= 0 \(0: the default of the base\), found -1"),
        ({"dropout": 1.0}, "dropout must be >= 0 and < 1, found 1"),
        ({"hiden": (8,)}, "Did you mean 'hidden'"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_backbone("hybrid", 10, options)
