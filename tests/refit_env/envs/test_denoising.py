"""The single environment, for every id whose data set is available."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
import re
import warnings
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import FlattenObservation
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from refit_env.backbones import backbone_class
from refit_env.data import synthesize
from refit_env.envs import DenoisingEnv
from refit_env.envs.config import ProblemConfig
from refit_env.envs.denoising import as_numbers
from refit_env.errors import SettingError

ALLOWED_WARNINGS = (
    # both checkers, of every Box that is not [-1, 1]: ours holds the vectors of the chain themselves
    "we recommend using a symmetric and normalized space",
    "We recommend you to use a symmetric and normalized Box action space",
)
"""Allowed warnings of the checkers. Any other warning fails the test."""


def check_strictly(check: Any, env: Any, **kwargs: Any) -> None:
    """Run a checker; any warning that is not on the list is an error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check(env, **kwargs)
    texts = [str(w.message) for w in caught]
    unknown = [t for t in texts if not any(known in t for known in ALLOWED_WARNINGS)]
    assert not unknown


def finish(env: Any, action: Any = None) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """Play the same action to the end of the episode."""
    action = env.action_space.sample() if action is None else action
    while True:
        out = env.step(action)
        if out[2] or out[3]:
            return out


# ---------------------------------------------------------------------- the interface, every id


def test_gymnasiums_checker_is_satisfied(case: Any) -> None:
    check_strictly(check_env, case.make(disable_env_checker=True).unwrapped)


def test_stable_baselines3s_checker_is_satisfied(case: Any) -> None:
    check_strictly(sb3_check_env, case.make(disable_env_checker=True).unwrapped)


def test_episode_is_t_steps_whose_states_are_the_actions(case: Any) -> None:
    env = case.make()
    total = env.unwrapped.problem.num_steps
    env.action_space.seed(0)
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space and info == {"user": info["user"]}
    assert observation["t"].tolist() == [0.0]
    for t in range(1, total + 1):
        action = env.action_space.sample()
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation in env.observation_space
        assert np.array_equal(observation["u"], action) and observation["t"].tolist() == [float(t)]
        assert type(reward) is float and type(terminated) is bool and truncated is False
        assert terminated == (t == total)
        if t < total:
            assert reward == 0.0 and info == {}
    problem = env.unwrapped.problem
    assert set(info) == {*problem.term_names, "user", "top_k"}
    assert info["top_k"].shape == (20,) and info["top_k"].dtype == np.int64
    assert all(type(info[name]) is float for name in problem.term_names)


def test_chains_start_in_the_visible_history(case: Any) -> None:
    env = case.make()
    for seed in range(3):
        observation, info = env.reset(seed=seed)
        problem = env.unwrapped.problem
        relevance = problem.relevance
        row = relevance.visible[info["user"]].toarray()[0]
        if backbone_class(
            problem.config.backbone
        ).scores_by_context:  # a vector computed from the visible items
            user = torch.tensor([info["user"]])
            assert np.array_equal(observation["history"], problem.context(user)[0].numpy())
            assert np.array_equal(observation["u"], problem.initial_state(user)[0].numpy())
        elif "history" in observation:  # u_T is noise there, and the history is shown beside it
            shown = observation["history"][observation["history"] < row.size].astype(int)
            assert np.array_equal(np.flatnonzero(row), np.unique(shown))
            assert 0.5 < observation["u"].std() < 1.5
        else:
            assert np.array_equal(observation["u"], row)
        assert info["user"] in relevance.users


def test_equal_seeds_and_actions_have_equal_episodes(case: Any) -> None:
    one, two = case.make(), case.make()
    one.action_space.seed(3)
    for seed in (5, None):  # the second episode uses the generator of the first
        (a, info_a), (b, info_b) = one.reset(seed=seed), two.reset(seed=seed)
        assert info_a == info_b and np.array_equal(a["u"], b["u"])
        ended = False
        while not ended:
            action = one.action_space.sample()
            (a, *rest_a, info_a), (b, *rest_b, info_b) = one.step(action), two.step(action)
            assert rest_a == rest_b and all(np.array_equal(a[key], b[key]) for key in a)
            assert info_a.keys() == info_b.keys() and all(
                np.array_equal(info_a[k], info_b[k]) for k in info_a
            )
            ended = rest_a[1]


def test_pickle_and_copy_keep_the_episode(case: Any) -> None:
    env = case.make().unwrapped
    env.reset(seed=1)
    action = env.action_space.sample()
    env.step(action)
    twins = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
    _, reward, _, _, info = finish(env, action)
    following = env.reset()[1]
    for twin in twins:
        _, other, _, _, other_info = finish(twin, action)
        assert other == reward and np.array_equal(other_info["top_k"], info["top_k"])
        assert twin.reset()[1] == following  # the generator went along, too
    assert len(pickle.dumps(env)) < 100_000 + 40 * env.problem.dim  # the configuration, not the data


def test_an_environment_can_be_made_from_its_spec(case: Any) -> None:
    env = case.make(reward={"racs": 1.0, "ndcg": 0.5}, num_steps=3)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.problem is env.unwrapped.problem
    assert again.unwrapped.problem.num_steps == 3


def test_flattened_observations_hold_the_step_and_the_vector(case: Any) -> None:
    env = FlattenObservation(case.make())
    observation, _ = env.reset(seed=0)
    problem = env.unwrapped.problem
    box = problem.context_box()
    before = 0 if box is None else box[2]  # "history" sorts before "t" and "u"
    assert observation.shape == (before + 1 + problem.dim,) and observation in env.observation_space
    action = env.action_space.sample()
    observation = env.step(action)[0]
    assert observation[before] == 1.0 and np.array_equal(observation[before + 1 :], action)


def test_the_user_can_be_chosen(case: Any) -> None:
    env = case.make()
    for user in env.unwrapped.problem.users[[0, 7, -1]]:
        _, info = env.reset(options={"user": int(user)})
        assert info["user"] == user
        assert finish(env)[4]["user"] == user


# ---------------------------------------------------------------------- behaviour, the synthetic set


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_num_steps_sets_t(synthetic: Any, num_steps: int) -> None:
    env = synthetic.make(num_steps=num_steps)
    for _ in range(2):
        env.reset(seed=0)
        ends = [env.step(env.action_space.sample())[2] for _ in range(num_steps)]
        assert ends == [False] * (num_steps - 1) + [True]
    assert env.observation_space["t"].high.tolist() == [float(num_steps)]


def test_the_reward_is_that_of_the_last_vector(synthetic: Any) -> None:
    env = synthetic.make(reward="ndcg")
    _, info = env.reset(seed=0)
    problem, user = env.unwrapped.problem, info["user"]
    perfect = problem.relevance.relevant[user].toarray()[0].astype(np.float32)
    _, reward, _, _, info = finish(env, perfect)
    assert reward == pytest.approx(1.0)
    env.reset(options={"user": user})
    for _ in range(3):
        env.step(perfect)
    assert env.step(1.0 - perfect)[1] == 0.0  # earlier vectors have no reward


def test_the_list_leaves_out_what_was_shown(synthetic: Any) -> None:
    env = synthetic.make()
    observation, _ = env.reset(seed=0)
    listed = finish(env, observation["u"])[4]["top_k"]
    assert not observation["u"][listed].any()


def test_drawn_users_are_spread_over_all_of_them(synthetic: Any) -> None:
    env = synthetic.make().unwrapped
    env.reset(seed=0)
    drawn = np.array([env.reset()[1]["user"] for _ in range(5000)])
    counts = np.bincount(drawn, minlength=len(env.problem.users))
    assert (counts > 0).mean() > 0.99 and counts.max() < 40  # 10 are expected of each


def test_no_returned_array_changes_or_shares_memory_later(synthetic: Any) -> None:
    env = synthetic.make().unwrapped
    seen: list[np.ndarray] = []
    for _ in range(2):
        seen += [value for value in env.reset(seed=0)[0].values()]
        for _ in range(4):
            action = env.action_space.sample()
            observation, _, _, _, info = env.step(action)
            seen += [action, *observation.values()]
        seen.append(info["top_k"])
    assert not any(np.shares_memory(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_an_action_changed_afterwards_changes_nothing(synthetic: Any) -> None:
    env = synthetic.make(reward="ndcg").unwrapped
    _, info = env.reset(seed=0)
    good = env.problem.relevance.relevant[info["user"]].toarray()[0].astype(np.float32)
    action = good.copy()
    observation = env.step(action)[0]
    action[:] = 0
    assert np.array_equal(observation["u"], good)


def test_steps_draw_nothing(synthetic: Any) -> None:
    env = synthetic.make().unwrapped
    env.reset(seed=0)
    before = env.np_random.bit_generator.state
    finish(env)
    assert env.np_random.bit_generator.state == before


def test_diffused_starts_are_the_history_noised_by_the_generator() -> None:
    env = gym.make("ReFiT-Synthetic-v0", start="diffused").unwrapped
    one, info = env.reset(seed=0)
    again, _ = env.reset(seed=0)
    other, _ = env.reset(options={"user": info["user"]})
    problem = env.problem
    history = problem.relevance.visible[info["user"]].toarray()[0]
    assert np.array_equal(one["u"], again["u"]) and not np.array_equal(one["u"], other["u"])
    noise = (one["u"] - other["u"]).std() / np.sqrt(2)
    mean = problem.initial_state(torch.tensor([info["user"]]))[0].numpy()
    assert noise == pytest.approx((one["u"] - mean).std(), rel=0.2)
    assert np.corrcoef(mean, history)[0, 1] == pytest.approx(1.0)


def test_a_data_set_in_memory_is_shared_by_environments() -> None:
    data = synthesize(seed=5, num_users=30, num_items=60)
    one, two = DenoisingEnv(data), DenoisingEnv(data)
    assert one.problem is two.problem and one.problem.dataset is data
    assert DenoisingEnv(data, reward="ndcg").problem is not one.problem


def test_a_function_can_be_the_reward() -> None:
    env = gym.make("ReFiT-Synthetic-v0", reward=lambda scores, users: scores[:, 0])
    env.reset(seed=0)
    assert finish(env, np.full(env.unwrapped.problem.dim, 0.25, np.float32))[1] == 0.25


def test_actions_of_other_types_are_accepted(synthetic: Any) -> None:
    env = synthetic.make(disable_env_checker=True).unwrapped
    for action in (
        [0.5] * env.problem.dim,
        np.full(env.problem.dim, 0.5),
        np.ones(env.problem.dim, np.int64),
    ):
        env.reset(seed=0)
        observation = env.step(action)[0]
        assert observation["u"].dtype == np.float32 and np.array_equal(observation["u"], np.asarray(action))


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"reward": "rac"}, "unknown reward 'rac'. Did you mean 'racs'"),
        ({"start": "histroy"}, "unknown start 'histroy'. Did you mean 'history'"),
        ({"relevance": "recnt"}, "unknown relevance 'recnt'. Did you mean 'recent'"),
        ({"data": "ml-1n"}, "Did you mean 'ml-1m'"),
        ({"backbone": "difrec"}, "unknown backbone 'difrec'. Did you mean 'diffrec'"),
        ({"start": "noise"}, "conditioned on the user"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"num_steps": 2.5}, "num_steps=2.5"),
        ({"num_steps": True}, "num_steps=True"),
        ({"num_steps": 10_000}, "num_steps=10000"),
        ({"bound": float("inf")}, "bound must be a number >= 1 (finite; histories hold ones), found inf"),
        ({"bound": 0.5}, "bound must be >= 1 (finite; histories hold ones), found 0.5"),
        ({"k": 0}, "k must be >= 1, found 0"),
        (
            {"reward_kwargs": {"alfa": 0.3}},
            "reward_kwargs alfa is no setting of reward 'racs'. Did you mean",
        ),
        ({"reward_kwargs": {"alpha": -1}}, "reward_kwargs alpha of reward 'racs' must be >= 0 and <= 1"),
        (
            {"relevance_kwargs": {"fracton": 0.3}},
            "relevance_kwargs fracton is no setting of relevance. Did",
        ),
        ({"relevance_kwargs": {"fraction": 1.5}}, "relevance_kwargs fraction must be > 0 and < 1"),
        ({"render_mode": "human"}, "render_mode='human'"),
        ({"backend": "torch"}, "argument 'backend' is one of the vector environment: gym.make_vec"),
        (
            {"rewrad": "ndcg"},
            "(unexpected keyword argument 'rewrad'). Did you mean 'reward'?",
        ),
        (
            {"render_mod": "ansi"},
            "(unexpected keyword argument 'render_mod'). Did you mean 'render_mode'?",
        ),
    ],
)
def test_the_error_for_a_wrong_argument_states_the_right_one(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DenoisingEnv(**({"data": "synthetic"} | kwargs))


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("reward_kwargs", 5, "must be a mapping such as {'name': value}, found 5"),
        ("relevance_kwargs", ["seed"], "must be a mapping such as {'name': value}, found a list"),
        ("backbone_options", 5, "must be a mapping such as {'name': value}, found 5"),
        (
            "backbone_options",
            {"drop": 1},
            "drop is no setting of backbone 'diffrec'. Did you mean 'dropout'?",
        ),
        ("bound", "a", "must be a number >= 1 (finite; histories hold ones), found 'a'"),
        ("bound", True, "must be a number >= 1 (finite; histories hold ones), found True"),
        ("backbone", 5, "must be a text, found 5"),
        ("relevance", 5, "must be a text, found 5"),
        ("start", 5, "must be a text, found 5"),
        ("checkpoint", 5, "must be a folder, found 5"),
        ("other_data", "no", "must be true or false, found 'no'"),
        ("source_ids", "no", "must be true or false, found 'no'"),
        (
            "reward",
            5,
            "must be a name, a function (scores, users), or a mapping of those to weights, found 5",
        ),
        ("max_episode_steps", "a", "must be a whole number, found 'a'"),
    ],
)
def test_an_argument_of_a_wrong_type_is_named(name: str, value: Any, fault: str) -> None:
    makers: list[Any] = [gym.make, partial(gym.make_vec, vectorization_mode="vector_entry_point")]
    for make in makers:
        with pytest.raises(SettingError) as caught:
            make("ReFiT-Synthetic-v0", **{name: value})
        assert str(caught.value).startswith(f"{name} {fault}") and "\n" not in str(caught.value)


def test_an_unknown_argument_is_a_type_error_by_id() -> None:
    """TorchRL passes ``frameskip`` to every environment, and leaves it out where it reads these words."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'frameskip'") as raised:
        gym.make("ReFiT-Synthetic-v0", frameskip=1)
    assert isinstance(raised.value, ValueError)
    assert "\n" not in str(raised.value)


def test_the_page_lists_every_argument_with_its_default() -> None:
    """Those of the settings and the constructor's own; a default that depends on more is in words."""
    rows = re.findall(r"^\| ``(\w+)`` \| (.+?) \| ", inspect.getdoc(DenoisingEnv) or "", re.M)
    listed = dict(row for row in rows if row[0] not in ("t", "u", "history"))
    own = inspect.signature(DenoisingEnv.__init__).parameters.values()
    defaults = {p.name: p.default for p in own if p.kind == p.KEYWORD_ONLY}
    defaults |= {field.name: field.default for field in fields(ProblemConfig) if field.name != "device"}
    assert listed.keys() == defaults.keys()
    for name, text in listed.items():
        if defaults[name] is not None:
            assert ast.literal_eval(text.strip("`")) == defaults[name], name


def test_the_custom_id_needs_data() -> None:
    with pytest.raises(ValueError, match="data=FOLDER"):
        gym.make("ReFiT-Custom-v0")


@pytest.mark.parametrize("user", [-1, "beyond", 10**9, "3", 2.0, True, [1, 2]])
def test_wrong_users_are_refused_by_name(synthetic: Any, user: Any) -> None:
    env = synthetic.make()
    user = env.unwrapped.problem.dataset.num_users if user == "beyond" else user
    with pytest.raises(ValueError, match="user"):
        env.reset(options={"user": user})


def test_users_without_anything_relevant_are_refused(tmp_path: Path) -> None:
    data = synthesize(seed=5, num_users=30, num_items=60)
    keep = np.ones(len(data.train), bool)
    keep[data.train.indptr[4] + 1 : data.train.indptr[5]] = False  # one item is left: nothing can be hidden
    poor = type(data)(data.name, data.task, data.train.select(keep), data.valid, data.test, data.time_ordered)
    env = DenoisingEnv(poor)
    assert 4 not in env.problem.users
    with pytest.raises(ValueError, match="user 4 has no visible or no relevant item"):
        env.reset(options={"user": 4})


def test_unknown_options_are_refused(synthetic: Any) -> None:
    with pytest.raises(ValueError, match=r"unknown reset option 'users'\. Did you mean 'user'"):
        synthetic.make().reset(options={"users": 3})
    for envs in (synthetic.make(), synthetic.make_vec(2)):
        with pytest.raises(TypeError, match=r"reset options must be a mapping such as .*, found 5"):
            envs.reset(options=5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_actions_that_are_no_numbers_are_refused(synthetic: Any, bad: float) -> None:
    env = synthetic.make(disable_env_checker=True).unwrapped
    env.reset(seed=0)
    action = np.zeros(env.problem.dim, np.float32)
    action[17] = bad
    with pytest.raises(ValueError, match=rf"action\[17\] is {bad}"):
        env.step(action)


def test_huge_but_finite_actions_are_accepted(synthetic: Any) -> None:
    env = synthetic.make(disable_env_checker=True).unwrapped
    env.reset(seed=0)
    env.step(np.full(env.problem.dim, 3e38, np.float32))


@pytest.mark.parametrize("action", [np.zeros(3, np.float32), np.zeros((1, 9), np.float32), "go", None, 0.5])
def test_actions_of_a_wrong_shape_are_refused(synthetic: Any, action: Any) -> None:
    env = synthetic.make(disable_env_checker=True).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=rf"(expected|not an array of shape) \({env.problem.dim},\)"):
        env.step(action)


@pytest.mark.parametrize("action", [np.ones(5, np.complex64), np.array(["a\nb"] * 5)])
def test_actions_of_a_wrong_type_are_refused_by_one_line(action: Any) -> None:
    with pytest.raises(ValueError, match=r"^action array.* is not an array of shape .*") as caught:
        as_numbers(action, (5,))
    assert "\n" not in str(caught.value)


def test_a_refused_action_leaves_the_episode_as_it_was(synthetic: Any) -> None:
    env = synthetic.make(disable_env_checker=True).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError):
        env.step(np.full(env.problem.dim, np.nan, np.float32))
    assert env.step(np.zeros(env.problem.dim, np.float32))[0]["t"].tolist() == [1.0]


def test_steps_without_a_running_episode_are_refused(synthetic: Any) -> None:
    env = synthetic.make().unwrapped
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(env.problem.dim, np.float32))
    env.reset(seed=0)
    finish(env)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(env.problem.dim, np.float32))
