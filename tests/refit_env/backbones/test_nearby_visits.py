"""Tests of the visits near a place: by NumPy, and as a term of closed forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from refit_env.backbones import backbone_class, backbone_for, few_values
from refit_env.backbones.carry_over import with_items
from refit_env.backbones.closed_form import ClosedForm
from refit_env.backbones.nearby_visits import NearbyVisits
from refit_env.data import Dataset, synthesize, synthesize_checkins
from refit_env.policy import DiffusionPolicy

PLACES = {"places": 0.5, "places_scale": 2.0}


def located(data: Dataset, seed: int = 0) -> Dataset:
    """Give the items coordinates within some ten kilometres; that of item 3 is unknown."""
    rng = np.random.default_rng(seed)
    lat, lon = rng.normal(1.3, 0.05, data.num_items), rng.normal(103.8, 0.05, data.num_items)
    lat[3] = np.nan
    return replace(data, item_features={"lat": lat, "lon": lon})


@pytest.fixture(scope="module")
def data() -> Dataset:
    return located(synthesize(num_users=60, num_items=25))


def closed(data: Dataset, name: str = "linear", **options: object) -> ClosedForm:
    own = {"l2": 5.0} if name == "linear" else {"l2": 0.05, "rank": 8}
    backbone = backbone_for(data, name, {**own, **options})
    assert isinstance(backbone, ClosedForm)
    backbone.fit(data)
    return backbone


def by_numpy(data: Dataset, rows: npt.NDArray[np.float64], scale: float) -> npt.NDArray[np.float64]:
    """Return f (B, I), by the equation and the law of cosines on the sphere."""
    features = data.item_features or {}
    lat, lon = (np.radians(features[name].astype(np.float32).astype(np.float64)) for name in ("lat", "lon"))
    point = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)
    distance = 6371.0088 * np.arccos(np.clip(point @ point.T, -1, 1))
    kernel = np.nan_to_num(np.exp(-distance / scale))
    np.fill_diagonal(kernel, 0.0)
    counts = np.maximum(np.bincount(data.train.items, minlength=data.num_items), 1)
    rows = np.maximum(rows, 0.0)
    own = rows @ kernel / np.maximum(rows.sum(1, keepdims=True), 1e-9)
    return np.asarray(np.log1p(own / (counts / counts.sum() @ kernel + 1e-9)))


@pytest.mark.parametrize("few_from", [1, 10_000])
def test_densities_are_those_of_the_equation(
    data: Dataset, few_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few_values, "FEW_FROM", few_from)  # by the values alone, or whole
    nearby = closed(data, **PLACES).nearby
    assert nearby is not None
    u = torch.zeros(4, 25)
    u[0, 5], u[1, [1, 3]], u[3, 8], u[3, 9] = 1.0, 0.5, 2.0, -0.3
    expected = by_numpy(data, u.double().numpy(), 2.0)
    np.testing.assert_allclose(nearby.density(u), expected, atol=2e-4)
    np.testing.assert_allclose(nearby.density(u.requires_grad_()).detach(), expected, atol=2e-4)
    assert not expected[:, 3].any() and not expected[2].any() and expected[0].max() > 1
    inner = torch.rand(2, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1
    assert torch.autograd.gradcheck(nearby.double(), (inner.requires_grad_(),))


@pytest.mark.parametrize("name", ["linear", "spectral"])
def test_a_closed_form_adds_them_in_units_of_its_other_terms(data: Dataset, name: str) -> None:
    backbone, rest = closed(data, name, **PLACES, score_power=0.2), closed(data, name, score_power=0.2)
    rows = torch.as_tensor(data.train.csr.toarray())
    filled = rows[rows.sum(1) > 0]
    nearby = torch.as_tensor(by_numpy(data, rows.double().numpy(), 2.0)).float()
    counts = np.maximum(np.bincount(data.train.items, minlength=25), 1)
    factor = torch.as_tensor((counts / counts.mean()) ** -0.2).float()
    with torch.no_grad():
        spread = rest(filled, 0).std(1).mean() / nearby[rows.sum(1) > 0].std(1).mean()
        expected = rest(rows, 0) + 0.5 * spread * nearby * factor
        torch.testing.assert_close(backbone(rows, 0), expected, atol=1e-5, rtol=1e-4)
    backbone(rows[:2], 0)[:, 4].sum().backward()
    assert backbone.nearby is not None and backbone.nearby.gain.grad is not None
    assert backbone.nearby.gain.grad.any()


def test_rows_of_check_ins_have_them_too() -> None:
    data = located(synthesize_checkins(num_users=12, num_items=20, seed=0))
    users, options = torch.arange(8), {"recency": "reciprocal", "repeats": "sum"}
    found, rest = closed(data, **options, **PLACES), closed(data, **options)
    with torch.no_grad():
        row = found.shown(data, "cpu")(users)
        assert not torch.allclose(found(row, 0), rest(row, 0))


def test_the_space_of_rows_has_them_where_items_have_coordinates(data: Dataset) -> None:
    rows = located(synthesize_checkins(num_users=12, num_items=20, seed=0))
    for name in ("linear", "spectral"):
        space = backbone_class(name).search_space(rows)  # type: ignore[attr-defined]
        assert space["places"][0] == 0.0 and len(space["places_scale"]) > 1
        assert "places" not in backbone_class(name).search_space(data)  # type: ignore[attr-defined]
        assert "places" not in backbone_class(name).search_space(synthesize(num_users=60, num_items=25))  # type: ignore[attr-defined]


def test_items_without_coordinates_are_refused() -> None:
    bare = synthesize(num_users=60, num_items=25)
    message = "places=0.5 scores items near those of the row; the items of 'synthetic' have no columns 'lat'"
    with pytest.raises(ValueError, match=message):
        closed(bare, **PLACES)
    with pytest.raises(ValueError, match=message):
        backbone = backbone_for(bare, "linear", PLACES)
        assert isinstance(backbone, ClosedForm)
        backbone.check_can_fit(bare)
    with pytest.raises(ValueError, match="25001 are more than 25000; use places=0"):
        NearbyVisits(25_001, 1.0)


@pytest.mark.parametrize("name", ["linear", "spectral"])
def test_a_saved_policy_and_other_items(data: Dataset, name: str, tmp_path: Path) -> None:
    backbone = closed(data, name, **PLACES)
    policy = DiffusionPolicy(backbone, 1).eval()
    policy.save(tmp_path, data)
    users = torch.arange(10)
    assert torch.equal(DiffusionPolicy.load(tmp_path).scorer(data)(users), policy.scorer(data)(users))
    wide = located(synthesize(num_users=60, num_items=26), seed=1)
    wider = with_items(backbone, wide, np.append(np.arange(25)[::-1], -1))
    assert isinstance(wider, ClosedForm) and wider.nearby is not None and backbone.nearby is not None
    for key, old in backbone.nearby.state_dict().items():
        assert torch.equal(wider.nearby.state_dict()[key][:25], old.flip(0)), key
    features = wide.item_features or {}
    height = np.sin(np.radians(features["lat"][25]))
    assert wider.nearby.points[25].norm() == pytest.approx(1.0) and wider.nearby.points[
        25, 2
    ] == pytest.approx(height)
