"""Policies that are frozen for a wrapper: which are refused, what is shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refit_env.backbones import make_backbone
from refit_env.envs.wrappers import ResidualAction
from refit_env.errors import CheckpointError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": 61}, "ranks 61 items, the environment's data set 'synthetic' has 60"),
        ({"steps": 4}, "has T=4 steps, the environment's 3: make the environment with num_steps=4"),
        ({"steps": 1}, "has T=1 steps"),
    ],
)
def test_policies_of_other_chains_are_refused(
    make: Any, make_policy: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ResidualAction(make(), make_policy(**changes))


def test_a_policy_without_deviation_is_refused(make: Any, make_policy: Any) -> None:
    with pytest.raises(ValueError, match="std is 0 at a step"):
        ResidualAction(make(num_steps=1), make_policy(steps=1, std=0.0))


def test_policies_of_another_backbone_are_refused(
    make: Any, make_policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_policy()
    monkeypatch.setattr(type(policy.backbone), "name", "dreamrec")
    with pytest.raises(ValueError, match="backbone is 'dreamrec', the environment's 'diffrec'"):
        ResidualAction(make(), policy)


def test_policies_of_another_size_are_refused(make: Any, make_policy: Any) -> None:
    policy = make_policy()
    policy.backbone.dim = 16
    with pytest.raises(ValueError, match="diffuses 16 numbers, the environment 60"):
        ResidualAction(make(), policy)


@pytest.mark.parametrize("policy", [None, 3, make_backbone("diffrec", 60, {"hidden": (4,)})])
def test_what_is_no_policy_is_refused(make: Any, policy: Any) -> None:
    with pytest.raises(ValueError, match="must be a DiffusionPolicy or the folder of a run"):
        ResidualAction(make(), policy)


def test_a_folder_without_policy_is_refused(make: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        ResidualAction(make(), tmp_path)


def test_environments_share_the_weights_of_a_folder_until_they_change(
    make: Any, make_policy: Any, tmp_path: Path
) -> None:
    make_policy().save(tmp_path)
    first, other = (ResidualAction(make(), path).action_map.policy for path in (tmp_path, str(tmp_path)))
    assert first.backbone is other.backbone and not first.training
    first.set_exploration(0.7)  # the chain is each wrapper's own
    assert float(other.std.max()) < 0.7
    make_policy(seed=1).save(tmp_path, overwrite=True)
    second = ResidualAction(make(), tmp_path).action_map.policy
    weights = [next(p.backbone.parameters()) for p in (first, second)]
    assert not weights[0].equal(weights[1])
