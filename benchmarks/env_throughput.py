"""Transitions per second on ML-1M: this package's vector environment, Gymnasium's and Stable-Baselines3's.

Run with ``python -m benchmarks.env_throughput``. Every contestant runs whole episodes of T = 4 steps, resets
included, with precomputed actions; all share one data set and one reward, and run alternately. The limit is a
copy of the actions into allocated memory, because a step must read them once and write the observation once.
It is measured twice, for a batch of this size (small batches stay in the processor's cache) and for a batch
of 1024, the rate of the machine's memory. Neither includes the resets, which write one more batch per
episode, nor the reward.

Letters: N sub-environments, D size of the diffused vector, T steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.harness import RESULTS, Timing, in_turns, report, thousands
from refit_env.envs import DenoisingEnv, DenoisingProblem, DenoisingVectorEnv
from refit_env.registration import entry
from refit_env.rewards import RewardResult

ENV_ID = "ReFiT-ML1M-v0"
SIZES = (1, 64, 1024)
MOST_PROCESSES = 64
"""AsyncVectorEnv has one process per sub-environment, so it is not measured with a thousand of them."""

LIMIT, MEMORY, NUMPY, TORCH = "bare copy", "bare copy of 1024", "native, NumPy", "native, torch"
SYNC, ASYNC, DUMMY = "SyncVectorEnv", "AsyncVectorEnv", "SB3 DummyVecEnv"

Actions = list[npt.NDArray[np.float32]]


def contestants(env_id: str, num_envs: int) -> tuple[dict[str, Any], DenoisingProblem]:
    """Return the environments by name, all with the same problem."""
    kwargs = entry(env_id).kwargs()

    def single() -> gym.Env[Any, Any]:
        return DenoisingEnv(**kwargs)

    def forked() -> gym.Env[Any, Any]:
        torch.set_num_threads(1)  # a forked process that uses the parent's thread pool would hang
        return DenoisingEnv(**kwargs)

    native = DenoisingVectorEnv(**kwargs, num_envs=num_envs)
    problem = native.problem
    # computes the neighbours before the fork
    problem.score(torch.zeros(1, problem.dim), torch.as_tensor(problem.users[:1]))
    out: dict[str, Any] = {
        NUMPY: native,
        TORCH: DenoisingVectorEnv(**kwargs, num_envs=num_envs, backend="torch"),
    }
    out[SYNC] = SyncVectorEnv([single] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    out[DUMMY] = DummyVecEnv([single] * num_envs)
    if num_envs <= MOST_PROCESSES:
        out[ASYNC] = AsyncVectorEnv([forked] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    return out, problem


def episode(env: Any, actions: Actions, num_steps: int, tensors: bool) -> Callable[[], None]:
    """Return a call that runs one episode in each sub-environment and stores the latest observation."""
    given: list[Any] = [torch.from_numpy(a) for a in actions] if tensors else actions
    env.reset()
    held: list[Any] = [None]

    def play() -> None:
        for t in range(num_steps):
            held[0] = env.step(given[t % len(given)])[0]

    return play


def copies(actions: Actions, num_steps: int) -> Callable[[], None]:
    """Return a call that copies the actions T times, into alternating arrays, with all of torch's threads."""
    sources = [torch.from_numpy(a) for a in actions]
    targets = [torch.zeros_like(s) for s in sources]

    def play() -> None:
        for t in range(num_steps):
            targets[t % len(targets)].copy_(sources[t % len(sources)])

    return play


@contextmanager
def without_reward(problem: DenoisingProblem) -> Iterator[None]:
    """Return a context in which rewards need no time, so that only the environments are timed."""
    lists = torch.zeros(1, problem.reward_fn.k, dtype=torch.int64)

    def score(u0: torch.Tensor, users: torch.Tensor, *, finite: bool = False) -> RewardResult:
        return RewardResult(torch.zeros(len(users)), {}, lists.expand(len(users), -1))

    problem.score = score  # type: ignore[method-assign]
    try:
        yield
    finally:
        del problem.score


def measure(env_id: str, num_envs: int, rounds: int) -> dict[str, dict[str, Timing]]:
    """Measure the seconds per episode of each contestant, without and with the terminal reward."""
    generator = np.random.default_rng(0)
    envs, problem = contestants(env_id, num_envs)
    actions = [generator.random((num_envs, problem.dim), dtype=np.float32) for _ in range(3)]
    calls = {name: episode(env, actions, problem.num_steps, name == TORCH) for name, env in envs.items()}
    large = [generator.random((max(SIZES), problem.dim), dtype=np.float32) for _ in range(3)]
    limits = {LIMIT: copies(actions, problem.num_steps), MEMORY: copies(large, problem.num_steps)}
    rewarded = in_turns(calls, rounds)
    forked = calls.pop(ASYNC, None)  # its processes have their own problems, whose rewards stay
    with without_reward(problem):
        plain = in_turns(limits | calls, rounds)
    if forked is not None:
        envs[ASYNC].close()
    return {"without_reward": plain, "with_reward": rewarded}


def rows_of(timings: dict[str, dict[str, Timing]], transitions: int, num_envs: int) -> list[list[str]]:
    """Return the table's rows for one number of sub-environments."""
    plain, rewarded = timings["without_reward"], timings["with_reward"]
    memory = plain[MEMORY].median * num_envs / max(SIZES)  # seconds for this batch at the memory's rate
    rows = []
    for name in (LIMIT, NUMPY, TORCH, SYNC, DUMMY, ASYNC):
        if name not in plain | rewarded:
            continue
        cells = [name, f"{num_envs}"]
        if name in plain:
            seconds = plain[name].median
            cells += [thousands(transitions / seconds)]
            cells += [f"{plain[peer].median / seconds:.1f}" for peer in (SYNC, DUMMY)]
            cells += [f"{100 * limit / seconds:.0f} %" for limit in (memory, plain[LIMIT].median)]
        else:
            cells += ["-"] * 5
        if name in rewarded:
            cells += [
                thousands(transitions / rewarded[name].median),
                f"{rewarded[SYNC].median / rewarded[name].median:.1f}",
            ]
        else:
            cells += ["-"] * 2
        rows.append(cells)
    return rows


def main() -> None:
    """Measure, print the table, write ``results/env_throughput.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default=ENV_ID, help="environment id")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of measurements")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of sub-environments")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file")
    options = parser.parse_args()
    total = entry(options.env).num_steps
    rows: list[list[str]] = []
    seconds: dict[str, Any] = {}
    for num_envs in options.sizes:
        timings = measure(options.env, num_envs, options.rounds)
        rows += rows_of(timings, num_envs * total, num_envs)
        seconds[str(num_envs)] = {
            kind: {name: list(t.seconds) for name, t in part.items()} for kind, part in timings.items()
        }
    report(
        "env_throughput",
        title=f"Transitions per second, {options.env}, T = {total}",
        command="python -m benchmarks.env_throughput",
        columns=[
            "environment",
            "N",
            "steps/s",
            "x Sync",
            "x Dummy",
            "of memory",
            "of copy",
            "steps/s with RACS",
            "x Sync with RACS",
        ],
        rows=rows,
        note=(
            "Whole episodes, resets included; medians of rounds. steps/s: transitions per second without "
            "the reward's time; with RACS: its time included. x Sync, x Dummy: ratio to SyncVectorEnv and to "
            "SB3's DummyVecEnv over DenoisingEnv. of memory: share of the rate of a copy of the actions in "
            "memory; of copy: the same for a batch of this size, which is in the cache at N = 64. Targets at "
            "N = 64 and 1024: 4 times the peers, half of the memory's rate. AsyncVectorEnv has a process per "
            f"environment and is not measured beyond {MOST_PROCESSES}."
        ),
        folder=options.out,
        seconds_per_episode=seconds,
    )


if __name__ == "__main__":
    main()
