"""The actor of an SB3 policy: a diffusion policy made from JSON-plain settings.

Stable-Baselines3 writes ``policy_kwargs`` into its saved files, and makes the policy from them again before
it puts the weights back. A network in ``policy_kwargs`` would be saved twice, the caller's own would be
trained, and loading would unpickle it. So the settings name a run folder, and what is needed to build the
network without that folder is written beside the name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from refit_env.backbones import Backbone, make_backbone
from refit_env.backbones.restore import restore_backbone
from refit_env.checkpoint import load_checkpoint
from refit_env.errors import CheckpointError, unknown_name
from refit_env.policy import DiffusionPolicy
from refit_env.utils.text import shown

BUILD = ("backbone", "num_items", "backbone_config")
"""What a network is built from."""
CHAIN = ("num_steps", "exploration_std", "posterior_share", "eta")
"""What its chain is besides (``DiffusionPolicy.chain``); all have defaults."""
SETTINGS = ("run", *BUILD, *CHAIN, "dataset")
"""Every setting of an actor."""
WHICH = (
    "Pass policy_kwargs={'actor': {'run': FOLDER}}, a folder that 'refit pretrain' made, or {'backbone': "
    "'diffrec', 'num_items': I} for an untrained one"
)


def make_actor(settings: dict[str, Any]) -> tuple[DiffusionPolicy, str | None]:
    """Build the policy that the settings name, and complete them so that they name it without its folder.

    Args:
        settings: ``{"run": FOLDER}``, what ``refit pretrain``, ``refit finetune`` or ``DiffusionPolicy.save``
            left; or ``{"backbone": NAME, "num_items": I, "backbone_config": {...}}``, an untrained network.
            With either, ``num_steps``, ``exploration_std``, ``posterior_share`` and ``eta`` change the chain,
            which is the run's where they are not named. **Completed in place**: a
            run's backbone, its configuration and its chain are added. Stable-Baselines3 keeps and saves this
            very mapping, which is how a saved file can be loaded where the folder is gone.

    Returns:
        The policy, its weights those of the run; and None, or why it has no weights of its own yet: the
        settings were completed earlier and the folder is gone or holds another network since. That is right
        for a file that is being loaded, whose weights follow, and for nothing else.

    Raises:
        CheckpointError: if the folder holds no readable policy, or another backbone than the settings say.
        ValueError: for an unknown setting, or too few of them.
    """
    for name in check_actor(settings):
        if name not in SETTINGS:
            raise unknown_name("actor setting", name, SETTINGS)
    completed = all(name in settings for name in BUILD)
    if settings.get("run") is None:
        if not all(settings.get(name) is not None for name in BUILD[:2]):
            raise ValueError(f"which actor? {WHICH}")
        return _complete(settings, _build(settings)), None
    try:
        state, meta = load_checkpoint(Path(settings["run"]))
    except CheckpointError as error:
        if not completed:
            raise CheckpointError(
                f"actor run {str(settings['run'])!r}: {error}. Make one with 'refit pretrain --out FOLDER'"
            ) from error
        return _build(settings), f"the run folder {str(settings['run'])!r} is gone ({error})"
    saved = dict(meta)
    other = [name for name in BUILD if name in settings and _plain(settings[name]) != saved[name]]
    if other and not completed:
        name = other[0]
        raise CheckpointError(
            f"actor run {str(settings['run'])!r} holds {name} {saved[name]!r}, not {settings[name]!r}"
        )
    if other:
        return _build(settings), f"the run folder {str(settings['run'])!r} holds another network since"
    policy = _chain(restore_backbone(state, meta, str(settings["run"])), saved | settings)
    settings.setdefault("dataset", meta.get("dataset", ""))
    return _complete(settings, policy), None


def check_actor(settings: Any) -> dict[str, Any]:
    """The settings of an actor, if they are such.

    Raises:
        ValueError: if there are none, or something else; it says what to pass.
    """
    if isinstance(settings, dict):
        return settings
    raise ValueError(f"which actor? {WHICH}" + ("" if settings is None else f"; found {shown(settings)}"))


def _build(settings: dict[str, Any]) -> DiffusionPolicy:
    """The policy without its weights; its own random numbers are the caller's global ones."""
    backbone = make_backbone(settings["backbone"], settings["num_items"], settings.get("backbone_config"))
    backbone.freeze_scores()
    return _chain(backbone, settings)


def _chain(backbone: Backbone, settings: dict[str, Any]) -> DiffusionPolicy:
    """The policy of a backbone, its chain as the settings have it."""
    chain = {name: settings[name] for name in CHAIN if settings.get(name) is not None}
    policy = DiffusionPolicy(backbone, **chain)
    if bool((policy.std <= 0).any()):
        raise ValueError(
            "the actor's std is 0 at some step, so a policy gradient has nothing to learn from: raise "
            "policy_kwargs={'actor': {'exploration_std': ...}} (0.05 is usual)"
        )
    return policy


def _complete(settings: dict[str, Any], policy: DiffusionPolicy) -> DiffusionPolicy:
    """Write what the policy is into the settings."""
    settings["run"] = None if settings.get("run") is None else str(settings["run"])
    settings["backbone"], settings["num_items"] = policy.backbone.name, policy.backbone.num_items
    settings["backbone_config"] = _plain(policy.backbone.config_dict())
    settings |= policy.chain
    return policy


def _plain(value: Any) -> Any:
    """The value as JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(value))
