"""Stop and go on: everything that a fine-tuning agent needs to repeat an unbroken run, in one plain file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.state import flatten_optimizer, part, restore_optimizer
from refit_env.checkpoint import load_state, save_state
from refit_env.errors import CheckpointError

if TYPE_CHECKING:
    from agents.trainer import FineTuner

STATE_NAME = "resume"
"""Stem of the resume state's files in a run folder."""


def save_training(agent: FineTuner, folder: Path | str) -> None:
    """Write an agent's weights, optimiser, generators and history, atomically."""
    tensors = {f"policy.{k}": v for k, v in agent.policy.state_dict().items()}
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
        "seed": agent.seed,
        "iteration": agent.iteration,
        "best": list(agent._best),
        "history": agent.history,
    }
    save_state(Path(folder) / STATE_NAME, tensors, meta)


def load_training(agent: FineTuner, folder: Path | str) -> None:
    """Put back what ``save_training`` wrote.

    Raises:
        CheckpointError: if there is no state, or it belongs to another agent, configuration or model.
    """
    tensors, meta = load_state(Path(folder) / STATE_NAME)
    expected = {
        "agent": agent.name,
        "seed": agent.seed,
        "config": asdict(agent.config),
        "problem": problem_of(agent),
    }
    for key, mine in expected.items():
        if meta[key] != mine:
            raise CheckpointError(f"{folder}: saved with {key}={meta[key]!r}, this agent has {mine!r}")
    try:
        agent.policy.load_state_dict(part(tensors, "policy."))
        agent.reference.load_state_dict(part(tensors, "reference."))
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: the weights are another model's: {error}") from error
    agent._best_state = {k: v.to(agent.device) for k, v in part(tensors, "best.").items()}
    restore_optimizer(agent.optimizer, part(tensors, "optimizer."))
    agent.take_own_tensors(part(tensors, "own."))
    if "lists" in tensors:
        agent.take_lists(tensors["lists"].to(agent.device))
    agent.user_generator.set_state(tensors["generator.users"].cpu())
    agent.noise_generator.set_state(tensors["generator.noise"].cpu())
    agent.iteration, agent.history = int(meta["iteration"]), list(meta["history"])
    agent._best = (float(meta["best"][0]), int(meta["best"][1]))


def problem_of(agent: FineTuner) -> dict[str, Any]:
    """What a resumed run must share with the broken one, besides the settings."""
    problem = agent.env.problem
    reward = {
        "reward": list(problem.term_names),
        "relevance": problem.relevance.mode,
        "k": problem.reward_fn.k,
    }
    return {"data": problem.dataset.name, "num_steps": problem.num_steps} | reward
