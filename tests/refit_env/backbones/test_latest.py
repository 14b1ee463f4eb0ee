"""Tests of the cache of one result, and of times in which weights are held."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from refit_env.backbones.latest import Latest, freeze, hold, is_trained, release


@pytest.mark.parametrize("change", ["step", "fused step", "data", "frozen data", "load", "dtype"])
def test_a_result_is_recomputed_when_its_tensors_change(change: str) -> None:
    layer = torch.nn.Linear(2, 1).requires_grad_(change != "frozen data")
    kept: Latest[torch.Tensor] = Latest()
    made = []

    def make() -> torch.Tensor:
        made.append(1)
        return layer.weight.detach().clone()

    def get() -> torch.Tensor:
        return kept.get([layer.weight], make)

    assert get() is get() and len(made) == 1
    if change.endswith("step"):
        layer(torch.ones(1, 2)).sum().backward()
        torch.optim.AdamW(layer.parameters(), 0.1, fused=change == "fused step").step()
    elif change.endswith("data"):  # torch counts no version
        layer.weight.data.mul_(2.0)
    elif change == "load":
        layer.load_state_dict({"weight": torch.ones(1, 2), "bias": torch.ones(1)})
    else:
        layer.double()
    assert torch.equal(get(), layer.weight) and len(made) == 2
    for twin in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
        assert twin.get([layer.weight], lambda: torch.zeros(1)).tolist() == [0.0]


def test_parameters_are_held_until_the_last_time_ends_and_copies_are_not() -> None:
    layer = torch.nn.Linear(2, 1)
    weights = list(layer.parameters())
    hold(weights)
    hold(weights)
    twins = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
    assert all(is_trained(weight) for twin in twins for weight in twin.parameters())
    release(weights)
    assert not any(map(is_trained, weights))
    release(weights)
    assert all(map(is_trained, weights))


def test_what_was_computed_of_held_weights_is_valid_in_that_time_alone() -> None:
    layer, kept, made = torch.nn.Linear(2, 1), Latest[int](), list[int]()

    def get() -> int:
        return kept.get([layer.weight], lambda: made.append(1) or len(made))  # type: ignore[func-returns-value]

    for expected in (1, 2):
        hold(layer.parameters())
        assert get() == get() == expected
        hold(layer.parameters())  # the same time goes on
        assert get() == expected
        release(layer.parameters())
        release(layer.parameters())
    assert get() == get() == 3
    freeze(layer)
    assert get() == get() == 4
    layer.requires_grad_(True)
    assert all(map(is_trained, layer.parameters()))
    layer.requires_grad_(False).weight.data.mul_(2.0)
    assert get() == get() == 5
