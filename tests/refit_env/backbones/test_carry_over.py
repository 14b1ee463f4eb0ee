from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from refit_env.backbones import Backbone, backbone_for, make_backbone
from refit_env.backbones.carry_over import with_items
from refit_env.data import Dataset, synthesize
from refit_env.errors import CheckpointError
from refit_env.policy import DiffusionPolicy

SMALL = {"hidden": (8, 6), "num_steps": 3}
OPTIONS = {"diffrec": SMALL, "t-diffrec": SMALL, "linear": {"l2": 10.0}, "spectral": {"rank": 6}}
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
    other = DiffusionPolicy(make_backbone("dreamrec", FIRST))
    with pytest.raises(
        ValueError, match=r"'dreamrec' cannot .* diffrec, linear, spectral, t-diffrec\. Train"
    ):
        other.carried_over(tmp_path, weeks[1])
    with pytest.raises(CheckpointError, match=r"ids\.json: there is no such file"):
        DiffusionPolicy(trained("linear", weeks[0])).carried_over(tmp_path, weeks[1])
    small = synthesize(num_users=20, num_items=24)
    wide = make_backbone("spectral", FIRST, {"rank": 28})
    with pytest.raises(ValueError, match="24 items do not fit this model, whose 'into'"):
        with_items(wide, small, np.arange(24))


@pytest.mark.parametrize("share", ["neighborhood", "regression"])
def test_nearest_items_are_not_carried_over_and_the_message_says_what_to_do(
    weeks: tuple[Dataset, Dataset], tmp_path: Path, share: str
) -> None:
    options = {"rank": 6, share: 0.5, "neighbors": 4, "regressors": 4}
    policy = DiffusionPolicy(backbone_for(weeks[0], "spectral", options, seed=3), 1)
    policy.save(tmp_path, weeks[0])
    wanted = rf"'spectral' with {share}=0\.5 cannot be .* Fit it on the new data without --init"
    with pytest.raises(ValueError, match=wanted):
        policy.carried_over(tmp_path, weeks[1])
