"""The vector environment: equal to SyncVectorEnv over the single one, in both backends."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from packaging.version import Version

from refit_env.envs import DenoisingVectorEnv

Vector = VectorEnv[Any, Any, Any]


def sync(case: Any, num_envs: int, mode: AutoresetMode = AutoresetMode.SAME_STEP, **kwargs: Any) -> Vector:
    """The oracle: Gymnasium's own loop over single environments."""
    return SyncVectorEnv([lambda: case.make(**kwargs)] * num_envs, autoreset_mode=mode)


def assert_same(ours: Any, theirs: Any, path: str = "") -> None:
    """Same keys in the same order, types, dtypes, shapes and bits, all the way down."""
    assert type(ours) is type(theirs), path
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), path
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{path}.{key}")
    elif isinstance(theirs, tuple | list):
        assert len(ours) == len(theirs), path
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{path}[{i}]")
    elif isinstance(theirs, np.ndarray) and theirs.dtype == object:
        assert ours.dtype == object and ours.shape == theirs.shape, path
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{path}[{i}]")
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, path
        assert ours.tobytes() == theirs.tobytes(), path
    else:
        assert ours == theirs, path


def as_numpy(value: Any) -> Any:
    """Tensors as arrays, all the way down."""
    if isinstance(value, dict):
        return {key: as_numpy(item) for key, item in value.items()}
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value


def actions_for(envs: Vector, rng: np.random.Generator) -> np.ndarray:
    return rng.random((envs.num_envs, *envs.single_action_space.shape), dtype=np.float32)


# ---------------------------------------------------------------------- equal to SyncVectorEnv


def test_equals_sync_vector_env_bit_for_bit(case: Any) -> None:
    ours, theirs = case.make_vec(3, num_steps=2), sync(case, 3, num_steps=2)
    assert isinstance(ours, DenoisingVectorEnv)
    assert_same(ours.reset(seed=7), theirs.reset(seed=7))
    rng = np.random.default_rng(0)
    for _ in range(5):  # two autoresets and a half
        actions = actions_for(ours, rng)
        assert_same(ours.step(actions), theirs.step(actions))
    assert_same(ours.reset(), theirs.reset())


@pytest.mark.parametrize("start", ["history", "diffused"])
@pytest.mark.parametrize("reward", ["racs", {"ndcg": 1.0, "novelty": 0.2}])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_equals_sync_vector_env_in_every_variant(
    synthetic: Any, start: str, reward: Any, num_steps: int
) -> None:
    kwargs = {"start": start, "reward": reward, "num_steps": num_steps}
    ours, theirs = synthetic.make_vec(5, **kwargs), sync(synthetic, 5, **kwargs)
    rng = np.random.default_rng(1)
    for seed in (3, None, [5, 1, 9, 9, 2]):
        assert_same(ours.reset(seed=seed), theirs.reset(seed=seed))
        for _ in range(2 * num_steps + 1):
            actions = actions_for(ours, rng)
            assert_same(ours.step(actions), theirs.step(actions))
    assert_same(ours.np_random_seed, theirs.np_random_seed)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_partial_resets_make_chains_of_different_phases(synthetic: Any, mode: AutoresetMode) -> None:
    ours = synthetic.make_vec(4, num_steps=3, autoreset_mode=mode.value)
    theirs = sync(synthetic, 4, mode, num_steps=3)
    rng = np.random.default_rng(2)
    assert_same(ours.reset(seed=0), theirs.reset(seed=0))
    ended = np.zeros(4, bool)
    for step in range(14):
        mask = ended if mode == AutoresetMode.DISABLED else np.zeros(4, bool)
        mask = mask | (rng.random(4) < 0.2 if step % 2 else False)
        if mask.any():
            seeds = [int(s) for s in rng.integers(100, size=4)] if step == 5 else None
            kwargs = {"seed": seeds, "options": {"reset_mask": mask}}
            assert_same(ours.reset(**copy.deepcopy(kwargs)), theirs.reset(**copy.deepcopy(kwargs)))
        actions = actions_for(ours, rng)
        out = theirs.step(actions)
        assert_same(ours.step(actions), out)
        ended = out[2]
    assert len(set(ours._t)) > 1  # the chains are indeed out of step


def test_users_can_be_chosen_for_all_or_for_each(synthetic: Any) -> None:
    envs = synthetic.make_vec(3)
    assert envs.reset(options={"user": 4})[1]["user"].tolist() == [4, 4, 4]
    for users in ([5, 6, 7], np.array([5, 6, 7]), torch.tensor([5, 6, 7])):
        observation, info = envs.reset(options={"user": users})
        assert info["user"].tolist() == [5, 6, 7]
        history = envs.problem.relevance.visible[[5, 6, 7]].toarray()
        assert np.array_equal(observation["u"], history)
    mask = np.array([True, False, True])
    _, info = envs.reset(options={"user": [1, 2, 3], "reset_mask": mask})
    assert info["user"].tolist() == [1, 0, 3] and info["_user"].tolist() == mask.tolist()
    assert envs._users.tolist() == [1, 6, 3]


def test_chosen_users_draw_nothing(synthetic: Any) -> None:
    envs, twin = synthetic.make_vec(2), synthetic.make_vec(2)
    envs.reset(seed=0)
    envs.reset(options={"user": 3})
    twin.reset(seed=0)
    assert_same(envs.reset(), twin.reset())


# ---------------------------------------------------------------------- the torch backend


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
@pytest.mark.parametrize("start", ["history", "diffused"])
def test_tensors_hold_what_the_arrays_hold(synthetic: Any, mode: str, start: str) -> None:
    kwargs = {"num_steps": 2, "autoreset_mode": mode, "start": start}
    arrays, tensors = synthetic.make_vec(4, **kwargs), synthetic.make_vec(4, backend="torch", **kwargs)
    rng = np.random.default_rng(0)
    for _ in range(2):
        assert_same(as_numpy(tensors.reset(seed=1)[0]), arrays.reset(seed=1)[0])
        for _ in range(2):
            actions = actions_for(arrays, rng)
            ours, theirs = tensors.step(torch.from_numpy(actions)), arrays.step(actions)
            assert isinstance(ours[0]["u"], torch.Tensor) and ours[1].dtype == torch.float32
            assert_same(as_numpy(ours[0]), theirs[0])
            assert np.array_equal(ours[1].numpy(), theirs[1].astype(np.float32))
            assert_same(as_numpy(ours[2]), theirs[2])
            assert_same(as_numpy(ours[3]), theirs[3])
    our_info = ours[4]["final_info"] if mode == "SameStep" else ours[4]
    their_info = theirs[4]["final_info"] if mode == "SameStep" else theirs[4]
    assert list(our_info) == list(their_info)
    assert all(np.array_equal(our_info[key].numpy(), their_info[key]) for key in their_info)
    if mode == "SameStep":
        assert np.array_equal(ours[4]["final_obs"]["u"].numpy(), actions)
        assert ours[4]["final_obs"]["t"].tolist() == [[2.0]] * 4


def test_tensors_carry_no_graph_and_share_no_memory_with_actions(synthetic: Any) -> None:
    envs = synthetic.make_vec(2, backend="torch")
    envs.reset(seed=0)
    actions = torch.rand(2, envs.problem.dim, requires_grad=True)
    observation = envs.step(actions)[0]
    assert not observation["u"].requires_grad
    before = observation["u"].clone()
    with torch.no_grad():
        actions.zero_()
    assert torch.equal(observation["u"], before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_and_cpu_are_equal(synthetic: Any) -> None:
    cpu = synthetic.make_vec(8, backend="torch", start="diffused")
    gpu = synthetic.make_vec(8, backend="torch", start="diffused", device="cuda")
    a, b = cpu.reset(seed=0)[0]["u"], gpu.reset(seed=0)[0]["u"]
    for _ in range(6):
        assert b.is_cuda and torch.allclose(a, b.cpu(), atol=1e-6)
        actions = torch.rand(8, cpu.problem.dim)
        (one, paid, *_), (two, earned, *_) = cpu.step(actions), gpu.step(actions.cuda())
        a, b = one["u"], two["u"]
        assert torch.allclose(paid, earned.cpu(), atol=1e-6)
    with pytest.raises(ValueError, match=r"action\[1, 4\] is nan"):
        actions[1, 4] = float("nan")
        gpu.step(actions.cuda())


# ---------------------------------------------------------------------- memory


def leaves(value: Any) -> list[np.ndarray]:
    """Every array in a returned structure."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    if isinstance(value, torch.Tensor):
        return [value.numpy()]
    if isinstance(value, np.ndarray) and value.dtype == object:
        return leaves([item for item in value if item is not None])
    return [value] if isinstance(value, np.ndarray) else []


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_what_the_caller_holds_never_changes(synthetic: Any, backend: str, mode: str) -> None:
    envs = synthetic.make_vec(3, num_steps=2, backend=backend, autoreset_mode=mode)
    rng = np.random.default_rng(0)
    held: list[tuple[Any, Any]] = []
    calls: list[list[np.ndarray]] = []
    for step in range(12):
        if step % 4 == 0:
            mask = np.ones(3, bool) if step == 0 else np.array([True, True, step % 8 == 0])
            out: Any = envs.reset(seed=step, options={"reset_mask": mask} if mode == "SameStep" else None)
        elif mode == "Disabled" and step % 4 == 3:
            continue
        else:
            actions = actions_for(envs, rng)
            out = envs.step(torch.from_numpy(actions) if backend == "torch" else actions)
        if step % 3 != 2:  # some references are dropped, so that their memory may be used again
            held.append((out, copy.deepcopy(out)))
            calls.append(leaves(out))
    for now, then in held:
        for a, b in zip(leaves(now), leaves(then), strict=True):
            assert np.array_equal(a, b)
    for i, one in enumerate(calls):
        for other in calls[:i]:
            assert not any(np.shares_memory(a, b) for a in one for b in other)


def test_memory_without_references_is_used_again(synthetic: Any) -> None:
    envs = synthetic.make_vec(4, num_steps=30, relevance="train")
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    places = {envs.step(actions_for(envs, rng))[0]["u"].ctypes.data for _ in range(20)}
    assert len(places) <= 3


def test_a_view_of_an_observation_holds_it(synthetic: Any) -> None:
    envs = synthetic.make_vec(4, num_steps=20, relevance="train")
    rng = np.random.default_rng(0)
    rows = [envs.reset(seed=0)[0]["u"][1]]
    expected = [rows[0].copy()]
    for _ in range(10):
        actions = actions_for(envs, rng)
        rows.append(torch.from_numpy(envs.step(actions)[0]["u"])[1, 5:].numpy())
        expected.append(actions[1, 5:])
    assert all(np.array_equal(a, b) for a, b in zip(rows, expected, strict=True))


def test_a_changed_observation_changes_no_later_one(synthetic: Any) -> None:
    envs = synthetic.make_vec(2, autoreset_mode="Disabled")
    envs.reset(seed=0)
    actions = actions_for(envs, np.random.default_rng(0))
    observation = envs.step(actions)[0]
    observation["u"] *= 0.5  # a normaliser that works in place
    later = envs.reset(options={"reset_mask": np.array([True, False])})[0]
    assert np.array_equal(later["u"][1], actions[1])


def test_read_only_and_strided_actions_are_accepted(synthetic: Any) -> None:
    envs = synthetic.make_vec(2, num_steps=9, relevance="train")
    envs.reset(seed=0)
    actions = actions_for(envs, np.random.default_rng(0))
    fixed = actions.copy()
    fixed.flags.writeable = False
    for given in (fixed, actions[:, ::-1][:, ::-1], np.asfortranarray(actions), actions.tolist()):
        assert np.array_equal(envs.step(given)[0]["u"], actions)


# ---------------------------------------------------------------------- pickle, wrappers, rendering


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_pickle_and_copy_keep_every_chain(synthetic: Any, backend: str) -> None:
    envs = synthetic.make_vec(3, backend=backend, num_steps=2)
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    given = [torch.from_numpy(actions_for(envs, rng)) for _ in range(4)]
    envs.step(given[0])
    twins = [pickle.loads(pickle.dumps(envs)), copy.deepcopy(envs)]
    expected = [as_numpy(envs.step(actions)[0]) for actions in given[1:]]
    for twin in twins:
        for actions, observation in zip(given[1:], expected, strict=True):
            assert_same(as_numpy(twin.step(actions)[0]), observation)


@pytest.mark.skipif(
    Version(gym.__version__) < Version("1.4"),
    reason="RecordEpisodeStatistics miscounts under SAME_STEP before Gymnasium 1.4 (its pull request 1624)",
)
def test_episode_statistics_are_counted_right(synthetic: Any) -> None:
    envs = gym.wrappers.vector.RecordEpisodeStatistics(synthetic.make_vec(3, num_steps=3))
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(2):
        for _ in range(3):
            _, reward, _, _, info = envs.step(actions_for(envs, rng))
        statistics = info.get("episode", info.get("final_info", {}).get("episode"))
        assert statistics["l"].tolist() == [3, 3, 3]
        assert np.allclose(statistics["r"], reward)


def test_pictures_equal_those_of_single_environments(synthetic: Any) -> None:
    for mode in ("ansi", "rgb_array"):
        ours, theirs = synthetic.make_vec(2, render_mode=mode), sync(synthetic, 2, render_mode=mode)
        ours.reset(seed=0), theirs.reset(seed=0)
        rng = np.random.default_rng(0)
        for _ in range(5):  # beyond an autoreset
            actions = actions_for(ours, rng)
            ours.step(actions), theirs.step(actions)
        assert all(np.array_equal(a, b) for a, b in zip(ours.render(), theirs.render(), strict=True))
    assert synthetic.make_vec(2).render() is None


def test_the_mode_is_in_the_metadata(synthetic: Any) -> None:
    assert synthetic.make_vec(1).metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    disabled = synthetic.make_vec(1, autoreset_mode="Disabled")
    assert disabled.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert DenoisingVectorEnv.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


def test_batched_spaces_hold_what_is_returned(synthetic: Any) -> None:
    envs = synthetic.make_vec(3)
    observation, _ = envs.reset(seed=0)
    assert observation in envs.observation_space
    assert envs.step(envs.action_space.sample())[0] in envs.observation_space


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"bakend": "torch"},
            r"bakend is no setting of the environment \(.*\)\. Did you mean 'backend'",
        ),
        (
            {"reward_kwarg": {}},
            r"reward_kwarg is no setting of the environment \(.*\)\. Did you mean 'reward_kwargs'",
        ),
        ({"backend": "torhc"}, r"unknown backend 'torhc'\. Did you mean 'torch'"),
        ({"device": "cuda"}, "needs backend='torch'"),
        ({"device": "cpuu", "backend": "torch"}, r"device must be one that torch .* found 'cpuu'"),
        ({"num_envs": 0}, "num_envs=0"),
        ({"autoreset_mode": "NextStep"}, "transition without meaning"),
        ({"autoreset_mode": AutoresetMode.NEXT_STEP}, "transition without meaning"),
        ({"autoreset_mode": "SameStpe"}, "Did you mean 'SameStep'"),
        ({"max_episode_steps": 3}, "max_episode_steps=3"),
        ({"reward": "rac"}, "Did you mean 'racs'"),
        ({"render_mode": "human"}, "render_mode='human'"),
    ],
)
def test_the_error_for_a_wrong_argument_states_the_right_one(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenoisingVectorEnv(**({"data": "synthetic"} | kwargs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user": [1, 2]}, r"got int64 of shape \(2,\)"),
        ({"user": [1.0, 2.0, 3.0]}, "got float64"),
        ({"user": [1, 2, -5]}, "user -5"),
        ({"user": 10**6}, "user 1000000"),
        ({"user": True}, "user True"),
        ({"users": 3}, "Did you mean 'user'"),
        ({"reset_mask": np.array([1, 0, 1])}, "3 booleans"),
        ({"reset_mask": np.array([True])}, "3 booleans"),
        ({"reset_mask": np.zeros(3, bool)}, "true somewhere"),
    ],
)
def test_wrong_options_are_refused(synthetic: Any, options: dict[str, Any], message: str) -> None:
    envs = synthetic.make_vec(3)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        envs.reset(options=options)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_wrong_actions_are_refused_and_change_nothing(synthetic: Any, backend: str) -> None:
    envs = synthetic.make_vec(3, backend=backend)
    envs.reset(seed=0)
    wrap = torch.from_numpy if backend == "torch" else np.asarray
    good = actions_for(envs, np.random.default_rng(0))
    for value in (np.nan, np.inf, -np.inf):
        bad = good.copy()
        bad[1, 4] = value
        with pytest.raises(ValueError, match=rf"action\[1, 4\] is {value}"):
            envs.step(wrap(bad))
    for bad in (good[:2], good[0], good[:, :7]):
        with pytest.raises(ValueError, match=r"of shape \(.*expected \(3, "):
            envs.step(wrap(bad))
    with pytest.raises(ValueError, match="not an array of shape"):
        envs.step("go")
    assert envs.step(wrap(good))[0]["t"].tolist() == [[1.0]] * 3
    envs.step(wrap(np.full_like(good, 3e38)))  # finite, though their sum is not


def test_steps_without_running_chains_are_refused(synthetic: Any) -> None:
    envs = synthetic.make_vec(2, num_steps=1, autoreset_mode="Disabled")
    actions = actions_for(envs, np.random.default_rng(0))
    with pytest.raises(gym.error.ResetNeeded, match="sub-environment 0"):
        envs.step(actions)
    with pytest.raises(ValueError, match="first reset"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    envs.reset(seed=0)
    envs.step(actions)
    envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(gym.error.ResetNeeded, match="sub-environment 1"):
        envs.step(actions)


def test_seeds_in_an_array_are_those_in_a_list() -> None:
    made = [DenoisingVectorEnv("synthetic", num_envs=3, num_steps=2) for _ in range(2)]
    (one, _), (other, _) = made[0].reset(seed=[1, 2, 3]), made[1].reset(seed=np.array([1, 2, 3]))  # type: ignore[arg-type]
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
