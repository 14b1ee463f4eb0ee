"""The actor of an SB3 policy: a diffusion policy built from JSON-plain settings.

Stable-Baselines3 stores ``policy_kwargs`` in its saved files, and builds the policy from them before it loads
the weights. A network in ``policy_kwargs`` would be saved twice, training would change the caller's network,
and loading would unpickle it. So the settings name a run folder, and also hold what is needed to build the
network without that folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refit_env.backbones import Backbone, make_backbone
from refit_env.backbones.restore import restore_backbone
from refit_env.checkpoint import load_checkpoint
from refit_env.errors import CheckpointError, unknown_name
from refit_env.policy import DiffusionPolicy
from refit_env.settings import plain
from refit_env.utils.text import shown

BUILD = ("backbone", "num_items", "backbone_config")
"""Settings that define a network."""
CHAIN = ("num_steps", "exploration_std", "posterior_share", "eta")
"""Settings that define its chain (``DiffusionPolicy.chain``); all have defaults."""
SETTINGS = ("run", *BUILD, *CHAIN, "dataset")
"""All settings of an actor."""
WHICH = (
    "Pass policy_kwargs={'actor': {'run': FOLDER}}, a folder made by 'refit pretrain', or {'backbone': "
    "'diffrec', 'num_items': I} for an untrained one"
)


def make_actor(settings: dict[str, Any]) -> tuple[DiffusionPolicy, str | None]:
    """Build the policy that the settings name, and add to them what is needed to build it without its folder.

    Args:
        settings: ``{"run": FOLDER}``, a folder written by ``refit pretrain``, ``refit finetune`` or
            ``DiffusionPolicy.save``; or ``{"backbone": NAME, "num_items": I, "backbone_config": {...}}``, an
            untrained network. With either, ``num_steps``, ``exploration_std``, ``posterior_share`` and
            ``eta`` change the chain; the default is the run's chain. **Changed in place**: a run's backbone,
            its configuration and its chain are added. Stable-Baselines3 stores and saves this mapping, so a
            saved file can be loaded after the folder was deleted.

    Returns:
        The policy with the run's weights; and None, or the reason why it has no weights yet: the settings
        were completed earlier, and the folder was deleted or now holds another network. This is valid only
        while a saved file is loaded, because its weights are loaded afterwards.

    Raises:
        CheckpointError: if the folder holds no readable policy, or another backbone than the settings name.
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
                f"actor run {str(settings['run'])!r}: {error}. Create one with 'refit pretrain --out FOLDER'"
            ) from error
        return _build(settings), f"the run folder {str(settings['run'])!r} is gone ({error})"
    saved = dict(meta)
    other = [name for name in BUILD if name in settings and plain(settings[name]) != saved[name]]
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
    """Return the settings of an actor, after checking that they are a dictionary.

    Raises:
        ValueError: if they are None or of another type; the message states what to pass.
    """
    if isinstance(settings, dict):
        return settings
    raise ValueError(f"which actor? {WHICH}" + ("" if settings is None else f"; found {shown(settings)}"))


def _build(settings: dict[str, Any]) -> DiffusionPolicy:
    """Build the policy with random weights, from torch's global generator."""
    backbone = make_backbone(settings["backbone"], settings["num_items"], settings.get("backbone_config"))
    backbone.freeze_scores()
    return _chain(backbone, settings)


def _chain(backbone: Backbone, settings: dict[str, Any]) -> DiffusionPolicy:
    """Build the policy of a backbone with the chain of the settings."""
    chain = {name: settings[name] for name in CHAIN if settings.get(name) is not None}
    policy = DiffusionPolicy(backbone, **chain)
    if bool((policy.std <= 0).any()):
        raise ValueError(
            "the actor's std is 0 at some step, so there is no policy gradient: raise "
            "policy_kwargs={'actor': {'exploration_std': ...}} (0.05 is usual)"
        )
    return policy


def _complete(settings: dict[str, Any], policy: DiffusionPolicy) -> DiffusionPolicy:
    """Add the policy's backbone and chain to the settings."""
    settings["run"] = None if settings.get("run") is None else str(settings["run"])
    settings["backbone"], settings["num_items"] = policy.backbone.name, policy.backbone.num_items
    settings["backbone_config"] = plain(policy.backbone.config_dict())
    settings |= policy.chain
    return policy
