"""Tests of the factorisation into which rows are folded: by NumPy, and as a term of closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from refit_env.backbones import backbone_for, fold_in
from refit_env.backbones.carry_over import with_items
from refit_env.backbones.closed_form import ClosedForm
from refit_env.backbones.cooccurrence import Counting
from refit_env.backbones.fold_in import FoldIn
from refit_env.backbones.nearest_items import nearest_regressions
from refit_env.data import Dataset, synthesize
from refit_env.policy import DiffusionPolicy
from refit_env.utils.least_squares import LeastSquares, solve

OPTIONS = {"linear": {"l2": 5.0}, "spectral": {"l2": 0.05, "rank": 8}}
FACTORS = {"factorization": 0.25, "embedding": 3, "unobserved": 0.2, "factorization_l2": 0.3}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthesize(num_users=60, num_items=25)


@pytest.fixture
def small() -> FoldIn:
    """Random embeddings of six items in float64."""
    module = FoldIn(6, 3, unobserved=0.2).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        module.items.normal_(generator=generator)
        module.ridge.fill_(0.5)
        module.gain.copy_(torch.arange(1.0, 7.0))
    return module


def by_numpy(module: FoldIn, row: np.ndarray) -> np.ndarray:
    """Return the scores of one row, by the equation."""
    v = module.items.detach().numpy()
    weight = np.maximum(row, 0.0)
    ridge = float(module.ridge) * (weight.sum() + 0.2 * len(v))
    system = 0.2 * v.T @ v + v.T @ np.diag(weight) @ v + ridge * np.eye(3)
    return np.asarray((v @ np.linalg.solve(system, v.T @ row)) * module.gain.numpy())


@pytest.mark.parametrize("cells", [1, 2**20])
def test_scores_and_their_slopes_are_those_of_the_equation(
    small: FoldIn, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold_in, "CELLS", cells)  # one row at a time, or all
    u = torch.tensor([[1.0, 0, 0, 0.5, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, -0.3, 0, 0, 2, 0]])
    u = u.double()
    expected = np.stack([by_numpy(small, row) for row in u.numpy()])
    np.testing.assert_allclose(small(u).detach().numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(small(u.requires_grad_()).detach().numpy(), expected, atol=1e-12)
    inner = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1
    assert torch.autograd.gradcheck(small, (inner.requires_grad_(),))
    small.zero_grad()
    small(u.detach())[:3, 2].sum().backward()
    slope = small.items.grad
    assert slope is not None
    step = 1e-6
    for place in ((0, 0), (2, 1), (5, 2)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                small.items[place] += sign * step
                values.append(sum(by_numpy(small, row)[2] for row in u.detach().numpy()[:3]))
                small.items[place] -= sign * step
        assert abs(float(slope[place]) - (values[0] - values[1]) / (2 * step)) < 1e-5


def test_a_train_row_gets_the_embedding_that_als_computes_for_its_user(data: Dataset) -> None:
    module = FoldIn(25, 3, unobserved=0.2)
    module.fit(data.train.csr, 0.3)
    items = module.items.detach()
    users = solve(sp.csr_matrix(data.train.csr), items, LeastSquares(0.2, 0.3))
    rows = torch.as_tensor(data.train.csr.toarray())
    torch.testing.assert_close(module(rows).detach(), users @ items.T, atol=1e-5, rtol=0)
    seen = rows > 0
    assert (users @ items.T)[seen].mean() > 1.5 * (users @ items.T)[~seen].mean()


@pytest.mark.parametrize("name", ["linear", "spectral"])
def test_a_closed_form_adds_the_share_in_units_of_its_other_terms(data: Dataset, name: str) -> None:
    def fitted(**options: object) -> ClosedForm:
        backbone = backbone_for(data, name, {**OPTIONS[name], "score_power": 0.2, **options})
        assert isinstance(backbone, ClosedForm)
        backbone.fit(data)
        return backbone

    backbone, rest = fitted(**FACTORS), fitted()
    plain = FoldIn(25, 3, unobserved=0.2)
    plain.fit(data.train.csr, 0.3)
    rows = torch.as_tensor(data.train.csr.toarray())
    filled = rows[rows.sum(1) > 0]
    counts = np.maximum(np.bincount(data.train.items, minlength=25), 1)
    factor = torch.as_tensor((counts / counts.mean()) ** -0.2).float()
    with torch.no_grad():
        spread = rest(filled, 0).std(1).mean() / plain(filled).std(1).mean()
        expected = 0.75 * rest(rows, 0) + 0.25 * spread * plain(rows) * factor
        torch.testing.assert_close(backbone(rows, 0), expected, atol=1e-5, rtol=0)
    assert backbone.factors is not None
    backbone(rows[:2], 0)[:, 3].sum().backward()
    assert backbone.factors.items.grad is not None and backbone.factors.items.grad.any()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize("name", ["linear", "spectral"])
def test_known_items_keep_their_embeddings_and_new_ones_have_none(data: Dataset, name: str) -> None:
    backbone = backbone_for(data, name, {**OPTIONS[name], **FACTORS})
    assert isinstance(backbone, ClosedForm)
    backbone.fit(data)
    former = np.append(np.arange(25)[::-1], -1)
    wider = with_items(backbone, synthesize(num_users=60, num_items=26), former)
    assert isinstance(wider, ClosedForm) and wider.factors is not None and backbone.factors is not None
    state, old = wider.factors.state_dict(), backbone.factors.state_dict()
    torch.testing.assert_close(state["items"][:25], old["items"].flip(0), atol=0, rtol=0)
    assert not state["items"][25].any() and torch.equal(state["ridge"], old["ridge"])
    torch.testing.assert_close(state["gain"][:25], old["gain"].flip(0), atol=0, rtol=0)


def test_a_policy_with_a_factorisation_is_saved_and_loaded(data: Dataset, tmp_path: Path) -> None:
    backbone = backbone_for(data, "linear", FACTORS)
    assert isinstance(backbone, ClosedForm)
    backbone.fit(data)
    policy = DiffusionPolicy(backbone, 1)
    policy.save(tmp_path, data)
    users = torch.arange(10)
    loaded = DiffusionPolicy.load(tmp_path).eval()
    assert torch.equal(loaded.scorer(data)(users), policy.eval().scorer(data)(users))


def test_an_l2_that_rounding_removes_is_refused(data: Dataset) -> None:
    with pytest.raises(ValueError, match="factorization_l2 is too small to solve systems of 64 equations"):
        backbone = backbone_for(data, "linear", {"factorization": 0.5, "factorization_l2": 1e-30})
        assert isinstance(backbone, ClosedForm)
        backbone.fit(data)
    alike = sp.csr_matrix(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="regression_l2=1e-30 is too small to solve systems of 2 equations"):
        nearest_regressions(alike, None, 2, 1e-30, Counting(of_targets=True))
