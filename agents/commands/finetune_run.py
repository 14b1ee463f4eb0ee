"""The work of ``refit finetune``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from agents.algorithms.registry import algorithm
from agents.commands.finetune import Finetune
from agents.commands.measures import comparison, comparison_table, cost, validation_gain, validation_panel
from agents.commands.resuming import check_begun_on, check_unchanged, checkpoints_in, interrupted
from agents.commands.start import check_recorded, check_weights_unchanged, initial_policy, weights_of
from agents.commands.target import TRIED, Target, choose_target, note_other_data, reward_named, scorer_kwargs
from agents.console import console, print_json, say, shows_progress
from agents.reports.facts import gain_in_words
from agents.runs.alarms import alarms
from agents.runs.contents import RunConfig
from agents.runs.files import CONFIG, CURVE, RunError
from agents.runs.folder import RunFolder
from agents.runs.log import log_result, read_log
from agents.runs.plots import Panel, column, plot_curves
from agents.runs.processes import is_first
from agents.runs.profiling import measure
from agents.training.checkpoint import policy_of
from agents.training.config import TrainerConfig
from agents.training.fine_tuner import FineTuner, FineTuneResult
from agents.training.kl import compared_chains
from refit_env.checkpoint import weights_digest
from refit_env.data import load_dataset
from refit_env.data.identity import DataIdentity
from refit_env.evaluation.ranking import evaluated_users
from refit_env.evaluation.selection import Rule
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.base import ListReward, Reward
from refit_env.settings import plain
from refit_env.utils.user_code import absolute_place, places_in, source_of, sources_in

SETTINGS = ("env", "seed", "algorithm", "preset", "num_steps", "eta", "env_kwargs", "agent")
"""Settings of ``config.json`` that TensorBoard shows beside the results."""

KEPT = ("dataset", "weights", "pretraining", "algorithm_file", "reward_files")
"""What a resumed run keeps of its ``config.json`` besides the settings."""


def run(command: Finetune) -> int:
    """Fine-tune, evaluate, and write the run folder; returns the exit code."""
    command = replace(command, agent=_adapted(command))
    if not is_first():
        return _assist(command)
    if command.resume:
        if command.overwrite:
            raise ValueError("--resume continues a run, --overwrite replaces it: leave one out")
        with RunFolder.resume(command.out) as folder:
            return _train(command, folder, *_resumed(command, folder))
    policy, target = _start(command, None)
    settings = _settings(command, policy, target)
    agent = _agent(command, policy, target, settings)
    needs = {"--init": str(command.init)} | checkpoints_in(settings["env_kwargs"])
    pretraining = _pretraining_cost(RunFolder(str(command.init)))
    weights = weights_of(needs.values())
    if not command.other_weights:
        check_recorded(weights)
    begun = {
        "dataset": asdict(DataIdentity.of(agent.dataset)),
        "weights": weights,
        "pretraining": pretraining,
        "algorithm_file": source_of("algorithm", command.algorithm),
        "reward_files": sources_in("reward", settings["env_kwargs"].get("reward")),
    }
    _try_reward(agent, settings["env_kwargs"].get("reward"))
    # After all that can be refused: a mistake leaves no run in the way.
    with RunFolder.create(
        command.out, "finetune", settings | begun, overwrite=command.overwrite, needs=needs
    ) as folder:
        return _train(command, folder, agent, pretraining)


def _assist(command: Finetune) -> int:
    """Train beside the first process, which writes the run folder; returns the exit code."""
    if command.resume:
        agent = _resumed(command, RunFolder.open(command.out, needs=(CONFIG,)))[0]
    else:
        policy, target = _start(command, None)
        agent = _agent(command, policy, target, _settings(command, policy, target))
    agent.learn()
    return 0


def _adapted(command: Finetune) -> TrainerConfig:
    """The agent's settings, as its reward needs them."""
    reward = None if command.goal.reward is None else reward_named(command.goal.reward)
    return algorithm(command.algorithm).adapted(command.agent, reward)


def _start(command: Finetune, state: DiffusionPolicy | None) -> tuple[DiffusionPolicy, Target]:
    """The policy that training begins with (``state`` for a resumed run), and the environment."""
    if state is not None:
        return state, choose_target(command.env, command.data)
    if command.init is None:
        raise ValueError("which model? --init FOLDER, a run of refit pretrain")
    init = RunFolder.open(command.init)
    target = choose_target(command.env, command.data, fallback=init.config)
    policy = initial_policy(command, init.path, target)
    return policy.respaced(command.num_steps, command.eta), target


def _settings(command: Finetune, policy: DiffusionPolicy, target: Target) -> dict[str, Any]:
    """The settings of the run for its ``config.json``."""
    env_kwargs = command.goal.env_kwargs() | scorer_kwargs(policy, command.init, target)
    options = env_kwargs.get("reward_kwargs", {})
    if isinstance(options.get("checkpoint"), str):  # it is read again, perhaps from elsewhere
        options["checkpoint"] = str(Path(options["checkpoint"]).resolve())
    return {
        "env": target.env_id,
        "data": target.data,
        "seed": command.seed,
        "init": None if command.init is None else str(command.init.resolve()),
        "new_data": command.new_data,
        "env_kwargs": env_kwargs | ({"other_data": True} if command.other_data else {}),
        "num_steps": command.num_steps,
        "eta": command.eta,
        "algorithm": absolute_place(command.algorithm),
        "preset": command.preset,
        "agent": plain(command.agent),
    }


def _agent(
    command: Finetune, policy: DiffusionPolicy, target: Target, settings: Mapping[str, Any]
) -> FineTuner:
    """The agent; settings that do not fit are refused here."""
    kwargs = settings["env_kwargs"]
    agent = make_agent(policy, target, command.agent, kwargs, command.seed, command.device, command.algorithm)
    evaluated_users(agent.dataset, "test")
    reward, items = agent.env.problem.reward_fn, agent.env.problem.num_items
    if pays_every_list_alike(reward, items):
        line = f"lists of {reward.k} hold all {items} items, so that the reward of every list is the same and"
        say(f"{line} nothing can be learnt from it{': pass a smaller --k' * (items > 1)}", stderr=True)
    return agent


def _try_reward(agent: FineTuner, reward: Any) -> None:
    """Score a few chains by a user's own code: its errors end the command before it replaces a run."""
    problem = agent.env.problem
    if places_in(reward):
        agent.refresh_lists()
        users = torch.as_tensor(problem.users)[:TRIED]
        _, u0, users = compared_chains(agent.policy, agent.reference, problem, users)
        problem.score(u0, users)


def pays_every_list_alike(reward: Reward, num_items: int) -> bool:
    """Whether a reward is the same for all lists: they hold all items, and all ranks weigh the same."""
    parts = [part for part, weight in reward.parts() if weight]
    flat = [isinstance(part, ListReward) and bool(part.discount.eq(part.discount[0]).all()) for part in parts]
    return reward.k >= num_items and all(flat)


def _resumed(command: Finetune, folder: RunFolder) -> tuple[FineTuner, dict[str, float] | None]:
    """The agent of an interrupted run in its last state, and the cost of its pretraining."""
    begun = folder.config
    saved = (folder.path / f"{FineTuner.stem}.safetensors").exists()
    state = policy_of(folder.path) if saved else None
    check_begun_on(folder.path, begun, load_dataset(choose_target(command.env, command.data).dataset))
    policy, target = _start(command, state)
    settings = _settings(command, policy, target)
    grows = check_unchanged(folder.path, begun, settings)
    needed = list(checkpoints_in(settings["env_kwargs"]).values())
    if state is None:  # no state, or one of an earlier version: the start is needed
        needed.append(str(command.init))
    else:
        _check_start(folder, begun, state)
    check_weights_unchanged(folder.path, begun, needed)
    agent = _agent(command, policy, target, settings)
    if saved:
        agent.load(folder.path)
    if grows and is_first():
        kept = {name: begun.get(name) for name in KEPT}
        folder.write_config("finetune", settings | kept)
    return agent, begun.get("pretraining")


def _check_start(folder: RunFolder, begun: RunConfig, start: DiffusionPolicy) -> None:
    """Refuse the state of a training that began with other weights than the run."""
    known = (begun.get("weights") or {}).get(begun.get("init") or "")
    if known not in (None, weights_digest(start.backbone.state_dict())):
        raise RunError(
            f"{folder.path / FineTuner.stem}.safetensors is the state of another training: it began with "
            f"other weights than this run, which began with those in {begun.get('init')}. Put the former "
            "file back, or begin another run with another --out"
        )


def _train(
    command: Finetune, folder: RunFolder, agent: FineTuner, pretraining: Mapping[str, float] | None
) -> int:
    """Train, report, and return the exit code."""
    report = finetune_run(agent, folder, progress=shows_progress(command.quiet), pretraining=pretraining)
    if report is None:
        raise interrupted("finetune", command.out, "iteration", agent.saved)
    outcome = outcome_of(report["training"], report["unit"], folder.config)
    if command.json:
        print_json(
            {"run": str(folder.path), "env": folder.config["env"], "outcome": outcome, **folder.metrics}
        )
    elif not command.quiet:
        note_other_data(load_dataset(choose_target(None, None, folder.config).dataset))
        console().print(comparison_table(report, f"{folder.config['env']}, seed {command.seed}"))
        say(outcome)
        for alarm in report["training"]["alarms"]:
            say(f"Alarm at iteration {alarm['iteration']}, {alarm['kind']}. {alarm['text']}")
    return 0


def outcome_of(
    training: Mapping[str, Any], unit: str = "users", config: Mapping[str, Any] | None = None
) -> str:
    """Which weights validation chose, in words; with advice where it chose those of the start.

    Args:
        training: the part of ``metrics.json``.
        unit: what metrics are means over, ``users`` or ``rows``.
        config: ``config.json``: what the run has already is not advised.

    Example:
        >>> training = {"iterations": 5, "best_iteration": 3, "best_value": 0.25}
        >>> training["selected_on"] = "valid ndcg@20"
        >>> print(outcome_of(training))
        Iteration 3 of 5 has the best valid ndcg@20, 0.2500: the run folder holds its weights.
        >>> print(outcome_of(training | {"best_iteration": 0}))  # doctest: +ELLIPSIS
        Validation never rose: in 5 iterations valid ndcg@20 was never better than the start's 0.2500. ...
    """
    best, last = training["best_iteration"], training["iterations"]
    metric, value = training["selected_on"], f"{training['best_value']:.4f}"
    if not last:
        return "No iteration was run: the run folder holds the weights of the start."
    if not training.get("rule_met", True):
        return (
            f"Nothing met the rule: in {last} iterations the conditions of {metric} never held. The run "
            f"folder holds the weights of the start. Try {_remedies(unit, config or {})}, or weaker "
            "conditions."
        )
    if best == 0:
        return (
            f"Validation never rose: in {last} iterations {metric} was never better than the start's "
            f"{value}. The run folder holds the weights of the start. Try {_remedies(unit, config or {})}."
        )
    gain = gain_in_words(training.get("valid_gain"), unit)
    choice = f"Iteration {best} of {last} has the best {metric}, {value}: the run folder holds its weights."
    return f"{choice} {gain}".strip()


def _remedies(unit: str, config: Mapping[str, Any]) -> str:
    """What to try where validation never rose, and what the run of ``config`` does not have already.

    Example:
        >>> print(_remedies("rows", {"agent": {"anneal_lr": True}}))
        a smaller --learning-rate, a smaller --exploration-std, or another --reward
    """
    annealed = config.get("agent", {}).get("anneal_lr", False)
    now = config.get("env_kwargs", {}).get("relevance")
    others = [
        f"{name} where {condition}"
        for name, condition in (("recent", "the data has times"), ("holdout", "it has none"))
        if name != now
    ]
    # The relevance of rows is always the next item.
    last = "--reward" if unit == "rows" else f"--relevance ({', '.join(others)})"
    steps = "a smaller --learning-rate" + ("" if annealed else ", --anneal-lr")
    return f"{steps}, a smaller --exploration-std, or another {last}"


def make_agent(
    policy: DiffusionPolicy,
    target: Target,
    config: TrainerConfig,
    env_kwargs: Mapping[str, Any],
    seed: int,
    device: str,
    name: str = "reinforce",
) -> FineTuner:
    """The agent of the algorithm ``name``; settings that do not fit are refused here."""
    kwargs = target.env_kwargs() | dict(env_kwargs)
    return algorithm(name)(policy, target.env_id, config, env_kwargs=kwargs, seed=seed, device=device)


def finetune_run(
    agent: FineTuner,
    folder: RunFolder,
    *,
    progress: bool = False,
    pretraining: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Fine-tune an agent's policy in place and write its run folder.

    Args:
        agent: with the pretrained policy, or as far as a resumed run came; it holds the chosen weights
            afterwards.
        folder: a run folder that was begun.
        progress: show a progress bar.
        pretraining: the cost of pretraining, for the report.

    Returns:
        The content of ``metrics.json``, or None if Ctrl-C ended training (its state is saved).
    """
    result = agent.learn(folder.path, progress=progress, overwrite=True)
    dataset = agent.dataset
    draw_curve(folder, f"{dataset.name}: {agent.name}", agent.rule, result)
    if result.interrupted:
        return None
    with measure() as evaluation:
        before = agent.evaluate("test", start=True)
    after = agent.evaluate("test")
    agent.policy.save(folder.path, dataset, overwrite=True)
    names = (*agent.rule.names, *agent.lagrangian.names)
    report = comparison(before, after, dataset, names) | {
        "training": {
            "iterations": int(result.history[-1]["iteration"]),
            "best_iteration": result.best_iteration,
            "selected_on": f"valid {agent.config.select}",
            "best_value": result.best_value,
            "valid_gain": validation_gain(agent) if result.best_iteration else None,
            "rule_met": result.rule_met,
            "share": result.share,
            "alarms": [alarm.to_json() for alarm in alarms(result.history)],
        },
        "cost": cost(pretraining=pretraining, finetuning=result.cost, evaluation=evaluation),
    }
    log_result(
        folder.path,
        {name: value for name, value in folder.config.items() if name in SETTINGS},
        {f"{when}/{name}": report[when][name] for when in ("before", "after") for name in report["after"]},
        {
            f"gain/{name}": after.per_user[name] - before.per_user[name]
            for name in report["after"]
            if name in after.per_user
        },
    )
    folder.finish(report)
    return report


def draw_curve(folder: RunFolder, title: str, rule: Rule, result: FineTuneResult) -> None:
    """Draw ``curve.png`` from the log: the reward, and the validation metrics with the chosen iteration."""
    rows = read_log(folder.path)
    chosen = (f"chosen: iteration {result.best_iteration}", float(result.best_iteration))
    panels = [
        Panel("training", {"mean reward": column(rows, "reward/mean")}, "reward of the batch", chosen=chosen),
        validation_panel(rows, rule, chosen, start=True),
    ]
    plot_curves(panels, folder.path / CURVE, title=title)


def _pretraining_cost(init: RunFolder) -> dict[str, float] | None:
    """The cost of the pretrained model, where its run recorded it."""
    return init.metrics.get("cost", {}).get("pretraining") if init.finished() else None
