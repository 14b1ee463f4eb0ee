"""The output layer's subspace: a row's theta does what folding it does, and its scale means what it says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from agents.training.config import BASES
from agents.training.output_subspace import output_subspace
from refit_env.data import Dataset
from refit_env.envs.config import ProblemConfig
from refit_env.envs.problem import DenoisingProblem, make_problem
from refit_env.policy import DiffusionPolicy

Factory = Callable[..., DiffusionPolicy]


def problem_on(data: Dataset) -> DenoisingProblem:
    return make_problem(ProblemConfig(data, num_steps=3, reward="ndcg", relevance="recent", k=5))


def thetas(count: int, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    drawn = scale * torch.randn(count, rank, rank + 1, generator=torch.Generator().manual_seed(2))
    return drawn[:, :, :-1], drawn[:, :, -1]


@pytest.mark.parametrize("basis", BASES)
def test_a_shifted_row_is_the_folded_policy(basis: str, make_policy: Factory, small_data: Dataset) -> None:
    policy, problem = make_policy().eval(), problem_on(small_data)
    subspace = output_subspace(policy, problem, 4, basis)
    layer = policy.backbone.output_layer
    matrices, shifts = thetas(6, 4, 0.3)
    u = problem.initial_state(torch.arange(6))
    with torch.no_grad():
        plain = policy.denoise(u)
        with subspace.shifted(layer, matrices, shifts):
            together = policy.denoise(u)
        assert torch.equal(policy.denoise(u), plain)  # nothing is left behind
        for n in range(6):
            other = make_policy().eval()
            subspace.fold(other.backbone.output_layer, layer, matrices[n], shifts[n])
            assert torch.allclose(other.denoise(u[n : n + 1])[0], together[n], atol=1e-4)
        assert float((together - plain).abs().mean()) > 0.01


def test_no_theta_is_the_pretrained_policy(make_policy: Factory, small_data: Dataset) -> None:
    policy, other = make_policy(), make_policy(seed=3)
    subspace = output_subspace(policy, problem_on(small_data), 4)
    pretrained = policy.backbone.output_layer
    subspace.fold(other.backbone.output_layer, pretrained, torch.zeros(4, 4), torch.zeros(4))
    assert torch.equal(other.backbone.output_layer.weight, pretrained.weight)
    assert torch.equal(other.backbone.output_layer.bias, pretrained.bias)


@pytest.mark.parametrize("basis", BASES)
def test_a_unit_of_theta_moves_listed_scores_by_one(
    basis: str, make_policy: Factory, small_data: Dataset
) -> None:
    policy, problem = make_policy(num_steps=1).eval(), problem_on(small_data)
    subspace = output_subspace(policy, problem, 4, basis)
    users = torch.as_tensor(problem.users)
    u = problem.initial_state(users)
    moved = []
    with torch.no_grad():
        plain = policy.denoise(u)
        lists = problem.reward_fn.top_k(plain, users)
        for seed in range(200):
            drawn = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed)).expand(len(users), 4, 5)
            with subspace.shifted(policy.backbone.output_layer, drawn[..., :-1], drawn[..., -1]):
                moved.append((policy.denoise(u) - plain).gather(1, lists).square().mean())
    assert float(torch.stack(moved).mean()) == pytest.approx(1.0, rel=0.15)


def test_a_layer_of_other_rows_is_refused(make_policy: Factory, small_data: Dataset) -> None:
    policy, problem = make_policy().eval(), problem_on(small_data)
    subspace = output_subspace(policy, problem, 2)
    with (
        subspace.shifted(policy.backbone.output_layer, *thetas(3, 2, 1.0)),
        pytest.raises(ValueError, match="given 2 rows for 3 episodes"),
    ):
        policy.denoise(problem.initial_state(torch.arange(2)))


def test_misfits_are_refused(
    make_policy: Factory, small_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, problem = make_policy().eval(), problem_on(small_data)
    for rank in (0, 17):  # there are 16 hidden units
        with pytest.raises(ValueError, match=r"must lie in 1\.\.16"):
            output_subspace(policy, problem, rank)
    with pytest.raises(ValueError, match="Did you mean 'factors'"):
        output_subspace(policy, problem, 2, "factor")
    cls = type(policy.backbone)
    monkeypatch.setattr(cls, "output_layer", property(lambda self: nn.Linear(16, 8)))
    for basis in ("factors", "relevant"):
        with pytest.raises(ValueError, match=f"basis '{basis}' needs .* use basis 'weights'"):
            output_subspace(policy, problem, 2, basis)
    monkeypatch.delattr(cls, "output_layer")
    with pytest.raises(
        ValueError, match=r"'diffrec' names no linear output layer, .* such as 'es': use another"
    ):
        output_subspace(policy, problem, 2)
