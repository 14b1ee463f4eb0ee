"""The wrappers of vector environments: equal to Gymnasium's loop over single ones, in both backends.

A batch's matrix products round otherwise than a single row's, so numbers are compared to six digits and
everything else exactly.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from refit_env.envs.problem import DenoisingProblem
from refit_env.envs.wrappers.vector import FactorObservation, LowRankAction, ResidualAction, TopKObservation
from refit_env.policy import DiffusionPolicy


def assert_close(ours: Any, theirs: Any, path: str = "") -> None:
    """Same keys in the same order, types, dtypes and shapes, and numbers to six digits, all the way down."""
    assert type(ours) is type(theirs), path
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), path
        for key in theirs:
            assert_close(ours[key], theirs[key], f"{path}.{key}")
    elif isinstance(theirs, tuple) or (isinstance(theirs, np.ndarray) and theirs.dtype == object):
        assert len(ours) == len(theirs), path
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_close(a, b, f"{path}[{i}]")
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, path
        assert np.allclose(ours, theirs, atol=1e-6), path
    else:
        assert ours == theirs, path


def as_numpy(value: Any) -> Any:
    """Tensors as arrays, all the way down."""
    if isinstance(value, dict):
        return {key: as_numpy(item) for key, item in value.items()}
    return value.numpy() if isinstance(value, torch.Tensor) else value


def actions_for(envs: Any, seed: int, count: int) -> list[np.ndarray]:
    """Small actions: large ones would all be clipped to the same corner of the box."""
    rng = np.random.default_rng(seed)
    shape = (count, envs.num_envs, *envs.single_action_space.shape)
    return list(rng.standard_normal(shape, dtype=np.float32))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_equals_the_loop_over_wrapped_single_environments(
    stack: Any, mode: AutoresetMode, make: Any, make_vec: Any, policy: DiffusionPolicy
) -> None:
    ours = stack.vector(make_vec(3, autoreset_mode=mode.value), policy)
    theirs = SyncVectorEnv([lambda: stack.single(make(), policy)] * 3, autoreset_mode=mode)
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    assert ours.single_action_space == theirs.single_action_space
    assert_close(ours.reset(seed=7), theirs.reset(seed=7))
    for step, actions in enumerate(actions_for(ours, 0, 8)):  # beyond two ends
        assert_close(ours.step(actions), theirs.step(actions))
        if step == 3:  # from here on the chains are out of step
            mask = np.array([True, False, False])
            options = {"reset_mask": mask}
            assert_close(ours.reset(options=dict(options)), theirs.reset(options=dict(options)))
        over = ours.env.unwrapped._ended()
        if over is not None and mode == AutoresetMode.DISABLED:
            options = {"reset_mask": over}
            assert_close(ours.reset(options=dict(options)), theirs.reset(options=dict(options)))
    assert len(set(ours.unwrapped._t)) > 1


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_tensors_hold_what_the_arrays_hold(
    stack: Any, mode: str, make_vec: Any, policy: DiffusionPolicy
) -> None:
    arrays, tensors = (
        stack.vector(make_vec(3, autoreset_mode=mode, backend=backend), policy)
        for backend in ("numpy", "torch")
    )
    seen, shown = tensors.reset(seed=1)[0], arrays.reset(seed=1)[0]
    for actions in actions_for(arrays, 0, 3):
        assert all(isinstance(value, torch.Tensor) for value in seen.values())
        assert_close(as_numpy(seen), shown)
        given = torch.from_numpy(actions).requires_grad_(True)
        (seen, paid, *_, tensor_info), (shown, earned, *_, info) = tensors.step(given), arrays.step(actions)
        assert not any(value.requires_grad for value in seen.values())
        assert np.allclose(paid.numpy(), earned)
    assert_close(as_numpy(seen), shown)
    if mode == "SameStep":
        ends = {name: np.stack([end[name] for end in info["final_obs"]]) for name in shown}
        assert_close(as_numpy(tensor_info["final_obs"]), ends)
        info, tensor_info = info["final_info"], tensor_info["final_info"]
    assert np.array_equal(tensor_info["top_k"].numpy(), info["top_k"])


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_the_zero_action_is_the_pretrained_chain_bit_for_bit(
    backend: str, make_vec: Any, policy: DiffusionPolicy
) -> None:
    envs = ResidualAction(make_vec(4, backend=backend), policy)
    observations, _ = envs.reset(seed=0)
    for _ in range(2):  # the second chains start by autoreset
        start = torch.as_tensor(observations["u"])
        for _ in range(3):
            observations, _, _, _, info = envs.step(np.zeros((4, 60), np.float32))
        final = info["final_obs"]
        u0 = final["u"] if backend == "torch" else torch.from_numpy(np.stack([end["u"] for end in final]))
        assert torch.equal(u0, policy.denoise(start))


def test_policies_get_the_context_of_the_user(
    make_vec: Any, policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DenoisingProblem, "context", lambda self, users: users[:, None].float())
    contexts: list[list[float]] = []
    mean = DiffusionPolicy.mean

    def recording(self: Any, u: Any, t: Any, context: Any = None) -> Any:
        contexts.append(context[:, 0].tolist())
        return mean(self, u, t)

    monkeypatch.setattr(DiffusionPolicy, "mean", recording)
    for mode in ("SameStep", "Disabled"):
        envs = ResidualAction(make_vec(2, autoreset_mode=mode), policy)
        envs.reset(seed=0)
        for step in range(7):
            if step % 2:
                envs.reset(options={"reset_mask": np.array([step % 4 == 1, step % 4 == 3])})
            if mode == "Disabled" and (over := envs.unwrapped._ended()) is not None:
                envs.reset(options={"reset_mask": over})
            envs_users = envs.unwrapped._users.tolist()
            envs.step(np.zeros((2, 60)))
            assert contexts[-1] == envs_users


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_pickle_and_copy_keep_every_chain(
    stack: Any, backend: str, make_vec: Any, policy: DiffusionPolicy
) -> None:
    envs = stack.vector(make_vec(2, backend=backend), policy)
    envs.reset(seed=0)
    first, *rest = actions_for(envs, 0, 5)
    envs.step(first)
    twins = [pickle.loads(pickle.dumps(envs)), copy.deepcopy(envs)]
    expected = [as_numpy(envs.step(actions)[0]) for actions in rest]
    for twin in twins:
        for actions, observations in zip(rest, expected, strict=True):
            assert_close(as_numpy(twin.step(actions)[0]), observations)


def test_spaces_hold_what_is_returned_and_the_spec_is_that_of_the_environment(
    stack: Any, policy: DiffusionPolicy, synthetic_run: Any
) -> None:
    envs = stack.vector(gym.make_vec("ReFiT-Synthetic-v0", num_envs=2, num_steps=3), synthetic_run)
    envs.action_space.seed(0)
    observations, _ = envs.reset(seed=0)
    for _ in range(4):
        assert observations in envs.observation_space
        observations, *_, info = envs.step(envs.action_space.sample())
        for end in info.get("final_obs", ()):
            assert end in envs.single_observation_space
    assert envs.spec.to_json() == envs.unwrapped.spec.to_json()


def test_a_batched_action_space_can_be_set(make_vec: Any, policy: DiffusionPolicy) -> None:
    envs = ResidualAction(make_vec(2), policy)
    envs.action_space = space = gym.spaces.Box(-1.0, 1.0, (2, 60), np.float32)
    assert envs.action_space is space


def test_steps_outside_an_episode_are_refused(stack: Any, make_vec: Any, policy: DiffusionPolicy) -> None:
    envs = stack.vector(make_vec(2, autoreset_mode="Disabled"), policy)
    actions = np.zeros(envs.action_space.shape)
    with pytest.raises(ResetNeeded):
        envs.step(actions)
    envs.reset(seed=0)
    envs.step(actions)
    envs.reset(options={"reset_mask": np.array([True, False])})
    envs.step(actions), envs.step(actions)
    with pytest.raises(ResetNeeded, match="sub-environment 1 has no running episode"):
        envs.step(actions)


def test_wrong_actions_are_refused_and_leave_the_chains_as_they_were(
    make_vec: Any, policy: DiffusionPolicy
) -> None:
    envs = LowRankAction(ResidualAction(make_vec(2, backend="torch"), policy), 4)
    envs.reset(seed=0)
    for wrong, message in (
        (torch.zeros(2, 5), r"action of shape \(2, 5\), expected \(2, 4\)"),
        (np.zeros(4), r"action of shape \(4,\), expected \(2, 4\)"),
        (torch.tensor([[0.0] * 4, [0.0, 0.0, 0.0, np.inf]]), r"action\[1, 3\] is inf"),
    ):
        with pytest.raises(ValueError, match=message):
            envs.step(wrong)
    assert envs.unwrapped._t.tolist() == [0, 0]
    residual = envs.env
    assert not residual.step(torch.full((2, 60), 3e38))[2].any()  # finite, though their sum is not
    assert envs.unwrapped._t.tolist() == [1, 1]


def test_other_environments_are_refused(make: Any, make_vec: Any, policy: DiffusionPolicy) -> None:
    loop = SyncVectorEnv([make])
    for wrap in (lambda envs: ResidualAction(envs, policy), TopKObservation, FactorObservation):
        with pytest.raises(ValueError, match="wraps denoising environments"):
            wrap(gym.make_vec("Pendulum-v1", num_envs=1))
        with pytest.raises(ValueError, match="wraps denoising environments"):
            wrap(loop)
        with pytest.raises(ValueError, match=r"wrap it in refit_env\.envs\.wrappers\."):
            wrap(make())
    with pytest.raises(ValueError, match="actions are residuals"):
        LowRankAction(make_vec())
    with pytest.raises(ValueError, match="TopKObservation needs observations with t and u"):
        TopKObservation(FactorObservation(make_vec(), 4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_and_cpu_are_equal(stack: Any, make_vec: Any, policy: DiffusionPolicy) -> None:
    cpu = stack.vector(make_vec(3, backend="torch"), policy)
    gpu = stack.vector(make_vec(3, backend="torch", device="cuda"), policy)
    seen, shown = gpu.reset(seed=0)[0], cpu.reset(seed=0)[0]
    for actions in actions_for(cpu, 0, 5):
        for name in shown:
            assert seen[name].is_cuda and torch.allclose(seen[name].cpu(), shown[name], atol=1e-4)
        given = torch.from_numpy(actions)
        seen, shown = gpu.step(given.cuda())[0], cpu.step(given)[0]
