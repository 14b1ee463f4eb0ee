"""Ray RLlib: workers make the environment, the module is the policy, PPO trains it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from refit_env.data import load_dataset
from refit_env.policy import DiffusionPolicy

ENV_ID = "ReFiT-Synthetic-v0"
pytestmark = pytest.mark.filterwarnings("default")  # Ray's own are many


@pytest.fixture
def rllib(need: Callable[[str, str], ModuleType], example: Callable[[str], ModuleType]) -> ModuleType:
    """The example, where Ray RLlib is installed."""
    need("ray.rllib", "rllib")
    return example("rllib_ppo")


@pytest.fixture
def algorithm(rllib: ModuleType, checkpoint: Path) -> Iterator[Any]:
    """PPO on two workers, small batches."""
    config = rllib.make_config(ENV_ID, checkpoint)
    config.training(train_batch_size_per_learner=128, minibatch_size=64)
    rllib.ray.init(num_cpus=2, include_dashboard=False)
    try:
        built = config.build_algo()
        yield built
        built.stop()
    finally:
        rllib.ray.shutdown()


def build(rllib: ModuleType, checkpoint: Path) -> Any:
    env = rllib.make_env({"id": ENV_ID})
    return rllib.RLModuleSpec(
        module_class=rllib.DiffusionModule,
        observation_space=env.observation_space,
        action_space=env.action_space,
        model_config={"checkpoint": str(checkpoint)},
    ).build()


def test_the_module_is_the_policy(rllib: ModuleType, checkpoint: Path) -> None:
    policy, module = DiffusionPolicy.load(checkpoint).eval(), build(rllib, checkpoint)
    u = torch.randn(6, 400)  # (B, D)
    step = torch.tensor([0, 1, 2, 3, 0, 3])
    out = module.forward_train({"obs": {"t": step[:, None].float(), "u": u}})["action_dist_inputs"]
    again = module.forward_train({"obs": {"t": step[:, None].float(), "u": u}})["action_dist_inputs"]
    assert torch.equal(out, again)  # no dropout, though RLlib trains in training mode
    gaussian = module.get_train_action_dist_cls().from_logits(out)
    action = gaussian.sample()  # (B, D)
    assert torch.allclose(gaussian.to_deterministic().sample(), policy.mean(u, step), atol=1e-6)
    expected = policy.log_prob(action, u, step, reduction="mean")
    assert torch.allclose(gaussian.logp(action), expected, atol=1e-5)
    same = module.get_train_action_dist_cls().from_logits(out)
    assert torch.equal(gaussian.kl(same), torch.zeros(6))
    assert torch.allclose(
        gaussian.entropy(), policy.std[step].log() + 0.5 * math.log(2 * math.pi * math.e), atol=1e-5
    )


def test_another_catalogue_is_refused_before_any_worker_starts(
    rllib: ModuleType, foreign_checkpoint: Path
) -> None:
    with pytest.raises(ValueError, match="diffuses 40 numbers in 4 steps, the environment 400 in 4"):
        rllib.make_config(ENV_ID, foreign_checkpoint)
    with pytest.raises(ValueError, match="diffuses 40 numbers"):
        build(rllib, foreign_checkpoint)
    assert not rllib.ray.is_initialized()


def test_another_chain_length_is_refused(rllib: ModuleType, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="in 4 steps, the environment 400 in 3"):
        rllib.make_config(ENV_ID, checkpoint, num_steps=3)


@pytest.mark.slow
def test_two_workers_run_the_checkpoints_chains_and_learn(algorithm: Any, checkpoint: Path) -> None:
    policy = DiffusionPolicy.load(checkpoint).eval()
    found = algorithm.env_runner_group.foreach_env_runner(
        lambda runner: (runner.get_state()["rl_module"], runner.sample(num_episodes=2)),
        local_env_runner=False,
    )
    assert len(found) == 2
    for state, episodes in found:
        assert len(episodes) >= 2
        for name, value in policy.state_dict().items():
            np.testing.assert_array_equal(state[f"policy.{name}"], value.numpy())
        for episode in episodes:
            check_episode(episode, policy)

    before = {k: v.clone() for k, v in algorithm.get_module().policy.state_dict().items()}
    result = algorithm.train()
    assert result["env_runners"]["episode_len_mean"] == 4
    learner = result["learners"]["default_policy"]
    assert all(math.isfinite(learner[name]) for name in ("policy_loss", "vf_loss", "entropy"))
    after = algorithm.get_module().policy.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert any(name.startswith("backbone.layers") for name in moved)
    step = max(float((before[name] - after[name]).abs().max()) for name in moved)
    assert step < 2e-4  # Adam at the policy's own rate, not at the critic's 1e-3 times the updates


def check_episode(episode: Any, policy: DiffusionPolicy) -> None:
    """What the worker stored: the policy's chain, its actions untouched, paid at the end."""
    actions, observations = episode.get_actions(), episode.get_observations()
    assert len(actions) == 4 and episode.is_terminated and not episode.is_truncated
    assert list(episode.get_rewards()[:-1]) == [0.0, 0.0, 0.0]
    log_prob = episode.get_extra_model_outputs("action_logp")
    for t in range(4):
        np.testing.assert_array_equal(observations["u"][t + 1], actions[t])  # neither stretched nor clipped
        u = torch.tensor(observations["u"][t])[None]  # (1, D)
        action = torch.tensor(actions[t])[None]  # (1, D)
        with torch.no_grad():
            expected = float(policy.log_prob(action, u, t, reduction="mean"))
        assert abs(float(log_prob[t]) - expected) < 1e-4


@pytest.mark.slow
def test_ppo_improves_the_model(
    rllib: ModuleType, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = rllib.main(checkpoint=checkpoint, iterations=12)
    data = load_dataset("synthetic")
    assert before == rllib.ndcg(DiffusionPolicy.load(checkpoint), data)
    assert after > before + 0.005
    assert f"{before:.4f} -> {after:.4f}" in capsys.readouterr().out
