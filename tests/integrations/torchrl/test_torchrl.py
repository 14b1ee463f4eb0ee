"""TorchRL: the specs hold, rollouts are the environment's own, its loss trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import pytest
import torch

import refit_env  # noqa: F401
from refit_env.policy import DiffusionPolicy

ENV_ID = "ReFiT-Synthetic-v0"


@pytest.fixture
def torchrl(need: Callable[[str, str], ModuleType], example: Callable[[str], ModuleType]) -> ModuleType:
    """The example, where TorchRL is installed."""
    need("torchrl", "torchrl")
    return example("torchrl_reinforce")


def make_vec(**kwargs: Any) -> gym.vector.VectorEnv[Any, Any, Any]:
    return gym.make_vec(ENV_ID, num_envs=3, **kwargs)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("mode", ["Disabled", "SameStep"])
def test_specs_of_the_batched_environment(torchrl: ModuleType, backend: str, mode: str) -> None:
    from torchrl.envs.utils import check_env_specs

    env = torchrl.GymWrapper(make_vec(backend=backend, autoreset_mode=mode), device="cpu")
    assert env.batch_size == (3,)
    check_env_specs(env)


def test_specs_by_id(torchrl: ModuleType) -> None:
    from torchrl.envs import GymEnv
    from torchrl.envs.utils import check_env_specs

    check_env_specs(GymEnv(ENV_ID, device="cpu"))


def test_a_rollout_is_the_environments_own(torchrl: ModuleType, checkpoint: Path) -> None:
    policy = DiffusionPolicy.load(checkpoint)
    env = torchrl.make_env(ENV_ID, 3, policy)
    env.set_seed(5)
    chains = env.rollout(
        9, torchrl.make_actor(policy, env), break_when_any_done=False
    )  # 3 x 9: two chains and one
    assert chains["t"][0, :, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert chains["next", "done"][0, :, 0].tolist() == [False] * 3 + [True] + [False] * 3 + [True, False]
    assert torch.equal(chains["next", "u"], chains["action"])  # the transition is the action, at ends too
    assert not chains["next", "truncated"].any()

    own = make_vec(backend="torch", autoreset_mode="Disabled")
    own.reset(seed=5)  # TorchRL resets once to seed and once to begin
    obs, _ = own.reset()
    assert torch.equal(chains["u"][:, 0], obs["u"])
    for t in range(4):
        obs, reward, _, _, _ = own.step(chains["action"][:, t])
        assert torch.allclose(chains["next", "reward"][:, t, 0], reward)
    assert (reward > 0).any()


def test_torchrl_cannot_cross_an_end_in_same_step_mode(torchrl: ModuleType, checkpoint: Path) -> None:
    """Why the example resets by masks: with Gymnasium's own vector environment the reader fails as well."""
    single = [lambda: gym.make(ENV_ID)] * 3
    mode = gym.vector.AutoresetMode.SAME_STEP
    for vector in (gym.vector.SyncVectorEnv(single, autoreset_mode=mode), make_vec()):
        env = torchrl.GymWrapper(vector, device="cpu")
        with pytest.raises(KeyError, match='key "user" not found'):
            env.rollout(5, break_when_any_done=False)


def test_the_actor_is_the_policy(torchrl: ModuleType, checkpoint: Path) -> None:
    from torchrl.envs import ExplorationType, set_exploration_type

    policy = DiffusionPolicy.load(checkpoint)
    env = torchrl.make_env(ENV_ID, 64, policy)
    actor = torchrl.make_actor(policy, env)
    with torch.no_grad():
        chains = env.rollout(4, actor, break_when_any_done=False)  # 64 x 4
    for t in range(4):
        u, action = chains["u"][:, t], chains["action"][:, t]  # (B, D)
        with torch.no_grad():
            expected = policy.log_prob(action, u, t, reduction="mean")  # (B,)
            noise = (action - policy.mean(u, t)) / policy.std[t]  # (B, D)
        assert torch.allclose(chains["action_log_prob"][:, t], expected, atol=1e-4)
        assert abs(float(noise.std()) - 1) < 0.02 and abs(float(noise.mean())) < 0.02  # sampled, not the mean
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        quiet = env.rollout(4, actor, break_when_any_done=False)
        assert torch.allclose(quiet["action"][:, -1], policy.denoise(quiet["u"][:, 0]), atol=1e-5)


def test_another_catalogue_is_refused(torchrl: ModuleType, foreign_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="policy ranks 40 items, data set 'synthetic' has 400"):
        torchrl.main(checkpoint=foreign_checkpoint)


@pytest.mark.slow
def test_reinforce_loss_improves_the_model(
    torchrl: ModuleType, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = torchrl.main(checkpoint=checkpoint, iterations=60)
    assert after > before + 0.01
    assert f"{before:.4f} -> {after:.4f}" in capsys.readouterr().out
