"""The work of ``refit evaluate``."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields
from typing import Any, cast

import gymnasium as gym
import torch
from rich.table import Table
from torch import Tensor

from agents.commands.evaluate import Evaluate
from agents.commands.finetune import RewardChoice
from agents.commands.loading import learned_data
from agents.commands.options import parse_options
from agents.commands.target import Target, choose_target, note_other_data, reward_named, scorer_kwargs
from agents.console import console, print_json, say
from agents.runs.folder import RunFolder
from agents.training.tensors import resolve_device
from refit_env.checkpoint import weights_digest
from refit_env.data import Dataset, load_dataset
from refit_env.envs.vector import DenoisingVectorEnv
from refit_env.errors import SettingError
from refit_env.evaluation.beyond_accuracy import beyond_names, means_of
from refit_env.evaluation.catalogue import catalogue_of
from refit_env.evaluation.ranking import ScoreFunction, evaluate
from refit_env.evaluation.reranking import reranked_with
from refit_env.policy import DiffusionPolicy

BATCH = 512
"""Users whose reward is computed at a time."""


def _scores(
    command: Evaluate, policy: DiffusionPolicy, dataset: Dataset
) -> tuple[ScoreFunction, dict[str, Any] | None]:
    """The scores that are ranked, and the re-ranker that made them; None where the policy's are."""
    options = parse_options(command.rerank_options, "rerank_options")
    if command.rerank is None:
        if options:
            raise SettingError("rerank_options", "needs --rerank NAME, the re-ranker that they are of")
        return policy.scorer(dataset), None
    try:
        found = reranked_with(command.rerank, options, policy.scorer(dataset), dataset, command.split)
    except SettingError as error:
        raise SettingError("rerank_options", f"{error.setting} {error.fault}") from error
    return found, {"name": command.rerank, **options}


def run(command: Evaluate) -> int:
    """Evaluate and print; returns the exit code."""
    folder = RunFolder.open(command.run_dir)
    if command.goal.reward is not None:
        reward_named(command.goal.reward)
    elif changed := [f.name for f in fields(RewardChoice) if getattr(command.goal, f.name) != f.default]:
        raise SettingError(changed[0], "needs --reward NAME, the reward whose mean to measure")
    target = choose_target(command.env, command.data, fallback=folder.config)
    device = resolve_device(command.device)
    policy = DiffusionPolicy.load(folder.path, device, other_data=command.other_data)
    if not command.other_weights:
        folder.check_weights(weights_digest(policy.backbone.state_dict()))
    dataset = learned_data(folder, load_dataset(target.dataset))
    if dataset.validation_learned and command.split == "valid":
        raise ValueError(f"--split valid: the model in {folder.path} was fitted to the validation items, too")
    score, how = _scores(command, policy, dataset)
    result = evaluate(score, dataset, command.split, device=device)
    metrics = means_of(result, dataset, command.split, beyond_names(result))
    paid = None if command.goal.reward is None else mean_reward(command, target, policy, dataset)
    note_other_data(dataset)
    if command.json:
        print_json(
            {
                "run": str(folder.path),
                "env": target.env_id,
                "dataset": dataset.name,
                "split": command.split,
                "users": len(result.users),
                "unit": dataset.unit,
                **({} if how is None else {"rerank": how}),
                "metrics": {name: float(value) for name, value in metrics.items()},
                "features": catalogue_of(dataset).source,
                "metrics_over_all_users": {
                    name: float(value) for name, value in result.means_over_all().items()
                },
            }
            | ({} if paid is None else {"reward": paid})
        )
        return 0
    by = "" if how is None else f", re-ranked by {how['name']}"
    title = f"{folder.path}{by} on {dataset.name} ({command.split}, {len(result.users)} {dataset.unit})"
    table = Table("metric", title=title, min_width=48)
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    for name, value in ({} if paid is None else paid["terms"] | {"total": paid["mean"]}).items():
        table.add_row(f"reward {name}", f"{value:.4f}")
    console().print(table)
    if paid is not None and paid["scheduled"]:
        say("reward: weights that follow a schedule have the values of the end of a training")
    say(f"ild, calibration, rsp: {catalogue_of(dataset).source}")
    return 0


def mean_reward(
    command: Evaluate, target: Target, policy: DiffusionPolicy, dataset: Dataset
) -> dict[str, Any]:
    """The mean reward of the noise-free chains of all users of episodes, its terms, and what it is of."""
    device = policy.device
    data = {"data": dataset} if dataset.validation_learned else target.env_kwargs()
    kwargs = data | command.goal.env_kwargs() | scorer_kwargs(policy, command.run_dir, target)
    if not policy.backbone.embedding:
        kwargs |= {"backbone": policy.backbone.name, "backbone_options": policy.backbone.config_dict()}
    kwargs |= {"num_steps": policy.num_steps, "other_data": command.other_data}
    kwargs |= {"backend": "torch", "device": str(device), "vectorization_mode": "vector_entry_point"}
    problem = cast("DenoisingVectorEnv", gym.make_vec(target.env_id, num_envs=1, **kwargs)).problem
    score, reward = policy.scorer(problem.seen), problem.reward_fn
    reward.refresh(score)
    reward.set_progress(1.0)
    rows: defaultdict[str, list[Tensor]] = defaultdict(list)
    values: list[Tensor] = []
    for users in torch.split(torch.as_tensor(problem.users, device=device), BATCH):
        found = reward(score(users), users)
        values.append(found.value.double())
        for name, term in found.terms.items():
            rows[name].append(term.double())
    return {
        "reward": command.goal.reward,
        "relevance": problem.relevance.mode,
        "k": reward.k,
        "scheduled": reward.scheduled,
        "users": len(problem.users),
        "mean": float(torch.cat(values).mean()),
        "terms": {name: float(torch.cat(terms).mean()) for name, terms in rows.items()},
    }
