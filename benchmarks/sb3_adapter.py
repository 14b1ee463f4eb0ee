"""Environment steps per second with Stable-Baselines3's PPO, on ML-1M: to_sb3_vec_env and DummyVecEnv.

Run with ``python -m benchmarks.sb3_adapter``. Both contestants have 64 environments with the same data and
reward and run alternately. Three functions are timed, each over whole episodes of T = 4 steps, resets
included:

* ``step``: ``VecEnv.step`` with precomputed actions, without the reward's time, then with it;
* ``collect``: PPO's ``collect_rollouts`` with a policy that needs no time (it returns precomputed actions),
so
  that only the environments and SB3's own work are timed (clipping, copies into the buffer);
* ``train``: ``collect_rollouts`` with the diffusion policy, the time that a user waits. Most of it is the
  network's matrix products, with any environment.

Letters: N environments, D size of the diffused vector, T steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor

from agents.sb3 import DiffusionActorCriticPolicy, to_sb3_vec_env
from benchmarks.env_throughput import without_reward
from benchmarks.harness import RESULTS, Timing, in_turns, report, thousands
from refit_env.backbones import published_config
from refit_env.envs import DenoisingEnv, DenoisingProblem, DenoisingVectorEnv
from refit_env.registration import entry

ENV_ID = "ReFiT-ML1M-v0"
NUM_ENVS = 64
EPISODES = 4
"""Episodes of each environment in a rollout of ``collect_rollouts``."""

OURS, DUMMY = "to_sb3_vec_env", "DummyVecEnv"


class FreePolicy(ActorCriticPolicy):
    """A policy that returns one precomputed batch of vectors, with values of zero."""

    def _build(self, lr_schedule: Any) -> None:
        """Build no network, but an optimiser, which SB3 needs."""
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.SGD([self.unused], lr=lr_schedule(1.0))
        assert isinstance(self.action_space, spaces.Box)
        self.made = torch.rand(NUM_ENVS, *self.action_space.shape)  # (N, D)

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions (N, D), values (N, 1), log-probabilities (N,)."""
        count = obs["t"].shape[0]
        return self.made[:count], torch.zeros(count, 1), torch.zeros(count)

    def predict_values(self, obs: Any) -> Tensor:
        """Return zeros (N, 1)."""
        return torch.zeros(obs["t"].shape[0], 1)


def contestants(env_id: str, num_envs: int) -> tuple[dict[str, VecEnv], DenoisingProblem]:
    """Return both contestants as SB3 environments of one problem, with the infos of ``Monitor``."""
    kwargs = entry(env_id).kwargs()
    native = DenoisingVectorEnv(**kwargs, num_envs=num_envs)
    dummy = DummyVecEnv([lambda: Monitor(DenoisingEnv(**kwargs))] * num_envs)
    return {OURS: to_sb3_vec_env(native), DUMMY: dummy}, native.problem


def stepping(env: VecEnv, actions: list[npt.NDArray[np.float32]], num_steps: int) -> Callable[[], None]:
    """Return a call that runs one episode in each environment and stores the latest result, as SB3 does."""
    env.reset()
    held: list[Any] = [None]

    def play() -> None:
        for t in range(num_steps):
            held[0] = env.step(actions[t % len(actions)])

    return play


def collecting(env: VecEnv, num_steps: int, policy: Any, **policy_kwargs: Any) -> Callable[[], None]:
    """Return a call that fills PPO's rollout buffer once."""
    model = PPO(
        policy,
        env,
        n_steps=num_steps * EPISODES,
        batch_size=num_steps * EPISODES * env.num_envs,
        gamma=1.0,
        gae_lambda=1.0,
        policy_kwargs=policy_kwargs,
        device="cpu",
        seed=0,
    )
    model._setup_learn(1)
    callback = CallbackList([])
    callback.init_callback(model)

    def play() -> None:
        model.collect_rollouts(env, callback, model.rollout_buffer, n_rollout_steps=model.n_steps)

    return play


def measure(env_id: str, num_envs: int, rounds: int) -> tuple[dict[str, dict[str, Timing]], int]:
    """Measure the seconds per call by function and contestant; also return T."""
    envs, problem = contestants(env_id, num_envs)
    generator = np.random.default_rng(0)
    actions = [generator.random((num_envs, problem.dim), dtype=np.float32) for _ in range(3)]
    config = published_config(problem.config.backbone, problem.dataset.name)
    actor = {"backbone": problem.config.backbone, "num_items": problem.num_items}
    actor |= {"backbone_config": config, "num_steps": problem.num_steps}
    timings = {}
    steps = {name: stepping(env, actions, problem.num_steps) for name, env in envs.items()}
    with without_reward(problem):
        timings["step, reward free"] = in_turns(steps, rounds)
    timings["step"] = in_turns(steps, rounds)
    free = {name: collecting(env, problem.num_steps, FreePolicy) for name, env in envs.items()}
    with without_reward(problem):
        timings["collect, reward free"] = in_turns(free, rounds)
    timings["collect"] = in_turns(free, rounds)
    real = {
        name: collecting(env, problem.num_steps, DiffusionActorCriticPolicy, actor=dict(actor))
        for name, env in envs.items()
    }
    timings["train"] = in_turns(real, rounds)
    return timings, problem.num_steps


def main() -> None:
    """Measure, print the table, write ``results/sb3_adapter.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default=ENV_ID, help="environment id")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of measurements")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file")
    options = parser.parse_args()
    timings, num_steps = measure(options.env, NUM_ENVS, options.rounds)
    rows = []
    for what, part in timings.items():
        transitions = NUM_ENVS * num_steps * (1 if what.startswith("step") else EPISODES)
        ratio = part[DUMMY].median / part[OURS].median
        rates = [thousands(transitions / part[name].median) for name in (OURS, DUMMY)]
        low, high = part[OURS].quartiles
        spread = f"{thousands(transitions / high)} - {thousands(transitions / low)}"
        rows.append([what, *rates, f"{ratio:.1f}", spread])
    report(
        "sb3_adapter",
        title=f"Environment steps per second under SB3, {options.env}, {NUM_ENVS} environments",
        command="python -m benchmarks.sb3_adapter",
        columns=["what is timed", f"{OURS}, steps/s", f"{DUMMY}, steps/s", "times", "quartiles of ours"],
        rows=rows,
        note=(
            "Whole episodes, resets included; medians of rounds. step: VecEnv.step; collect: PPO's "
            "collect_rollouts with a policy that needs no time; train: collect_rollouts with the diffusion "
            "policy, whose matrix products both contestants need. 'reward free': without the reward's time; "
            "else with the environment's reward, which this adapter computes in one batch. Target: 4 times."
        ),
        folder=options.out,
        seconds_per_call={
            what: {name: list(t.seconds) for name, t in part.items()} for what, part in timings.items()
        },
    )


if __name__ == "__main__":
    main()
