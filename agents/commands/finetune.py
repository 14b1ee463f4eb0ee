"""``refit finetune``: reinforcement learning on top of a pretrained run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from msgspec import Meta

from agents.commands.common import (
    Target,
    choose_target,
    comparison,
    comparison_table,
    cost,
    judge_kwargs,
    note_other_data,
    parse_options,
    parse_reward,
    plain,
    reopen,
    validation_curves,
)
from agents.commands.options import CountOption, EnvOption, EtaOption, Flag, FolderOption, NameOption, parse
from agents.config import TrainerConfig, named_settings
from agents.console import console, say
from agents.interrupt import INTERRUPTED
from agents.plots import column, plot_curves
from agents.registry import algorithm, presets
from agents.reinforce import ReinforceConfig
from agents.resources import measure
from agents.runlog import read_log
from agents.runs import CURVE, RunFolder
from agents.trainer import STATE_NAME, FineTuner
from refit_env.data import load_dataset
from refit_env.evaluation import evaluated_users
from refit_env.policy import DiffusionPolicy
from refit_env.settings import Bounded, Seed


@dataclass(frozen=True)
class RewardChoice(Bounded):
    """What is rewarded."""

    reward: NameOption = None
    """A name, or a weighted mix: ``racs=1,coverage=0.1``; else as the env has it."""
    relevance: NameOption = None
    """What counts as a hit: ``train``, ``recent``, ``holdout``, ``validation``, ``none``; else the env's."""
    k: Annotated[int, Meta(ge=1, le=10**6)] = 20
    """Length of the rewarded list."""
    reward_options: tuple[str, ...] = ()
    """Further settings of the reward, for example ``alpha=0.3 neighbors=20 variant=neighbor_lists``."""

    def env_kwargs(self) -> dict[str, Any]:
        """The environment's arguments."""
        out: dict[str, Any] = {"k": self.k}
        if self.reward is not None:
            out["reward"] = parse_reward(self.reward)
        if self.relevance is not None:
            out["relevance"] = self.relevance
        if self.reward_options:
            out["reward_kwargs"] = parse_options(self.reward_options)
        return out


@dataclass(frozen=True, kw_only=True)
class Finetune(Bounded):
    """Fine-tune a pretrained recommender by reinforcement learning.

    Leaves a run folder with the policy that validation chose, and in its ``metrics.json`` the test metrics
    before and after with a paired bootstrap over users.
    """

    init: Path
    """Run folder of the pretrained model."""
    out: Path
    """Run folder to make."""
    env: EnvOption = None
    """Environment id; that of ``--init`` unless told otherwise."""
    data: FolderOption = None
    """Folder of one's own data set in canonical form, instead of ``--env``."""
    seed: Seed = 0
    """Of the users drawn and of the noise."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` ..."""
    num_steps: CountOption = None
    """T, length of the chain; that of ``--init`` unless told otherwise (fewer steps respace it)."""
    eta: EtaOption = None
    """Share of the posterior's noise in the steps back, and the means that go with it: 1 is DDPM, 0 DDIM;
    that of ``--init`` unless told otherwise."""
    goal: tyro.conf.OmitArgPrefixes[RewardChoice] = field(default_factory=RewardChoice)
    """What is rewarded."""
    algorithm: str = "reinforce"
    """What fine-tunes: ``reinforce``, ``ppo``, ``grpo``, ``rwr``, ``dpo`` or ``es``; or ``distill``, which is
    no RL but its supervised rival."""
    preset: str = "default"
    """Named settings of the algorithm to start from (REINFORCE: ``score``, ``paper``; PPO: ``ddpo``); the
    options below change single ones."""
    agent: tyro.conf.OmitArgPrefixes[TrainerConfig] = field(default_factory=ReinforceConfig)
    """Settings of the algorithm."""
    resume: Flag = False
    """Go on with the interrupted run in ``--out``, with the settings it was begun with."""
    overwrite: Flag = False
    """Replace the run in ``--out``."""
    quiet: Flag = False
    """No progress bar and no table."""

    def run(self) -> int:
        """Fine-tune, evaluate, and write the run folder."""
        init = RunFolder.open(self.init)
        target = choose_target(self.env, self.data, fallback=init.config)
        policy = DiffusionPolicy.load(init.path)
        env_kwargs = self.goal.env_kwargs() | judge_kwargs(policy, init.path, target)
        settings = {
            "env": target.env_id,
            "data": target.data,
            "seed": self.seed,
            "init": str(self.init),
            "env_kwargs": env_kwargs,
            "num_steps": self.num_steps,
            "eta": self.eta,
            "algorithm": self.algorithm,
            "preset": self.preset,
            "agent": plain(self.agent),
        }
        policy = policy.respaced(self.num_steps, self.eta)
        agent = make_agent(policy, target, self.agent, env_kwargs, self.seed, self.device, self.algorithm)
        evaluated_users(agent.env.problem.dataset, "test")
        if self.resume:
            folder = reopen(self.out, settings, STATE_NAME)
        else:  # after all that can be refused: a mistake leaves no run in the way
            folder = RunFolder.create(self.out, "finetune", settings, overwrite=self.overwrite)
        report = finetune_run(
            agent, folder, resume=self.resume, progress=not self.quiet, pretraining=_pretraining_cost(init)
        )
        if report is None:
            say(f"Interrupted and saved; go on with --resume --out {self.out}", stderr=True)
            return INTERRUPTED
        if not self.quiet:
            note_other_data(load_dataset(target.dataset))
            console().print(comparison_table(report, f"{target.env_id}, seed {self.seed}"))
        return 0


def make_agent(
    policy: DiffusionPolicy,
    target: Target,
    config: TrainerConfig,
    env_kwargs: Mapping[str, Any],
    seed: int,
    device: str,
    name: str = "reinforce",
) -> FineTuner:
    """Make the agent of the algorithm ``name``; whatever does not fit is refused here."""
    kwargs = target.env_kwargs() | dict(env_kwargs)
    return algorithm(name)(policy, target.env_id, config, env_kwargs=kwargs, seed=seed, device=device)


def finetune_run(
    agent: FineTuner,
    folder: RunFolder,
    *,
    resume: bool = False,
    progress: bool = False,
    pretraining: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Fine-tune an agent's policy in place and write its run folder.

    Args:
        agent: with the pretrained policy; it holds the chosen weights afterwards.
        folder: a run folder that was begun.
        resume: take up the state in the folder.
        progress: show a progress bar.
        pretraining: what pretraining cost, to be passed on into the report.

    Returns:
        What ``metrics.json`` holds, or None if Ctrl-C ended training (its state is saved).
    """
    with measure() as evaluation:
        before = agent.evaluate("test")
    if resume:
        agent.load(folder.path)
    with measure() as training:
        result = agent.learn(folder.path, progress=progress)
    dataset = agent.env.problem.dataset
    draw_curve(folder, f"{dataset.name}: {agent.name}")
    if result.interrupted:
        return None
    after = agent.evaluate("test")
    agent.policy.save(folder.path, dataset=dataset.name)
    report = comparison(before, after) | {
        "training": {
            "iterations": int(result.history[-1]["iteration"]),
            "best_iteration": result.best_iteration,
            "selected_on": f"valid {agent.config.select_on}",
            "best_value": result.best_value,
            "share": result.share,
        },
        "cost": cost(pretraining=pretraining, finetuning=training, evaluation=evaluation),
    }
    folder.finish(report)
    return report


def draw_curve(folder: RunFolder, title: str) -> None:
    """Draw ``curve.png`` from the log: the reward and the validation metrics."""
    rows = read_log(folder.path)
    panels = {
        "reward (train)": {"mean": column(rows, "reward/mean")},
        "validation": validation_curves(rows),
    }
    plot_curves(panels, folder.path / CURVE, title=title)


def _pretraining_cost(init: RunFolder) -> dict[str, Any] | None:
    """What the pretrained model cost, where its run says so."""
    if not init.finished():
        return None
    part: dict[str, Any] | None = init.metrics.get("cost", {}).get("pretraining")
    return part


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--algorithm", default="reinforce")
    chooser.add_argument("--preset", default="default")
    chosen = chooser.parse_known_args(list(words))[0]
    named = presets(chosen.algorithm)
    default = Finetune(
        init=tyro.MISSING,
        out=tyro.MISSING,
        algorithm=chosen.algorithm,
        preset=chosen.preset,
        agent=named_settings(named, chosen.preset, f"preset of {chosen.algorithm}"),
    )
    command: Finetune = parse(Finetune, words, "refit finetune", default)
    return command.run()
