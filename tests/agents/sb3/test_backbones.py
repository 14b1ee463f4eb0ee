"""PPO, A2C and TRPO train the chains of every registered backbone, conditional ones included."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import FlattenObservation
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.sb3 import (
    ChainLogCallback,
    DiffusionActorCriticPolicy,
    GymVecEnv,
    RankingEvalCallback,
    to_sb3_vec_env,
)
from refit_env.backbones import backbone_class, backbone_for, backbone_names
from refit_env.data import Dataset
from refit_env.envs import DenoisingVectorEnv
from refit_env.envs.wrappers.vector import FactorObservation, LowRankAction, ResidualAction
from refit_env.policy import DiffusionPolicy

ALGORITHMS: dict[type[OnPolicyAlgorithm], dict[str, Any]] = {
    PPO: {"batch_size": 16, "n_epochs": 1},
    A2C: {"use_rms_prop": False},
    TRPO: {"batch_size": 16, "n_critic_updates": 1, "target_kl": 0.1, "line_search_max_iter": 30},
}


@dataclass(frozen=True)
class Start:
    """A backbone with data of its task, and the run folder of an untrained policy of it, T = 2."""

    backbone: str
    data: Dataset
    folder: Path

    def envs(self, num_envs: int = 8, **kwargs: Any) -> DenoisingVectorEnv:
        scorer = {"checkpoint": str(self.folder)} if backbone_class(self.backbone).embedding else {}
        settings = {"backbone": self.backbone, "num_steps": 2, "reward": "log_rank", "k": 5} | scorer
        return DenoisingVectorEnv(self.data, num_envs=num_envs, **(settings | kwargs))

    def model(
        self, cls: type[OnPolicyAlgorithm], envs: GymVecEnv | None = None, **kwargs: Any
    ) -> OnPolicyAlgorithm:
        given: dict[str, Any] = {"n_steps": 2, "gamma": 1.0, "gae_lambda": 1.0, "learning_rate": 1e-3}
        return cls(
            DiffusionActorCriticPolicy,
            to_sb3_vec_env(self.envs()) if envs is None else envs,
            policy_kwargs={"actor": {"run": str(self.folder)}},
            seed=0,
            device="cpu",
            **(given | ALGORITHMS[cls] | kwargs),
        )


@pytest.fixture(params=backbone_names())
def start(
    request: pytest.FixtureRequest,
    task_data: dict[str, Dataset],
    small_configs: dict[str, dict[str, Any]],
    tmp_path: Path,
) -> Start:
    return make_start(request.param, task_data, small_configs, tmp_path)


def make_start(
    name: str, task_data: dict[str, Dataset], small_configs: dict[str, dict[str, Any]], folder: Path
) -> Start:
    data = task_data[backbone_class(name).tasks[0]]
    policy = DiffusionPolicy(backbone_for(data, name, small_configs[name], seed=0), 2, 0.3)
    policy.save(folder / "run", data)
    return Start(name, data, folder / "run")


def actor_weights(model: OnPolicyAlgorithm) -> dict[str, torch.Tensor]:
    actor: Any = model.policy.actor
    return {name: value.detach().clone() for name, value in actor.named_parameters()}


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_training_changes_all_weights_that_the_chain_depends_on(
    start: Start, cls: type[OnPolicyAlgorithm]
) -> None:
    """These are the actor's weights on which the mean depends and the environment's scores do not."""
    model = start.model(cls)
    actor: Any = model.policy.actor
    before, critic = actor_weights(model), model.policy.value_net.state_dict()  # type: ignore[operator]
    critic = {name: value.clone() for name, value in critic.items()}
    assert model.observation_space.contains({k: v[0] for k, v in start.envs().reset(seed=0)[0].items()})
    model.learn(16 * 3, callback=[RankingEvalCallback(16), ChainLogCallback()])
    moved = {name for name, value in actor_weights(model).items() if not torch.equal(value, before[name])}
    assert moved == depends(model)
    assert moved <= {name for name, p in actor.named_parameters() if p.requires_grad}
    assert any(not torch.equal(value, critic[k]) for k, value in model.policy.value_net.state_dict().items())  # type: ignore[operator]
    assert all(bool(p.isfinite().all()) for p in model.policy.parameters())


def depends(model: OnPolicyAlgorithm) -> set[str]:
    """Return the names of the actor's parameters with a gradient of the mean."""
    policy: Any = model.policy
    obs = {k: torch.as_tensor(v) for k, v in model.get_env().reset().items()}  # type: ignore[union-attr]
    u, t, condition = policy.state(obs)
    weights = {name: p for name, p in policy.actor.named_parameters() if p.requires_grad}
    found: set[str] = set()
    for step in (0, 1):
        mean = policy.actor.mean(u, t + step, condition)
        slopes = torch.autograd.grad(
            mean.square().sum(), list(weights.values()), retain_graph=True, allow_unused=True
        )
        found |= {
            name for name, slope in zip(weights, slopes, strict=True) if slope is not None and slope.any()
        }
    return found


@pytest.mark.parametrize("flat", [False, True])
def test_deterministic_predictions_are_the_noise_free_chain(start: Start, flat: bool) -> None:
    vector: Any = start.envs(5, autoreset_mode="Disabled")
    problem = vector.problem
    envs = to_sb3_vec_env(FlattenObservation(vector) if flat else vector)
    model = start.model(PPO, envs, batch_size=10)
    observation = envs.reset()
    users = torch.tensor([info["user"] for info in envs.reset_infos])
    offset = observation.shape[1] - problem.dim if flat else 0
    u_start = torch.from_numpy(observation[:, offset:] if flat else observation["u"]).clone()
    for _ in range(2):
        action, _ = model.predict(observation, deterministic=True)
        observation, _, _, infos = envs.step(action)
    last = np.stack(
        [i["terminal_observation"][offset:] if flat else i["terminal_observation"]["u"] for i in infos]
    )
    policy = DiffusionPolicy.load(start.folder)
    with torch.no_grad():
        expected = policy.denoise(u_start, problem.context(users)).clamp(-problem.bound, problem.bound)
    torch.testing.assert_close(torch.from_numpy(last), expected, rtol=1e-5, atol=1e-5)


def test_sac_steers_the_chains_of_every_backbone(start: Start) -> None:
    """Off-policy algorithms add residuals to the frozen policy, of low rank where u holds scores."""
    envs: Any = ResidualAction(start.envs(4), start.folder)
    if not backbone_class(start.backbone).embedding:
        envs = FactorObservation(LowRankAction(envs, rank=3), rank=3)
    model = SAC(
        "MultiInputPolicy", to_sb3_vec_env(envs), learning_starts=8, buffer_size=100, seed=0, device="cpu"
    )
    before = {name: value.clone() for name, value in model.actor.state_dict().items()}
    model.learn(16, callback=RankingEvalCallback(8))
    assert any(not torch.equal(value, before[name]) for name, value in model.actor.state_dict().items())


def test_a_saved_model_is_loaded_without_the_run_folder(start: Start, tmp_path: Path) -> None:
    model = start.model(PPO)
    model.learn(16)
    model.save(tmp_path / "model")
    observation = to_sb3_vec_env(start.envs()).reset()
    shutil.rmtree(start.folder)
    loaded = PPO.load(tmp_path / "model", device="cpu")
    assert all(
        torch.equal(a, b)
        for a, b in zip(actor_weights(model).values(), actor_weights(loaded).values(), strict=True)
    )
    first, second = (each.predict(observation, deterministic=True)[0] for each in (model, loaded))
    np.testing.assert_array_equal(first, second)


# ---------------------------------------------------------------------- errors


def test_contexts_of_another_run_are_refused(
    task_data: dict[str, Dataset], small_configs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    dreamrec = make_start("dreamrec", task_data, small_configs, tmp_path / "own")
    longer = small_configs | {"dreamrec": small_configs["dreamrec"] | {"history": 7}}
    other = make_start("dreamrec", task_data, longer, tmp_path / "longer")
    with pytest.raises(
        ValueError, match=r"history is Box\(0, 24, \(7,\)\), the actor's Box\(0, 24, \(5,\)\)"
    ):
        dreamrec.model(PPO, to_sb3_vec_env(other.envs()))
    recdiff = make_start("recdiff", task_data, small_configs, tmp_path / "recdiff")
    second = DiffusionPolicy.load(recdiff.folder)
    with torch.no_grad():
        second.backbone.users.mul_(2)  # type: ignore[operator, union-attr]  # other weights
    second.save(tmp_path / "second")
    longer_run = Start("recdiff", recdiff.data, tmp_path / "second")
    with pytest.raises(ValueError, match="with checkpoint=FOLDER of the actor's pretrained run"):
        longer_run.model(PPO, to_sb3_vec_env(recdiff.envs()))


def test_a_chain_without_its_context_is_refused(
    task_data: dict[str, Dataset], small_configs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    own = make_start("cf-diff", task_data, small_configs, tmp_path)
    plain = DenoisingVectorEnv(own.data, num_envs=8, num_steps=2, k=5)
    with pytest.raises(ValueError, match=r"Dict\(t=.*is not Dict\(history, t, u\).*'cf-diff' needs"):
        own.model(PPO, to_sb3_vec_env(plain))
    other = make_start("diffrec", task_data, small_configs, tmp_path / "other")
    with pytest.raises(ValueError, match=r"Dict\(history=Box\(0, 1, .*is not Dict\(t, u\).*'diffrec' needs"):
        other.model(PPO, to_sb3_vec_env(own.envs()))
