"""Groups of chains of one user: the users drawn, the errors, the combinations with other wrappers."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from refit_env.envs.wrappers.vector import FactorObservation, GroupedUsers, ResidualAction
from refit_env.policy import DiffusionPolicy


def users_of(info: dict[str, Any]) -> list[int]:
    return [int(user) for user in info["user"]]


@pytest.fixture
def make_grouped(make_vec: Any) -> Any:
    """Six sub-environments of two users."""

    def made(group_size: int = 3, num_envs: int = 6, **kwargs: Any) -> GroupedUsers:
        return GroupedUsers(make_vec(num_envs, autoreset_mode="Disabled", **kwargs), group_size)

    return made


@pytest.mark.parametrize("start", ["history", "diffused"])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_each_group_has_its_first_sub_environments_user(
    make_grouped: Any, make_vec: Any, start: str, backend: str
) -> None:
    alone = users_of(make_vec(6, start=start).reset(seed=5)[1])
    observations, info = make_grouped(start=start, backend=backend).reset(seed=5)
    assert users_of(info) == [alone[0]] * 3 + [alone[3]] * 3 and alone[0] != alone[3]
    u = torch.as_tensor(observations["u"])
    one_state = bool((u[0] == u[1:3]).all())
    assert one_state == (start == "history")  # a diffused start has each chain's own noise
    assert not torch.equal(u[0], u[3])


def test_seeds_repeat_and_go_on(make_grouped: Any) -> None:
    first, second = make_grouped(), make_grouped()
    rounds = [[users_of(env.reset(seed=s)[1]) for s in (1, None, None)] for env in (first, second)]
    assert rounds[0] == rounds[1]
    assert len({tuple(users) for users in rounds[0]}) == 3
    assert all(len(set(users[:3])) == len(set(users[3:])) == 1 for users in rounds[0])


def test_partial_resets_of_whole_groups(make_grouped: Any) -> None:
    envs = make_grouped()
    before, info = envs.reset(seed=0, options={"user": [7, 7, 7, 9, 9, 9]})
    assert users_of(info) == [7, 7, 7, 9, 9, 9]
    mask = np.array([False] * 3 + [True] * 3)
    after, info = envs.reset(options={"reset_mask": mask})
    assert info["_user"].tolist() == mask.tolist()
    assert users_of(info)[3] != 9 and len(set(users_of(info)[3:])) == 1
    assert np.array_equal(before["u"][:3], after["u"][:3])
    assert not np.array_equal(before["u"][3:], after["u"][3:])
    torn = np.array([True, True, True, False, True, True])
    with pytest.raises(
        ValueError, match=r"'reset_mask'\] differs within sub-environments 3\.\.5.*whole groups"
    ):
        envs.reset(options={"reset_mask": torn})
    with pytest.raises(ValueError, match=r"'user'\] differs within sub-environments 0\.\.2"):
        envs.reset(options={"user": [1, 2, 1, 4, 4, 4]})
    with pytest.raises(ValueError, match="must be 6 booleans"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    assert users_of(envs.reset(options={"user": 5})[1]) == [5] * 6
    tensor = torch.tensor([1, 1, 1, 2, 2, 2])
    assert users_of(envs.reset(options={"user": tensor})[1]) == tensor.tolist()


def test_options_are_left_as_they_were(make_grouped: Any) -> None:
    options: dict[str, Any] = {"reset_mask": np.ones(6, np.bool_)}
    make_grouped().reset(options=options)
    assert list(options) == ["reset_mask"]


@pytest.mark.parametrize("grouped_inside", [True, False])
def test_composes_with_the_other_wrappers(
    make_vec: Any, policy: DiffusionPolicy, grouped_inside: bool
) -> None:
    envs = make_vec(6, autoreset_mode="Disabled")
    if grouped_inside:
        envs = FactorObservation(ResidualAction(GroupedUsers(envs, 3), policy), rank=6)
    else:
        envs = GroupedUsers(FactorObservation(ResidualAction(envs, policy), rank=6), 3)
    observations, info = envs.reset(seed=2)
    factors = observations["factors"]
    assert (factors[:3] == factors[0]).all() and not (factors[3] == factors[0]).all()
    for _ in range(3):
        _, rewards, ended, _, last = envs.step(np.zeros(envs.action_space.shape, np.float32))
    assert ended.all() and last["user"].tolist() == users_of(info)
    assert len(set(rewards[:3].tolist())) == 1  # the pretrained chain of one user, three times


def test_groups_of_a_loop_over_single_environments_are_refused(make: Any) -> None:
    """They have no batch to draw for; the native vector environment is what is wrapped."""
    loop = SyncVectorEnv([make] * 4, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ValueError, match="GroupedUsers wraps denoising environments"):
        GroupedUsers(loop, 2)


def test_wrong_arguments_are_refused(make_vec: Any, make: Any) -> None:
    with pytest.raises(ValueError, match=r"'SameStep': make it with .*num_envs=6, autoreset_mode='Disabled'"):
        GroupedUsers(make_vec(6), 3)
    envs = make_vec(6, autoreset_mode="Disabled")
    for wrong in (4, 1, 0, -3, 12, True, 2.0):
        with pytest.raises(ValueError, match=r"group_size=.*divides num_envs=6"):
            GroupedUsers(envs, wrong)
    assert GroupedUsers(envs, np.int64(2)).group_size == 2
    with pytest.raises(ValueError, match="is a single environment"):
        GroupedUsers(make(), 2)  # type: ignore[arg-type]
    other: Any = gym.make_vec("CartPole-v1", num_envs=4)
    with pytest.raises(ValueError, match="wraps denoising environments"):
        GroupedUsers(other, 2)
    other.close()
