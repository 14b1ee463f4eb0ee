"""Tests of the diffusion policy with PPO, A2C and TRPO: actions, learning, saving, errors."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers.vector import FlattenObservation
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.sb3 import DiffusionActorCriticPolicy, GymVecEnv, to_sb3_vec_env
from agents.sb3.callbacks import denoising_problem
from refit_env.data import Dataset
from refit_env.envs import DenoisingVectorEnv
from refit_env.errors import CheckpointError
from refit_env.policy import DiffusionPolicy

MakeEnvs = Callable[..., GymVecEnv]
ALGORITHMS: dict[type[OnPolicyAlgorithm], dict[str, Any]] = {
    PPO: {"batch_size": 12, "n_epochs": 2},
    A2C: {"use_rms_prop": False},
    TRPO: {"batch_size": 12, "n_critic_updates": 2},
}


def make_model(
    cls: type[OnPolicyAlgorithm], envs: GymVecEnv, actor: Path | dict[str, Any], **kwargs: Any
) -> OnPolicyAlgorithm:
    settings = actor if isinstance(actor, dict) else {"run": str(actor)}
    common: dict[str, Any] = {"n_steps": 6, "gamma": 1.0, "gae_lambda": 1.0, "learning_rate": 1e-3, "seed": 0}
    policy_kwargs = {"actor": settings} | kwargs.pop("policy_kwargs", {})
    given = common | ALGORITHMS[cls] | kwargs
    return cls(DiffusionActorCriticPolicy, envs, policy_kwargs=policy_kwargs, device="cpu", **given)


def weights(model: OnPolicyAlgorithm) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# ---------------------------------------------------------------------- acting


@pytest.mark.parametrize("flat", [False, True])
def test_deterministic_predictions_are_the_noise_free_chain(
    small_data: Dataset, run_folder: Path, flat: bool
) -> None:
    mode = "Disabled" if flat else "SameStep"  # Gymnasium's vector wrappers of observations refuse SameStep
    vector_env: Any = DenoisingVectorEnv(small_data, num_envs=5, num_steps=3, autoreset_mode=mode)
    envs = to_sb3_vec_env(FlattenObservation(vector_env) if flat else vector_env)
    model = make_model(PPO, envs, run_folder, batch_size=30)
    observation = envs.reset()
    start = torch.from_numpy(observation[:, 1:] if flat else observation["u"]).clone()  # (5, D)
    for _ in range(3):
        action, _ = model.predict(observation, deterministic=True)
        observation, _, done, infos = envs.step(action)
    assert done.all()
    last = [info["terminal_observation"] for info in infos]
    reached = np.stack([seen[1:] if flat else seen["u"] for seen in last])
    with torch.no_grad():
        expected = DiffusionPolicy.load(run_folder).eval().denoise(start)
    torch.testing.assert_close(torch.from_numpy(reached), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_log_probabilities_are_the_diffusion_policys(
    make_envs: MakeEnvs, run_folder: Path, reduction: str
) -> None:
    model = make_model(PPO, make_envs(), run_folder, policy_kwargs={"logprob_reduction": reduction})
    u, t = torch.rand(7, 40), torch.tensor([0, 1, 2, 2, 1, 0, 1])
    action = u + 0.1 * torch.randn(7, 40)
    obs = {"u": u, "t": t[:, None].float()}
    reference = DiffusionPolicy.load(run_folder).eval().requires_grad_(False)
    expected = reference.log_prob(action, u, t, reduction=reduction)  # type: ignore[arg-type]
    _, found, entropy = model.policy.evaluate_actions(obs, action)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    flat = torch.cat([obs["t"], u], 1)
    again = model.policy.evaluate_actions(flat, action)[1]
    torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-4)
    each = torch.distributions.Normal(0.0, reference.std[t]).entropy()  # (7,)
    whole = each * (40 if reduction == "sum" else 1)
    torch.testing.assert_close(entropy, whole, rtol=1e-4, atol=1e-4)


def test_actions_have_the_step_std(make_envs: MakeEnvs, run_folder: Path) -> None:
    policy = make_model(PPO, make_envs(), run_folder).policy
    policy.actor.std.copy_(torch.tensor([0.3, 0.2, 0.1]))  # type: ignore[union-attr]
    u = torch.rand(1, 40).expand(2000, -1)
    for t, std in enumerate((0.3, 0.2, 0.1)):
        obs = {"u": u, "t": torch.full((2000, 1), float(t))}
        actions, values, log_prob = policy(obs)
        mean, _, _ = policy(obs, deterministic=True)
        assert float((actions - mean).detach().std()) == pytest.approx(std, rel=0.02)
        assert values.shape == (2000, 1) and log_prob.shape == (2000,)


def test_training_mode_leaves_dropout_off(make_envs: MakeEnvs, run_folder: Path) -> None:
    """Otherwise the first minibatch's ratio would not be one."""
    model = make_model(PPO, make_envs(), run_folder, n_steps=3)
    model.learn(12)
    model.policy.set_training_mode(True)
    model.rollout_buffer.reset()
    _, callback = model._setup_learn(12)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 3)  # type: ignore[arg-type]
    model.policy.set_training_mode(True)
    data = next(iter(model.rollout_buffer.get(12)))
    _, log_prob, _ = model.policy.evaluate_actions(data.observations, data.actions)
    torch.testing.assert_close(log_prob, data.old_log_prob, rtol=0, atol=1e-5)


def test_a_finished_chain_has_no_next_vector(make_envs: MakeEnvs, run_folder: Path) -> None:
    model = make_model(PPO, make_envs(), run_folder)
    with pytest.raises(ValueError, match=r"t must lie in 0\.\.2, found 3\.\.3"):
        model.predict({"u": np.zeros(40, np.float32), "t": np.array([3.0], np.float32)})


# ---------------------------------------------------------------------- learning


@torch.no_grad()
def mean_reward(model: OnPolicyAlgorithm) -> float:
    """Return the mean reward of the noise-free chains of all users."""
    problem = denoising_problem(model.get_env())
    users = torch.as_tensor(problem.users)
    actor: Any = model.policy.actor
    return float(problem.score(actor.denoise(problem.initial_state(users)), users)[0].mean())


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_training_raises_the_reward(make_envs: MakeEnvs, run_folder: Path, cls: Any) -> None:
    settings: dict[str, Any] = {
        PPO: {"batch_size": 96, "max_grad_norm": 10.0},
        A2C: {"normalize_advantage": True, "max_grad_norm": 10.0},
        TRPO: {"batch_size": 96},
    }[cls]
    model = make_model(cls, make_envs(32), run_folder, n_steps=3, learning_rate=4e-3, **settings)
    before = mean_reward(model)
    model.learn(96 * 40)
    assert mean_reward(model) > before + 0.03


def test_actor_and_critic_have_their_own_learning_rates(make_envs: MakeEnvs, run_folder: Path) -> None:
    model = make_model(
        PPO,
        make_envs(),
        run_folder,
        n_epochs=1,
        batch_size=24,
        max_grad_norm=1e9,
        learning_rate=1e-4,
        policy_kwargs={"value_learning_rate": 5e-3},
    )
    before = weights(model)
    model.learn(24)
    moved = {name: float((value - before[name]).abs().max()) for name, value in weights(model).items()}
    # the size of Adam's first step is the rate
    assert moved["value_net.out.bias"] == pytest.approx(50e-4, rel=0.01)
    assert max(v for name, v in moved.items() if name.startswith("actor.")) <= 1.01e-4
    assert model.policy.optimizer.param_groups[1]["lr"] == 1e-4  # as SB3 set it


def test_the_critics_rate_follows_a_schedule_that_begins_at_zero(
    make_envs: MakeEnvs, run_folder: Path
) -> None:
    """In a warm-up the actor's rate rises from 0 to 1e-4, the critic's from 0 to its rate."""
    warm_up: Any = lambda progress: 1e-4 * (1 - progress)  # noqa: E731
    model = make_model(
        PPO, make_envs(), run_folder, learning_rate=warm_up, policy_kwargs={"value_learning_rate": 5e-3}
    )
    actor, critic = (group["lr_scale"] for group in model.policy.optimizer.param_groups)
    assert (actor, critic) == (1.0, pytest.approx(50.0))


def test_the_pretrained_run_is_not_trained_in_place(make_envs: MakeEnvs, run_folder: Path) -> None:
    before = (run_folder / "policy.safetensors").read_bytes()
    make_model(PPO, make_envs(), run_folder).learn(24)
    assert (run_folder / "policy.safetensors").read_bytes() == before


# ---------------------------------------------------------------------- saving


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_loaded_model_continues_as_the_saved_one(
    make_envs: MakeEnvs, run_folder: Path, tmp_path: Path, cls: Any
) -> None:
    model = make_model(cls, make_envs(), run_folder)
    model.learn(48)
    model.save(tmp_path / "model")
    shutil.rmtree(run_folder)  # a saved file does not need it
    loaded = cls.load(tmp_path / "model", env=make_envs(), device="cpu")
    assert_same(weights(model), weights(loaded))
    a, b = model.policy.optimizer.state_dict(), loaded.policy.optimizer.state_dict()
    assert a["param_groups"] == b["param_groups"]
    for index, state in a["state"].items():
        assert all(torch.equal(state[name], b["state"][index][name]) for name in state)
    observation = make_envs().reset()
    for deterministic in (True, False):
        chosen = []
        for each in (model, loaded):
            torch.manual_seed(3)
            chosen.append(each.predict(observation, deterministic=deterministic)[0])
        np.testing.assert_array_equal(*chosen)
    model.set_env(make_envs())
    for each in (model, loaded):
        each.set_random_seed(7)
        each.learn(48, reset_num_timesteps=False)
    assert model.num_timesteps == loaded.num_timesteps == 96
    assert_same(weights(model), weights(loaded))


def test_a_policy_saved_alone_is_loaded(make_envs: MakeEnvs, run_folder: Path, tmp_path: Path) -> None:
    model = make_model(PPO, make_envs(), run_folder)
    model.learn(24)
    model.policy.save(str(tmp_path / "policy.pt"))
    shutil.rmtree(run_folder)
    loaded = DiffusionActorCriticPolicy.load(str(tmp_path / "policy.pt"), device="cpu")
    assert_same(weights(model), dict(loaded.state_dict()))
    observation = make_envs().reset()
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0], loaded.predict(observation, deterministic=True)[0]
    )


def test_a_saved_file_holds_the_weights_once(make_envs: MakeEnvs, run_folder: Path, tmp_path: Path) -> None:
    model = make_model(PPO, make_envs(), run_folder)
    model.save(tmp_path / "model")
    count = sum(value.numel() for value in model.policy.state_dict().values())
    actor = sum(value.numel() for value in DiffusionPolicy.load(run_folder).state_dict().values())
    critic = sum(value.numel() for value in model.policy.value_net.state_dict().values())
    assert count == actor + critic
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        saved = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
        assert sum(value.numel() for value in saved.values()) == count
        optimizer = torch.load(io.BytesIO(archive.read("policy.optimizer.pth")), weights_only=True)
        assert not optimizer["state"]  # nothing was trained yet
        text = archive.read("data").decode()
    kept = json.loads(text)["policy_kwargs"]
    assert ":serialized:" not in kept and kept == model.policy_kwargs  # plain JSON: nothing pickled
    wider = {"backbone": "diffrec", "num_items": 40, "backbone_config": {"hidden": [512], "num_steps": 3}}
    make_model(PPO, make_envs(), wider).save(tmp_path / "wider")
    with zipfile.ZipFile(tmp_path / "wider.zip") as archive:
        assert abs(len(archive.read("data").decode()) - len(text)) < 1000  # for any network size


def test_policy_kwargs_are_json_plain_and_complete(make_envs: MakeEnvs, run_folder: Path) -> None:
    settings: dict[str, Any] = {"run": str(run_folder), "exploration_std": 0.2}
    model = make_model(PPO, make_envs(), settings)
    assert model.policy_kwargs["actor"] is settings
    assert settings == {
        "run": str(run_folder),
        "backbone": "diffrec",
        "num_items": 40,
        "backbone_config": settings["backbone_config"],
        "num_steps": 3,
        "exploration_std": 0.2,
        "posterior_share": 1.0,
        "eta": 1.0,
        "dataset": "synthetic",
    }
    assert settings["backbone_config"]["hidden"] == [16]
    assert float(model.policy.actor.std.min()) == pytest.approx(0.2)  # type: ignore[union-attr]


def test_the_actor_runs_the_chain_of_its_run(make_envs: MakeEnvs, make_policy: Any, tmp_path: Path) -> None:
    own = {"num_steps": 3, "exploration_std": 0.01, "posterior_share": 0.5, "eta": 0.25}
    run = DiffusionPolicy(make_policy().backbone, **own)
    run.save(tmp_path / "run")
    model = make_model(PPO, make_envs(), {"run": str(tmp_path / "run")})
    model.save(tmp_path / "model")
    for made in (model, PPO.load(tmp_path / "model", device="cpu")):
        actor = made.policy.actor
        assert isinstance(actor, DiffusionPolicy) and actor.chain == own
    changed = make_model(PPO, make_envs(), {"run": str(tmp_path / "run"), "eta": 1.0}).policy.actor
    assert isinstance(changed, DiffusionPolicy) and changed.chain == own | {"eta": 1.0}


def test_an_untrained_actor_needs_no_folder(make_envs: MakeEnvs, tmp_path: Path) -> None:
    settings = {"backbone": "diffrec", "num_items": 40, "backbone_config": {"hidden": [8], "num_steps": 3}}
    model = make_model(PPO, make_envs(), settings)
    model.learn(24)
    model.save(tmp_path / "model")
    assert_same(weights(model), weights(PPO.load(tmp_path / "model", device="cpu")))


# ---------------------------------------------------------------------- errors


def test_a_deleted_folder_does_not_give_an_untrained_model(make_envs: MakeEnvs, run_folder: Path) -> None:
    """Settings that an earlier model completed do not replace a deleted folder."""
    settings = {"run": str(run_folder)}
    make_model(PPO, make_envs(), settings)
    shutil.rmtree(run_folder)
    model = make_model(PPO, make_envs(), settings)
    with pytest.raises(CheckpointError, match=r"has no weights: the run folder .* is gone"):
        model.learn(24)
    assert model.num_timesteps == 0


def test_another_network_in_the_folder_is_detected(
    make_envs: MakeEnvs, run_folder: Path, small_data: Dataset
) -> None:
    settings = {"run": str(run_folder)}
    make_model(PPO, make_envs(), settings)
    other = {"backbone": "diffrec", "num_items": 40, "backbone_config": {"hidden": [8], "num_steps": 5}}
    actor: Any = make_model(PPO, make_envs(), other | {"num_steps": 3}).policy.actor
    actor.save(run_folder, overwrite=True)
    with pytest.raises(CheckpointError, match="holds another network since"):
        make_model(PPO, make_envs(), settings).learn(24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "nowhere"}, r"actor run 'nowhere': .*no such file.*refit pretrain"),
        ({"run": None}, r"which actor\? Pass policy_kwargs"),
        ({"rum": "x"}, "unknown actor setting 'rum'. Did you mean 'run'"),
        ({"backbone": "cfdiff"}, "holds backbone 'diffrec', not 'cfdiff'"),
        ({"num_items": 41}, "holds num_items 40, not 41"),
        ({"num_steps": 2}, r"environment's T is 3, the actor's 2"),
        ({"exploration_std": -1.0}, "exploration_std=-1.0 must be"),
    ],
)
def test_wrong_actors_are_refused_at_construction(
    make_envs: MakeEnvs, run_folder: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(PPO, make_envs(), {"run": str(run_folder)} | change)


@pytest.mark.parametrize("policy_kwargs", [{}, {"actor": None}, {"actor": "runs/base"}])
def test_without_an_actor_the_error_says_what_to_pass(
    make_envs: MakeEnvs, policy_kwargs: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"which actor\? Pass policy_kwargs=\{'actor': \{'run': FOLDER\}\}"):
        PPO(DiffusionActorCriticPolicy, make_envs(), policy_kwargs=policy_kwargs, device="cpu")


def test_another_item_count_is_refused(run_folder: Path) -> None:
    envs = to_sb3_vec_env(DenoisingVectorEnv("synthetic", num_envs=2, num_steps=3))
    with pytest.raises(ValueError, match="vectors of 400 numbers, the actor was made for vectors of 40"):
        make_model(PPO, envs, run_folder)


def test_wrong_policy_settings_are_refused(make_envs: MakeEnvs, run_folder: Path) -> None:
    with pytest.raises(ValueError, match="logprob_reduction='max' must be 'mean' or 'sum'"):
        make_model(PPO, make_envs(), run_folder, policy_kwargs={"logprob_reduction": "max"})
    with pytest.raises(ValueError, match="use_sde=True"):
        make_model(PPO, make_envs(), run_folder, use_sde=True)


@pytest.mark.parametrize(
    ("action", "observation", "message"),
    [
        (spaces.Box(-3, 3, (16,)), None, r"Box\(-3, 3, \(16,\)\) is not that of the vector .*SAC"),
        (spaces.Box(-5, 5, (40,)), None, "with ResidualAction"),
        (spaces.Discrete(3), None, "not that of a denoising chain"),
        (None, spaces.Box(-1, 1, (9, 9)), r"is not Dict\(t, u\)"),
        (None, spaces.Dict(t=spaces.Box(0, 3, (1,)), v=spaces.Box(-6, 6, (40,))), r"is not Dict\(t, u\)"),
    ],
)
def test_spaces_of_other_environments_are_refused(
    make_envs: MakeEnvs,
    run_folder: Path,
    action: spaces.Space[Any] | None,
    observation: spaces.Space[Any] | None,
    message: str,
) -> None:
    envs = make_envs()
    with pytest.raises(ValueError, match=message):
        DiffusionActorCriticPolicy(
            observation or envs.observation_space,
            action or envs.action_space,
            lambda _: 1e-3,
            actor={"run": str(run_folder)},
        )
