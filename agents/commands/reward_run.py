"""The work of ``refit reward``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from rich.table import Table

from agents.commands.options import parse_options
from agents.commands.reward import RewardCheck, RewardList
from agents.commands.target import Target, choose_target, note_other_data, reward_named, scorer_kwargs
from agents.console import console, print_json, say
from agents.reward_checks.episodes import SCALES, Episodes, make_env, run_episodes
from agents.reward_checks.relations import correlation_in_words
from agents.reward_checks.report import check_reward
from agents.runs.folder import RunFolder
from agents.training.tensors import resolve_device
from refit_env.data import load_dataset
from refit_env.errors import SettingError
from refit_env.policy import DiffusionPolicy
from refit_env.pretrained import load_policy
from refit_env.rewards import ListReward, reward_class, reward_names
from refit_env.utils.user_code import users_line

DEFAULT_ENV = "ReFiT-Synthetic-v0"


def list_rewards(command: RewardList) -> int:
    """Print the registered rewards; returns the exit code."""
    found = [describe(name) for name in reward_names()]
    if command.json:
        print_json(found)
        return 0
    table = Table(title="Rewards")
    for column in ("name", "sum over the list", "counts relevant items", "what it is"):
        table.add_column(column)
    for row in found:
        table.add_row(row["name"], _yes(row["list_reward"]), _yes(row["counts_relevant"]), row["about"])
    console().print(table)
    say("Your own is a file: refit reward check my_reward.py:NAME --env ID")
    return 0


def describe(name: str) -> dict[str, Any]:
    """What a registered reward is: facts of its class and the first sentence of its docstring."""
    cls = reward_class(name)
    paragraph = " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())
    return {
        "name": name,
        "about": paragraph.partition(". ")[0].rstrip("."),
        "list_reward": issubclass(cls, ListReward),
        "counts_relevant": _fact(cls.counts_relevant),
        "needs_rows": _fact(cls.needs_rows),
    }


def _fact(value: object) -> bool | None:
    """A fact of a class; None where it depends on the settings."""
    return value if isinstance(value, bool) else None


def check(command: RewardCheck) -> int:
    """Measure a reward, and print the report; returns the exit code."""
    spec = reward_named(command.reward)
    device = resolve_device(command.device)
    policy, target = _policy(command, device)
    kwargs: dict[str, Any] = {"reward": spec, "k": command.k}
    if command.relevance is not None:
        kwargs["relevance"] = command.relevance
    if command.reward_options:
        kwargs["reward_kwargs"] = parse_options(command.reward_options, "reward_options")
    episodes = _episodes(command, policy, target, kwargs, device)
    names = [name.strip() for name in command.against.split(",") if name.strip()]
    for name in names:
        reward_class(name)
    try:
        report = {"env": target.env_id} | check_reward(episodes, command.reward, names)
    except (
        TypeError,
        ValueError,
        RuntimeError,
        IndexError,
        KeyError,
        AttributeError,
        ZeroDivisionError,
    ) as error:
        if isinstance(error, SettingError) or users_line(error) is not None:
            raise
        text = " ".join(str(error).split())
        raise ValueError(f"reward {command.reward!r}: {type(error).__name__}: {text}") from error
    report["exploration_std"] = command.exploration_std
    note_other_data(episodes.problem.dataset)
    if command.json:
        print_json(report)
    else:
        _print(report)
    return 0 if report["passed"] else 1


def _policy(command: RewardCheck, device: torch.device) -> tuple[DiffusionPolicy, Target]:
    """The policy whose lists are perturbed, and the environment."""
    if command.init is not None:
        folder = RunFolder.open(command.init)
        target = choose_target(command.env, command.data, fallback=folder.config)
        policy = DiffusionPolicy.load(folder.path, device)
        policy.inputs(load_dataset(target.dataset))  # refuses other data
        return policy, target
    target = choose_target(command.env, command.data, fallback={"env": DEFAULT_ENV})
    return load_policy(target.env_id, data=target.data, num_steps=1).to(device), target


def _episodes(
    command: RewardCheck,
    policy: DiffusionPolicy,
    target: Target,
    env_kwargs: Mapping[str, Any],
    device: torch.device,
) -> Episodes:
    """Episodes of some users, drawn from those with held-out items where enough have any."""
    kwargs = target.env_kwargs() | dict(env_kwargs) | scorer_kwargs(policy, command.init, target)
    probe = make_env(target.env_id, policy, 1, kwargs, device)
    users = _users(probe.problem.users, probe.problem.dataset.valid.users, command)
    kwargs = {name: value for name, value in kwargs.items() if name != "reward_kwargs"}
    kwargs["reward"] = "novelty"  # the episodes do not depend on it; the reward is called where it is checked
    env = make_env(target.env_id, policy, users.numel() * command.samples, kwargs, device)
    problem = probe.problem
    if problem.reward_fn.uses_lists:
        problem.reward_fn.refresh(policy.scorer(problem.dataset))
    std, seed = command.exploration_std, command.seed
    return run_episodes(env, policy, users.to(device), std, SCALES, seed, problem)


def _users(everyone: Any, tested: Any, command: RewardCheck) -> torch.Tensor:
    """(B,) users of episodes, those with validation items first."""
    draws = torch.Generator().manual_seed(command.seed)
    users = torch.as_tensor(everyone)[torch.randperm(len(everyone), generator=draws)]  # (n,)
    first = torch.isin(users, torch.as_tensor(tested, dtype=users.dtype))
    ordered = torch.cat([users[first], users[~first]])[: command.users]
    return ordered.sort().values


def _print(report: Mapping[str, Any]) -> None:
    """The report as tables and sentences."""
    unit = report["unit"]
    title = f"{report['reward']} on {report['env']}: {report['users']} {unit}, {report['episodes']} lists"
    table = Table(title=title)
    table.add_column("what")
    table.add_column("found")
    for row in report["checks"]:
        table.add_row(row["name"], ("yes: " if row["passed"] else "NO: ") + row["found"])
    table.add_row("cost", f"{1000 * report['seconds_per_1000']:.1f} ms for 1,000 episodes")
    values = report["spread"]
    table.add_row(
        "mean, std", f"{values['mean']:.4g}, {values['std']:.4g} (exploration {report['exploration_std']:g})"
    )
    table.add_row(
        f"within a {unit[:-1]}",
        f"std {values['within_user_std']:.4g}, {values['within_share']:.0%} of the variance; "
        f"{values['zero_variance_share']:.0%} of {unit} without any",
    )
    held = report["held_out"]
    text = "-" if held is None else correlation_in_words(held)
    table.add_row("correlation with held-out NDCG", text)
    console().print(table)
    gaps = Table(title="Distance to known rewards (0: the same preferences; 0.71: unrelated; 1: opposite)")
    gaps.add_column("reward")
    gaps.add_column("distance", justify="right")
    for name, gap in report["distances"].items():
        gaps.add_row(name, "does not vary" if gap is None else f"{gap:.3f}")
    console().print(gaps)
    for line in report["verdict"]:
        say(line)


def _yes(value: bool | None) -> str:
    """A fact of a class in a table."""
    return "depends" if value is None else "yes" if value else "no"
