"""The frozen pretrained policy of a wrapper, checked against its environment."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from refit_env.backbones.latest import freeze
from refit_env.data.identity import check_same_data
from refit_env.envs.problem import DenoisingProblem
from refit_env.policy import DiffusionPolicy
from refit_env.utils.atomic_io import file_state
from refit_env.utils.content_cache import CACHE


def frozen_policy(policy: DiffusionPolicy | Path | str, problem: DenoisingProblem) -> DiffusionPolicy:
    """Return a frozen policy on the environment's device.

    Args:
        policy: a policy, which is copied because its owner may train it further, or the folder of a run,
            whose weights all wrappers of a process share.
        problem: the environment's problem.

    Returns:
        The policy in evaluation mode, without gradients.

    Raises:
        ValueError: if it does not fit the environment, or its std is 0.
        CheckpointError: if the folder holds no readable policy.
    """
    if isinstance(policy, Path | str):
        frozen = _read(Path(policy), problem.device)
    elif isinstance(policy, DiffusionPolicy):
        frozen = freeze(copy.deepcopy(policy).to(problem.device).eval())
    else:
        raise ValueError(f"policy must be a DiffusionPolicy or the folder of a run, not {policy!r}")
    _check_fit(frozen, problem)
    return frozen


def _read(folder: Path, device: torch.device) -> DiffusionPolicy:
    """Return the policy of a folder, read once while the file stays the same."""
    file = folder / "policy.safetensors"
    if not file.is_file():
        return DiffusionPolicy.load(folder)  # raises, and names what is missing
    parts = (file_state(file), device)
    shared = CACHE.get("frozen policy", parts, lambda: freeze(DiffusionPolicy.load(folder, device).eval()))
    return shared.respaced()  # its weights are shared; its chain, which can be set, is not


def _check_fit(policy: DiffusionPolicy, problem: DenoisingProblem) -> None:
    """Raise an error for a policy whose chain is not the environment's, or that is shown something else."""
    data, backbone = problem.dataset.name, policy.backbone
    if backbone.num_items != problem.num_items:
        raise ValueError(
            f"the policy ranks {backbone.num_items} items, the environment's data set {data!r} has "
            f"{problem.num_items}: use a checkpoint that was trained on it"
        )
    if not problem.config.other_data:
        check_same_data(backbone.trained_on, problem.dataset, "the policy")
    if backbone.name != problem.config.backbone:
        raise ValueError(
            f"the policy's backbone is {backbone.name!r}, the environment's {problem.config.backbone!r}: "
            f"make the environment with backbone={backbone.name!r}, or use another checkpoint"
        )
    if backbone.dim != problem.dim:
        raise ValueError(f"the policy diffuses {backbone.dim} numbers, the environment {problem.dim}")
    problem.check_starts(backbone)
    if policy.num_steps != problem.num_steps:
        raise ValueError(
            f"the policy's chain has T={policy.num_steps} steps, the environment's {problem.num_steps}: "
            f"make the environment with num_steps={policy.num_steps}, or the policy with "
            f"num_steps={problem.num_steps}"
        )
    if bool((policy.std <= 0).any()):
        raise ValueError(
            "the policy's std is 0 at a step, so a residual could not change it: set an exploration_std > 0 "
            "(policy.set_exploration)"
        )
