"""``refit compare --settings``: what ``refit tune`` chose as one more model of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agents.console import say
from agents.experiments.study import Study
from agents.hyperparams.models import make_model
from agents.runs.files import RunError
from agents.tuning.defaults import default_finetuning
from agents.tuning.inspection import inspect_data
from agents.tuning.settings_file import SettingsFile, read_settings
from refit_env.data import load_dataset
from refit_env.registration import entry
from refit_env.utils.user_code import places_in

TUNED = "tuned"
"""The model's name."""


def with_tuned(study: Study, path: Path, env_ids: Sequence[str]) -> Study:
    """The study with a settings file's start as one more model of some environments.

    Its fine-tuned rows have the file's reward, relevance and settings of REINFORCE where a row has none of
    its own. Where no fine-tuning was better than the start, these are the defaults for the data
    (``default_finetuning``).

    Args:
        study: the study; its other models stay.
        path: the file.
        env_ids: the environments.

    Raises:
        RunError: if the file is missing or damaged, or names code of a user.
        DataError: for a setting that the backbone or the training has not.
        ValueError: without environments, or where a model of that name is there already.
    """
    found = read_settings(path)
    if not env_ids:
        raise ValueError(f"--settings {path}: name the environments that it is for, with --env ID")
    tuned = found["finetune"]
    code = places_in(found["pretrain"]["backbone"]) + (places_in(tuned["reward"]) if tuned else [])
    if code:
        raise RunError(f"{path} names {code[0]}, a file whose code would be run; shipped names are accepted")
    environments = dict(study.environments)
    for env_id in dict.fromkeys(env_ids):
        known = study.place(env_id).models
        if TUNED in known:
            raise ValueError(f"--settings {path}: {study.name} has a model {TUNED!r} of {env_id} already")
        row = entry(env_id)
        dataset = row.dataset or ""
        body = _model(found, dataset)
        if (chosen := found["dataset"].get("name")) != dataset:
            say(f"{path}: chosen on the data set {chosen!r}; {env_id} has {dataset!r}", stderr=True)
        make_model(TUNED, body, str(path), dataset, row.backbone)
        own = dict(environments.get(env_id) or {})
        stated = own.get("models", study.models)
        models = stated if isinstance(stated, Mapping) else {name: {"like": name} for name in known}
        environments[env_id] = {**own, "models": {**models, TUNED: body}}
    return replace(study, environments=environments)


def _model(found: SettingsFile, dataset: str) -> dict[str, Any]:
    """The model's entry, as a file of models has it."""
    start, tuned = found["pretrain"], found["finetune"]
    if tuned is None:
        usual = default_finetuning(inspect_data(load_dataset(dataset)), start["backbone"])
        env, agent = dict(usual.env), asdict(usual.agent)
    else:
        env = {name: tuned[name] for name in ("reward", "relevance", "reward_kwargs")}
        agent = dict(tuned["agent"])
    draws = agent.pop("relevance_draws", 1)
    return {
        "backbone": start["backbone"],
        "options": start["backbone_options"],
        "num_steps": start["num_steps"],
        "pretrain": start["training"],
        "env": {name: value for name, value in env.items() if value},
        "relevance_draws": draws,
        "variants": {"reinforce": agent},
    }
