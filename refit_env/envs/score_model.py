"""The pretrained model that scores u_0 where u lives in an embedding space.

Letters: I items.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refit_env.backbones import Backbone
from refit_env.data import Dataset
from refit_env.data.identity import check_same_data
from refit_env.policy import DiffusionPolicy
from refit_env.registration import TABLE


def load_judge(
    backbone: str,
    checkpoint: str | Path | None,
    dataset: Dataset,
    data: Any = None,
    other_data: bool = False,
) -> Backbone:
    """Load the frozen model by whose weights an environment scores u_0, in float64.

    Args:
        backbone: the name that the model must have.
        checkpoint: a run folder, or another that ``DiffusionPolicy.save`` wrote.
        dataset: whose I items it must rank.
        data: what the environment was told of the data, to name its id in the message.
        other_data: whether the model may have been trained on another data set.

    Raises:
        ValueError: if no checkpoint was named (with the command that makes one), or it does not fit.
        CheckpointError: if it is missing or damaged.
        DataError: if it was trained on another data set.
    """
    if checkpoint is None:
        known = [row.env_id for row in TABLE if row.dataset == data]
        env_id = known[0] if known else "ReFiT-Custom-v0"
        which = f"--env {env_id}" if known else f"--data FOLDER --backbone {backbone}"
        raise ValueError(
            f"backbone {backbone!r} denoises embeddings, which only a trained model can score. Train one: "
            f"refit pretrain {which} --out runs/pretrained; "
            f"then make {env_id} with checkpoint='runs/pretrained'"
        )
    model = DiffusionPolicy.load(checkpoint, other_data=other_data).backbone
    if model.name != backbone or model.num_items != dataset.num_items:
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} holds a {model.name!r} of {model.num_items} items; this "
            f"environment needs a {backbone!r} of {dataset.num_items} ({dataset.name!r})"
        )
    check_same_data(model.trained_on, dataset, f"checkpoint {str(checkpoint)!r}")
    return model.double().eval().requires_grad_(False)
