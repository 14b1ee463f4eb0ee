"""Loads a backbone from a checkpoint, after checking the checkpoint's configuration and weights.

A damaged configuration can state any size. So the network is first built on torch's ``meta`` device, where
tensors have shapes but no memory, and its shapes are compared with those of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from refit_env.backbones.base import Backbone
from refit_env.backbones.registry import make_backbone, unregistered
from refit_env.backbones.sampling import StepSampler
from refit_env.checkpoint import PolicyMeta, check_tensors, weights_digest
from refit_env.errors import CheckpointError
from refit_env.utils.user_code import SHORT, in_words, is_place, source_of

LEAST_LIMIT = 10_000
"""Whole numbers and lengths in a configuration may be this large for any number of weights."""


def restore_backbone(state: Mapping[str, Tensor], meta: PolicyMeta, where: str) -> Backbone:
    """Build the backbone that a checkpoint describes, with its weights.

    Args:
        state: the checkpoint's weights.
        meta: the checkpoint's metadata.
        where: the checkpoint, for messages.

    Raises:
        CheckpointError: if the metadata describe no backbone, or the weights do not fit it.
    """
    if is_place(meta["backbone"]):
        _check_code(meta, where)
    elif missing := unregistered(meta["backbone"]):
        raise CheckpointError(f"{where}: {missing}")
    limit = max(LEAST_LIMIT, sum(tensor.numel() for tensor in state.values()))
    for name in ("num_items", "backbone_config"):
        if not _within(meta[name], limit):
            raise CheckpointError(f"{where}: {name} holds a size beyond {limit}, the number of weights")
    with torch.device("meta"):
        check_tensors(state, _built(meta, where).state_dict(), where, f"backbone {meta['backbone']!r}")
    backbone = _built(meta, where)
    load_weights(backbone, state, where)
    if meta.get("weights") not in (None, weights_digest(state)):
        raise CheckpointError(f"{where}: these are not the weights that were saved: damaged, or changed")
    backbone.freeze_scores()
    return backbone


def _check_code(meta: PolicyMeta, where: str) -> None:
    """Raise an error for a file of a user that is not the one of training; nothing is run.

    Raises:
        CheckpointError: naming both.
    """
    name, was = meta["backbone"], meta.get("backbone_file")
    if was is None:
        raise CheckpointError(f"{where}: it names the backbone {name}, code of which it holds no sha256")
    try:
        now = source_of("backbone", name)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}: put the file back, {in_words(was)}") from error
    if now is None or now["sha256"] != was["sha256"]:
        found = "" if now is None else f", which is {now['sha256'][:SHORT]} now"
        raise CheckpointError(
            f"{where}: its backbone was trained with {in_words(was)}{found}: put the former file back, or "
            "train again"
        )


def load_weights(backbone: Backbone, state: Mapping[str, Tensor], where: str) -> None:
    """Load weights into a backbone, after checking them.

    Raises:
        CheckpointError: if a name, a shape, a type or a value does not fit; the backbone is unchanged.
    """
    check_weights(backbone, state, where)
    backbone.load_state_dict(state)


def check_weights(backbone: Backbone, state: Mapping[str, Tensor], where: str) -> None:
    """Raise an error for weights that do not fit a backbone.

    Raises:
        CheckpointError: naming the tensor that does not fit.
    """
    check_tensors(state, backbone.state_dict(), where, f"backbone {backbone.name!r}")
    try:
        backbone.check_state(state)
        for name, module in backbone.named_modules():
            if isinstance(module, StepSampler):
                module.check_state(state[f"{name}.losses"], state[f"{name}.seen"])
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _built(meta: PolicyMeta, where: str) -> Backbone:
    """Build the untrained backbone; report any error in its configuration as a ``CheckpointError``."""
    try:
        return make_backbone(meta["backbone"], meta["num_items"], meta["backbone_config"])
    except Exception as error:
        text = str(error)[:200].split("\n")[0]
        raise CheckpointError(f"{where}: the backbone cannot be built: {text}") from error


def _within(value: Any, limit: int) -> bool:
    """Return whether all whole numbers and lengths in a plain value are at most the limit."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= limit
    if isinstance(value, Mapping | list | str) and len(value) > limit:
        return False
    if isinstance(value, Mapping):
        return all(_within(part, limit) for part in value.values())
    return not isinstance(value, list) or all(_within(part, limit) for part in value)
