"""A policy in one call: that of a run folder, or a closed-form one for an environment id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refit_env.backbones import backbone_class, backbone_for
from refit_env.backbones.closed_form import ClosedForm
from refit_env.backbones.linear import LARGE
from refit_env.data import Dataset, load_dataset
from refit_env.data.identity import DataIdentity
from refit_env.policy import DiffusionPolicy
from refit_env.registration import entry
from refit_env.settings import check_kind


def load_policy(
    source: str | Path, *, data: str | Path | Dataset | None = None, num_steps: int | None = None
) -> DiffusionPolicy:
    """Return a policy without training: a saved one, or one that is fitted in closed form.

    Args:
        source: a run folder of ``refit pretrain`` or ``refit finetune``, whose policy is loaded; or an
            environment id, for whose data set a denoiser is fitted in closed form with default settings:
            ``linear``, or ``spectral`` where there are more than 10,000 items. (``refit pretrain --backbone
            linear`` chooses the settings on validation.)
        data: for ``ReFiT-Custom-v0``: the data set, or its folder.
        num_steps: T of the chain; None uses that of the run or of the id.

    Returns:
        The policy in evaluation mode. Make its environment with ``backbone=policy.backbone.name``,
        ``backbone_options=policy.backbone.config_dict()`` and its ``num_steps``.

    Raises:
        ValueError: for an unknown id, with a did-you-mean, or an id without data.
        CheckpointError: if the folder holds no readable policy.

    Example:
        >>> policy = load_policy("ReFiT-Synthetic-v0", num_steps=1)
        >>> policy.backbone.name, policy.num_steps
        ('linear', 1)
    """
    check_kind("source", source, str, Path)
    if isinstance(source, Path) or Path(source).is_dir():
        return DiffusionPolicy.load(source).respaced(num_steps)
    row = entry(source)
    given: Any = row.dataset if data is None else data
    if given is None:
        raise ValueError(f"{row.env_id} has no data set: pass data=FOLDER")
    dataset = given if isinstance(given, Dataset) else load_dataset(given)
    name = "linear" if dataset.num_items <= LARGE else "spectral"
    backbone = backbone_for(dataset, name)
    assert isinstance(backbone, ClosedForm), backbone_class(name)
    backbone.fit(dataset)
    backbone.trained_on = DataIdentity.of(dataset)
    return DiffusionPolicy(backbone, row.num_steps if num_steps is None else num_steps).eval()
