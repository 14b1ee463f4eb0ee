"""Checks the spaces of a chain against a diffusion policy, and splits its observations.

Letters: B rows in a batch, C size of a context, D size of the diffused vector, T steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor

from refit_env.policy import DiffusionPolicy

Observations = Tensor | dict[str, Tensor]
"""(B, C + 1 + D), ``history``, ``t`` and ``u`` concatenated, or a mapping; no ``history`` where C = 0."""

CLOSE = 1e-3
"""Tolerance for bounds of contexts: an environment loads its pretrained model in float64."""


def read_state(observations: Observations, size: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Split observations into vectors u (B, D), steps t (B,) int64, and contexts (B, C) or None.

    Args:
        observations: as the environment returns them, or after ``FlattenObservation``.
        size: C.

    Raises:
        ValueError: if a step is not a whole number.
    """
    if isinstance(observations, dict):
        context, t, u = observations.get("history"), observations["t"].squeeze(-1), observations["u"]
    else:
        context = observations[:, :size] if size else None
        t, u = observations[:, size], observations[:, size + 1 :]
    steps = t.round()  # (B,)
    if not bool((steps == t).all()):
        wrong = float(t[steps != t][0])
        raise ValueError(
            f"t = {wrong:g} is not a step of a chain: a wrapper such as VecNormalize or NormalizeObservation "
            "changed the observations. Remove it, or pass norm_obs=False"
        )
    return u.float(), steps.long(), context if context is None else context.float()


def check_spaces(observation: spaces.Space[Any], action: spaces.Space[Any], actor: DiffusionPolicy) -> None:
    """Raise an error for spaces that are not those of the actor's chain.

    Raises:
        ValueError: naming the item count, context, T or action space that differs, and what to use instead.
    """
    dim, steps, size = actor.backbone.dim, actor.num_steps, actor.backbone.context_size
    if not isinstance(action, spaces.Box) or len(action.shape) != 1:
        raise ValueError(f"action space {action} is not that of a denoising chain, a Box of the next vector")
    _, t, u = _parts(observation, size, actor)
    if u.shape != (dim,) and action.shape == u.shape:
        raise ValueError(
            f"the environment has vectors of {u.shape[0]} numbers, the actor was made for vectors of {dim}: "
            "another data set's run"
        )
    if action.shape != u.shape or not np.array_equal(action.high, u.high):
        raise ValueError(
            f"the action space {_short(action)} is not that of the vector {_short(u)}: with ResidualAction "
            "or LowRankAction an action is not the next vector. Use SB3's policies with them (SAC, TD3, TQC)"
        )
    if u.shape != (dim,):
        raise ValueError(f"observed vectors have {u.shape[0]} numbers, the actor's {dim}")
    if t.shape != (1,) or float(t.high[0]) != steps:
        raise ValueError(
            f"the environment's T is {t.high[0]:g}, the actor's {steps}: make the environment with "
            f"num_steps={steps}, or the actor with policy_kwargs={{'actor': {{'num_steps': {t.high[0]:g}}}}}"
        )


def _parts(
    observation: spaces.Space[Any], size: int, actor: DiffusionPolicy
) -> tuple[spaces.Box | None, spaces.Box, spaces.Box]:
    """Return the spaces of ``history`` (None where C = 0), ``t`` and ``u`` in the observation space.

    Raises:
        ValueError: if one of them is missing.
    """
    wanted = "Dict(history, t, u)" if size else "Dict(t, u)"
    if isinstance(observation, spaces.Dict) and set(observation) >= {"t", "u"}:
        context, t, u = observation.spaces.get("history"), observation["t"], observation["u"]
        rest = set(observation) - {"history", "t", "u"}
        boxes = [part for part in (context, t, u) if part is not None]
        if not rest and (context is not None) == bool(size) and all(isinstance(b, spaces.Box) for b in boxes):
            return context, t, u  # type: ignore[return-value]  # boxes, as the condition above ensures
    elif isinstance(observation, spaces.Box) and len(observation.shape) == 1:
        low, high = observation.low, observation.high
        if observation.shape[0] > size + 1:
            cuts = [slice(0, size), slice(size, size + 1), slice(size + 1, None)]
            context, t, u = (spaces.Box(low[cut], high[cut], dtype=low.dtype.type) for cut in cuts)
            return (context if size else None), t, u
    raise ValueError(
        f"observation space {_short(observation)} is not {wanted}, which the actor's backbone "
        f"{actor.backbone.name!r} needs, or that flattened: the actor needs the whole state. With "
        "TopKObservation or FactorObservation use SB3's policies"
    )


def check_context(observation: spaces.Space[Any], actor: DiffusionPolicy) -> None:
    """Raise an error for contexts of another model, with another size or other bounds.

    Args:
        observation: a space that ``check_spaces`` has accepted.
        actor: the actor with its weights, which determine the bounds.

    Raises:
        ValueError: naming both.
    """
    box = actor.backbone.context_box()
    if box is None:
        return
    low, high, size = box
    context, _, _ = _parts(observation, size, actor)
    assert context is not None
    same = context.shape == (size,) and np.allclose(context.high, high, rtol=CLOSE, atol=CLOSE)
    if not (same and np.allclose(context.low, low, rtol=CLOSE, atol=CLOSE)):
        raise ValueError(
            f"the environment's history is {_short(context)}, the actor's Box({low:g}, {high:g}, ({size},)): "
            "another run's. Make the environment with checkpoint=FOLDER of the actor's pretrained run"
        )


def _short(space: spaces.Space[Any]) -> str:
    """Format a space without its thousands of bounds."""
    if isinstance(space, spaces.Dict):
        return f"Dict({', '.join(f'{name}={_short(part)}' for name, part in space.spaces.items())})"
    if isinstance(space, spaces.Box) and space.low.size:
        return f"Box({space.low.min():g}, {space.high.max():g}, {space.shape})"
    return str(space)
