"""Stop and go on: everything that a fine-tuning agent needs to repeat an unbroken run, in one plain file.

The file is checked whole before any of it is used: a resumed agent is either the one that was saved or the
one that it was before.

Letters: E environments, U users, K list length.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict

import torch
from msgspec import Meta
from torch import Tensor

from agents.runs.profiling import Usage
from agents.runs.work import Work, work_in
from agents.training.tensors import (
    check_generator,
    check_optimizer,
    flatten_optimizer,
    part,
    restore_optimizer,
    stepped,
)
from refit_env.backbones.restore import check_weights
from refit_env.checkpoint import PolicyMeta, check_tensors, load_state, save_state
from refit_env.errors import CheckpointError
from refit_env.policy import DiffusionPolicy
from refit_env.utils.atomic_io import check_record

if TYPE_CHECKING:
    from agents.training.fine_tuner import FineTuner

STATE_NAME = "resume"
"""Stem of the resume state's files in a run folder."""
Count = Annotated[int, Meta(ge=0)]
History = list[dict[str, float | None]]
"""Scalars of each iteration; null where one was not finite."""
Seconds = Annotated[float, Meta(ge=0)]


class Progress(TypedDict):
    """What every resume state holds of the training so far."""

    config: dict[str, Any]
    """The settings."""
    seed: int
    """Of everything random."""
    best: tuple[float | None, Count]
    """The best validation metric and when it was reached."""
    history: History
    """Scalars of each iteration or epoch."""
    seconds: NotRequired[Seconds]
    """Training so far, validation not counted."""
    validation_seconds: NotRequired[Seconds]
    """Validation so far."""
    spent: NotRequired[dict[str, float]]
    """Cost of all sessions so far."""
    moved: NotRequired[list[Count]]
    """Indices of the parameters that the optimiser has a state of."""


class TrainingMeta(Progress):
    """What the resume state of fine-tuning holds besides tensors."""

    agent: str
    """The algorithm."""
    problem: dict[str, Any]
    """``problem_of`` the agent."""
    iteration: Count
    """Iterations done."""
    policy: NotRequired[PolicyMeta]
    """What the policy is."""


def save_training(agent: FineTuner, folder: Path | str) -> None:
    """Write an agent's weights, optimiser, generators and history, atomically."""
    tensors = {f"policy.{k}": v for k, v in agent.training_weights().items()}
    tensors |= {f"best.{k}": v for k, v in agent._best_state.items()}
    tensors |= {f"reference.{k}": v for k, v in agent.reference.state_dict().items()}
    tensors |= {f"optimizer.{k}": v for k, v in flatten_optimizer(agent.optimizer).items()}
    tensors |= {f"own.{k}": v for k, v in agent.own_tensors().items()}
    tensors |= {} if agent._lists is None else {"lists": agent._lists}
    tensors["generator.users"] = agent.user_generator.get_state()
    tensors["generator.noise"] = agent.noise_generator.get_state()
    meta = {
        "agent": agent.name,
        "config": asdict(agent.config),
        "problem": problem_of(agent),
        "policy": agent.reference.describe(),
        "seed": agent.seed,
        "iteration": agent.iteration,
        "best": list(agent._best),
        "history": agent.history,
        "seconds": agent.seconds,
        "validation_seconds": agent.validation_seconds,
        "spent": agent.spent().to_json(),
        "moved": stepped(agent.optimizer),
    }
    save_state(Path(folder) / STATE_NAME, tensors, meta)


def load_training(agent: FineTuner, folder: Path | str) -> None:
    """Put back what ``save_training`` wrote.

    Raises:
        CheckpointError: if there is no state, it belongs to another agent, configuration, data set or model,
            or it is damaged. The agent is then as it was.
    """
    where = f"{Path(folder) / STATE_NAME}.safetensors"
    tensors, raw = load_state(Path(folder) / STATE_NAME)
    meta = check_record(raw, TrainingMeta, f"{where}: meta", error=CheckpointError)
    _check_meta(agent, meta, where)
    _check_tensors(agent, tensors, meta, where)
    agent.policy.load_state_dict(part(tensors, "policy."))
    agent.reference.load_state_dict(part(tensors, "reference."))
    agent._best_state = {k: v.to(agent.device) for k, v in part(tensors, "best.").items()}
    restore_optimizer(agent.optimizer, part(tensors, "optimizer."))
    agent.take_own_tensors(part(tensors, "own."))
    if "lists" in tensors:
        agent.take_lists(tensors["lists"].to(agent.device))
    agent.user_generator.set_state(tensors["generator.users"])
    agent.noise_generator.set_state(tensors["generator.noise"])
    agent.iteration, agent.history = meta["iteration"], read_history(meta["history"])
    agent._best = read_best(meta["best"])
    agent.seconds, agent.validation_seconds = meta.get("seconds", 0.0), meta.get("validation_seconds", 0.0)
    agent._earlier, agent._resting = read_usage(meta), None


def policy_of(folder: Path | str) -> DiffusionPolicy | None:
    """The policy that a resume state's run was begun with; None where the state is too old to say.

    Raises:
        CheckpointError: if there is no state, or it is damaged.
    """
    where = f"{Path(folder) / STATE_NAME}.safetensors"
    tensors, raw = load_state(Path(folder) / STATE_NAME)
    meta = check_record(raw, TrainingMeta, f"{where}: meta", error=CheckpointError)
    if "policy" not in meta:
        return None
    return DiffusionPolicy.restore(part(tensors, "reference.backbone."), meta["policy"], where)


def problem_of(agent: FineTuner) -> dict[str, Any]:
    """What a resumed run must share with the broken one, besides the settings."""
    problem = agent.env.problem
    reward = {
        "reward": list(problem.term_names),
        "relevance": problem.relevance.mode,
        "k": problem.reward_fn.k,
    }
    data = {"data": problem.dataset.name, "data_fingerprint": problem.dataset.fingerprint}
    return data | {"num_steps": problem.num_steps} | reward


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Refuse settings that are not those of a saved state; what only one of the two has is no difference.

    Raises:
        CheckpointError: naming the first setting that differs.
    """
    for name, mine in json.loads(json.dumps(now)).items():
        if name in saved and saved[name] != mine:
            raise CheckpointError(
                f"{where}: saved with {name}={_short(saved[name])}, this one has {_short(mine)}"
            )


def check_history(history: History, done: int, unit: str, best: int, where: str) -> None:
    """Refuse a history that is not of ``done`` iterations, or a best one beyond them.

    Raises:
        CheckpointError: saying which.
    """
    if [row.get(unit) for row in history] != list(range(done + 1)) and (history or done):
        raise CheckpointError(f"{where}: the history is not that of {unit} 0 to {done}")
    if best > done:
        raise CheckpointError(f"{where}: the best {unit} is {best}, after {done} that were done")


def read_history(history: History) -> list[dict[str, float]]:
    """The history with NaN where a number was not finite."""
    return [{k: math.nan if v is None else v for k, v in row.items()} for row in history]


def read_best(best: tuple[float | None, int]) -> tuple[float, int]:
    """The best value and its time; minus infinity before the first validation."""
    return -math.inf if best[0] is None else best[0], best[1]


def read_work(history: History, where: str) -> Work:
    """The work of the iterations that were done.

    Raises:
        CheckpointError: if the history states impossible work.
    """
    try:
        work = work_in(read_history(history))
    except (ValueError, OverflowError):
        work = Work(-1)
    if min(work.forward, work.backward) < 0:
        raise CheckpointError(f"{where}: the history states work that is no number of rows")
    return work


def read_usage(meta: Progress) -> Usage:
    """The cost of the sessions before."""
    spent = meta.get("spent", {})
    return Usage(*(spent.get(name, 0.0) for name in ("seconds", "peak_memory_mib", "peak_device_memory_mib")))


def read_moved(meta: Progress, tensors: Mapping[str, Tensor], done: int, where: str) -> list[int]:
    """Indices of the parameters whose optimiser state the file must hold.

    Raises:
        CheckpointError: if iterations were done and there is no state of any; of files of earlier versions,
            which do not say which there are.
    """
    if "moved" in meta:
        return meta["moved"]
    numbers = {name.split(".")[0] for name in part(tensors, "optimizer.")}
    if (done and not numbers) or not all(number.isdecimal() for number in numbers):
        raise CheckpointError(f"{where}: no state of the optimiser")
    return sorted(int(number) for number in numbers)


def check_known(
    tensors: Mapping[str, Tensor], names: Collection[str], prefixes: tuple[str, ...], where: str
) -> None:
    """Refuse a file with tensors that nothing reads: it is another kind of file.

    Raises:
        CheckpointError: naming the first.
    """
    for name in tensors:
        if name not in names and not name.startswith(prefixes):
            raise CheckpointError(f"{where}: {_short(name)} is no tensor of a resume state")


def _check_meta(agent: FineTuner, meta: TrainingMeta, where: str) -> None:
    """Refuse the state of another agent, or impossible numbers."""
    check_same(meta, {"agent": agent.name, "seed": agent.seed}, where)
    check_same(meta["problem"], problem_of(agent), where)
    config = asdict(agent.config)
    if not agent.config.anneal_lr:  # else every step size depends on the number of all
        del config["iterations"]
    check_same(meta["config"], config, where)
    if meta["iteration"] > agent.config.iterations:
        raise CheckpointError(
            f"{where}: {meta['iteration']} iterations are done, this agent has iterations="
            f"{agent.config.iterations}"
        )
    check_history(meta["history"], meta["iteration"], "iteration", meta["best"][1], where)
    read_work(meta["history"], where)


def _check_tensors(agent: FineTuner, tensors: Mapping[str, Tensor], meta: TrainingMeta, where: str) -> None:
    """Refuse tensors that are not such an agent's."""
    parts = ("policy.", "best.", "reference.")
    for name in parts:
        found = part(tensors, name)
        check_tensors(found, agent.policy.state_dict(), f"{where}: {name}*", "the agent's policy")
        check_weights(agent.policy.backbone, part(found, "backbone."), f"{where}: {name}*")
    check_tensors(part(tensors, "own."), agent.own_tensors(), f"{where}: own.*", f"agent {agent.name!r}")
    moved = read_moved(meta, tensors, meta["iteration"], where)
    check_optimizer(agent.optimizer, part(tensors, "optimizer."), moved, f"{where}: optimizer.*")
    check_generator(agent.user_generator, tensors.get("generator.users"), f"{where}: generator.users")
    check_generator(agent.noise_generator, tensors.get("generator.noise"), f"{where}: generator.noise")
    known = {"generator.users", "generator.noise"}
    problem = agent.env.problem
    if problem.reward_fn.uses_lists and meta["history"]:
        known |= {"lists"}
        sizes = len(agent.envs), problem.dataset.num_users, problem.reward_fn.k
        shape = torch.zeros(sizes, dtype=torch.int64)  # (E, U, K)
        lists = {name: tensor for name, tensor in tensors.items() if name == "lists"}
        check_tensors(lists, {"lists": shape}, where, "the reward")
        if not 0 <= int(lists["lists"].min()) <= int(lists["lists"].max()) < problem.num_items:
            raise CheckpointError(f"{where}: 'lists' names items outside 0..{problem.num_items - 1}")
    check_known(tensors, known, (*parts, "own.", "optimizer."), where)


def _short(value: Any) -> str:
    """A value for a message, of bounded length."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
