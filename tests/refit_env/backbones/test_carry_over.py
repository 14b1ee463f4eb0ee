from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from refit_env.backbones import Backbone, backbone_for, make_backbone
from refit_env.backbones.carry_over import with_items
from refit_env.backbones.nearest_items import NearestItems
from refit_env.data import Dataset, synthesize, synthesize_sessions
from refit_env.errors import CheckpointError
from refit_env.policy import DiffusionPolicy

SMALL = {"hidden": (8, 6), "num_steps": 3}
OPTIONS: dict[str, dict[str, Any]] = {
    "diffrec": SMALL,
    "t-diffrec": SMALL,
    "linear": {"l2": 10.0},
    "spectral": {"rank": 6},
}
FIRST, SECOND = 30, 36


@pytest.fixture(scope="module")
def weeks() -> tuple[Dataset, Dataset]:
    """Items a, b, ... of one week; of the next one 10 are gone, 16 are new, and all have other numbers."""
    first = synthesize(num_users=40, num_items=FIRST)
    second = synthesize(seed=1, num_users=50, num_items=SECOND)
    names = [f"item {n}" for n in range(10, 10 + SECOND)]
    order = np.random.default_rng(0).permutation(SECOND)
    return (
        replace(first, item_ids=np.array([f"item {n}" for n in range(FIRST)], object)),
        replace(second, item_ids=np.array(names, object)[order], user_ids=np.arange(20, 70)),
    )


def former(weeks: tuple[Dataset, Dataset]) -> npt.NDArray[np.int64]:
    """The former numbers, from the names."""
    numbers = [int(str(name).split()[1]) for name in weeks[1].items_by_id.take(np.arange(SECOND))]
    return np.array([n if n < FIRST else -1 for n in numbers], np.int64)


def trained(name: str, dataset: Dataset) -> Backbone:
    """A backbone with weights that are all different from 0."""
    backbone = backbone_for(dataset, name, OPTIONS[name], seed=3).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in backbone.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return backbone


@pytest.mark.parametrize("name", OPTIONS)
def test_rows_of_known_items_have_the_same_scores(name: str, weeks: tuple[Dataset, Dataset]) -> None:
    backbone, places = trained(name, weeks[0]), former(weeks)
    carried = with_items(backbone, weeks[1], places)
    known = np.flatnonzero(places >= 0)
    row = torch.rand(2, len(known), generator=torch.Generator().manual_seed(0))
    before, after = torch.zeros(2, FIRST), torch.zeros(2, SECOND)
    before[:, places[known]], after[:, known] = row, row
    old = backbone.predict_x0(before, 1)[:, places[known]]
    new = carried.predict_x0(after, 1)[:, known]
    torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-4)
    assert carried.trained_on is not None and carried.trained_on.fingerprint == weeks[1].fingerprint


def test_new_items_start_by_closed_form_or_as_the_network_does(weeks: tuple[Dataset, Dataset]) -> None:
    places = former(weeks)
    new, known = np.flatnonzero(places < 0), np.flatnonzero(places >= 0)
    linear = with_items(trained("linear", weeks[0]), weeks[1], places)
    fitted = backbone_for(weeks[1], "linear", OPTIONS["linear"])
    fitted.fit(weeks[1])  # type: ignore[operator]  # of the closed forms
    assert linear.weight[0][new].equal(fitted.weight[0][new])  # type: ignore[index]
    assert linear.weight[0][:, new].equal(fitted.weight[0][:, new])  # type: ignore[index]
    spectral = with_items(trained("spectral", weeks[0]), weeks[1], places)
    assert not spectral.into[new].any() and not spectral.out[:, new].any()  # type: ignore[index]
    assert spectral.into[known].all()  # type: ignore[index]
    network = with_items(trained("diffrec", weeks[0]), weeks[1], places, seed=5)
    initial = backbone_for(weeks[1], "diffrec", OPTIONS["diffrec"], seed=5).state_dict()
    name = "layers.0.weight"
    assert network.state_dict()[name][:, new].equal(initial[name][:, new])


def test_a_policy_finds_the_items_by_the_file_in_its_folder(
    weeks: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    own = DiffusionPolicy(trained("diffrec", weeks[0]), 2, eta=0.5)
    own.save(tmp_path, weeks[0])
    carried, changes = DiffusionPolicy.load(tmp_path).carried_over(tmp_path, weeks[1])
    assert changes == "users: 30 new, 20 known, 20 gone; items: 16 new, 20 known, 10 gone"
    assert carried.chain == own.chain
    assert carried.scorer(weeks[1])(torch.arange(3)).shape == (3, SECOND)
    expected = with_items(own.backbone, weeks[1], former(weeks)).state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in carried.backbone.state_dict().items())


def test_what_cannot_be_carried_over_is_refused(weeks: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    other = DiffusionPolicy(make_backbone("recdiff", FIRST, {"num_users": 40, "num_interactions": 9}))
    able = "causal-dreamrec, diffrec, dreamrec, hybrid, linear, spectral, stacked, t-diffrec"
    with pytest.raises(ValueError, match=rf"'recdiff' cannot .* {able}\. Train"):
        other.carried_over(tmp_path, weeks[1])
    with pytest.raises(CheckpointError, match=r"ids\.json: there is no such file"):
        DiffusionPolicy(trained("linear", weeks[0])).carried_over(tmp_path, weeks[1])
    small = synthesize(num_users=20, num_items=24)
    wide = make_backbone("spectral", FIRST, {"rank": 28})
    with pytest.raises(ValueError, match="24 items do not fit this model, whose 'into'"):
        with_items(wide, small, np.arange(24))


PAIRS = {"rank": 6, "neighbors": 4, "regressors": 4}


@pytest.mark.parametrize("options", [{"neighborhood": 0.5}, {"neighborhood": 0.5, "nearest_of": "target"}])
def test_pairs_of_known_items_are_carried_over_and_those_of_new_ones_are_fitted(
    weeks: tuple[Dataset, Dataset], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbone_for(weeks[0], "spectral", PAIRS | {"regression": 0.5} | options)
    fitted = backbone_for(weeks[1], "spectral", PAIRS | {"regression": 0.5} | options)
    backbone.fit(weeks[0])  # type: ignore[operator]  # of the closed forms
    fitted.fit(weeks[1])  # type: ignore[operator]
    places = former(weeks)
    carried = with_items(backbone, weeks[1], places)
    for name in ("near", "regressed"):
        before, after, fresh = (pair_matrix(one, name) for one in (backbone, carried, fitted))
        known = places >= 0
        both = np.outer(known, known)
        wanted = np.where(both, before[np.ix_(places, places)], fresh)
        stored = after != 0
        assert stored[both].any() and stored[~both].any()
        np.testing.assert_allclose(after[stored], wanted[stored], rtol=1e-6)
        # What is left out is no larger than what is kept of the same item.
        left = np.where(stored, 0, np.abs(wanted)).max(1)
        assert (left <= np.where(stored, np.abs(wanted), np.inf).min(1) + 1e-9).all()
        assert ((stored.sum(1) == 4) | (left == 0)).all()
    carried.check_state(carried.state_dict())
    row = torch.rand(3, SECOND)
    wanted_scores = carried.predict_x0(row, 0)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)  # by a matrix of all pairs
    torch.testing.assert_close(carried.predict_x0(row, 0), wanted_scores)


def pair_matrix(backbone: Backbone, name: str) -> npt.NDArray[np.float32]:
    """The weights of item pairs, (I, I), an item's own ones in its row."""
    part = backbone.get_submodule(name)
    assert isinstance(part, NearestItems)
    out = np.zeros((len(part.ids), len(part.ids)), np.float32)
    np.add.at(out, (np.arange(len(out))[:, None], part.ids.numpy()), part.values.detach().numpy())
    return out


def test_a_catalogue_smaller_than_the_neighbourhood_is_carried_over(weeks: tuple[Dataset, Dataset]) -> None:
    """As many pairs as there are items: all known pairs have their former weights."""
    backbone = backbone_for(weeks[0], "spectral", {"rank": 6, "neighborhood": 0.5, "neighbors": 100})
    backbone.fit(weeks[0])  # type: ignore[operator]
    places = former(weeks)
    known = np.flatnonzero(places >= 0)
    after = pair_matrix(with_items(backbone, weeks[1], places), "near")
    before = pair_matrix(backbone, "near")
    np.testing.assert_allclose(
        after[np.ix_(known, known)], before[np.ix_(places[known], places[known])], rtol=1e-6
    )


def test_the_network_of_a_hybrid_is_carried_over_with_its_base(weeks: tuple[Dataset, Dataset]) -> None:
    options = {"base": "spectral", "hidden": (8,), "num_steps": 3, "rank": 6}
    places = former(weeks)
    backbone = backbone_for(weeks[0], "hybrid", options, seed=3).eval()
    with torch.no_grad():
        for weight in backbone.get_submodule("network").parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)))
    carried = with_items(backbone, weeks[1], places)
    known = np.flatnonzero(places >= 0)
    before, after = torch.zeros(2, FIRST), torch.zeros(2, SECOND)
    before[:, places[known]] = after[:, known] = torch.rand(2, len(known))
    torch.testing.assert_close(
        carried.predict_x0(after, 1)[:, known], backbone.predict_x0(before, 1)[:, places[known]]
    )


@pytest.mark.parametrize("name", ["dreamrec", "causal-dreamrec", "stacked"])
def test_models_of_sessions_are_carried_over(name: str) -> None:
    first = replace(synthesize_sessions(num_sessions=60, num_items=20), item_ids=np.arange(20))
    second = synthesize_sessions(seed=1, num_sessions=60, num_items=24)
    second = replace(second, item_ids=np.arange(4, 28)[::-1].copy())
    places = np.array([n if n < 20 else -1 for n in range(27, 3, -1)])
    backbone = backbone_for(first, name, seed=3).eval()
    with torch.no_grad():
        for weight in backbone.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)))
    carried = with_items(backbone, second, places)
    old, new = backbone.state_dict(), carried.state_dict()
    if name == "stacked":  # its closed forms are those of the new data
        fresh = backbone_for(second, name).state_dict()
        again = {key for key in new if key.startswith(("base", "apart", "popular"))}
        assert again and all(new[key].equal(fresh[key]) for key in again)
        assert all(new[key].equal(old[key]) for key in new if key not in again)
        carried.check_can_learn(second)
    else:
        known = np.flatnonzero(places >= 0)
        assert new["items.weight"][known].equal(old["items.weight"][places[known]])
        assert new["items.weight"][24].equal(old["items.weight"][20])  # the padding
        assert all(new[key].equal(old[key]) for key in new if key != "items.weight")


@pytest.mark.parametrize("name", ["linear", "spectral"])
def test_factors_of_friends_items_are_carried_over(weeks: tuple[Dataset, Dataset], name: str) -> None:
    ties = np.array([[0, 1], [1, 0], [2, 5]], np.int32)
    one, two = (replace(week, task="social", social=ties) for week in weeks)
    options = OPTIONS[name] | {"friends": 0.5, "score_power": 0.3}
    backbone, fresh = (backbone_for(week, name, options) for week in (one, two))
    backbone.fit(one)  # type: ignore[operator]  # of the closed forms
    fresh.fit(two)  # type: ignore[operator]
    places = former(weeks)
    known = places >= 0
    now = with_items(backbone, two, places).state_dict()["by_friends"]
    assert now[known].equal(backbone.state_dict()["by_friends"][places[known]])
    assert now[~known].equal(fresh.state_dict()["by_friends"][~known]) and now.all()
