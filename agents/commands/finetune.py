"""``refit finetune``: reinforcement learning on top of a pretrained run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import tyro
from msgspec import Meta

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.registry import algorithm, presets
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
    validation_curves,
)
from agents.commands.options import CountOption, EnvOption, EtaOption, Flag, FolderOption, NameOption, parse
from agents.commands.resuming import (
    as_words,
    begun_settings,
    check_begun_on,
    check_unchanged,
    check_weights_unchanged,
    checkpoints_in,
    interrupted,
    weights_of,
)
from agents.console import console, say
from agents.runs.folder import CONFIG, CURVE, RunError, RunFolder
from agents.runs.log import read_log
from agents.runs.plots import column, plot_curves
from agents.runs.profiling import measure
from agents.training.checkpoint import policy_of
from agents.training.config import TrainerConfig, named_settings
from agents.training.fine_tuner import FineTuner
from refit_env.data import load_dataset
from refit_env.data.identity import DataIdentity
from refit_env.errors import SettingError
from refit_env.evaluation.ranking import evaluated_users
from refit_env.policy import DiffusionPolicy
from refit_env.settings import Bounded, Seed
from refit_env.utils.atomic_io import check_record


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

    init: FolderOption = None
    """Run folder of the pretrained model."""
    out: Path
    """Run folder to make."""
    env: EnvOption = None
    """Environment id; that of ``--init`` unless told otherwise."""
    data: FolderOption = None
    """A data set of one's own, instead of ``--env``: its canonical folder, or its name in a data home."""
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
    other_data: Flag = False
    """Let the model meet another data set than the one that it was trained on."""
    resume: Flag = False
    """Go on with the interrupted run in ``--out``: what it was begun with is read from there, and of other
    options only more ``--iterations`` can be given."""
    overwrite: Flag = False
    """Replace the run in ``--out``."""
    quiet: Flag = False
    """No progress bar and no table."""

    def run(self) -> int:
        """Fine-tune, evaluate, and write the run folder."""
        if self.resume:
            if self.overwrite:
                raise ValueError("--resume goes on with a run, --overwrite replaces it: leave one out")
            with RunFolder.resume(self.out) as folder:
                return self._train(folder, *self._resumed(folder))
        policy, target = self._start(None)
        settings = self._settings(policy, target)
        agent = self._agent(policy, target, settings)
        needs = {"--init": str(self.init)} | checkpoints_in(settings["env_kwargs"])
        pretraining = _pretraining_cost(RunFolder(str(self.init)))
        begun = {
            "dataset": asdict(DataIdentity.of(agent.env.problem.dataset)),
            "weights": weights_of(needs.values()),
            "pretraining": pretraining,
        }
        # After all that can be refused: a mistake leaves no run in the way.
        with RunFolder.create(
            self.out, "finetune", settings | begun, overwrite=self.overwrite, needs=needs
        ) as folder:
            return self._train(folder, agent, pretraining)

    def _start(self, state: DiffusionPolicy | None) -> tuple[DiffusionPolicy, Target]:
        """The policy that training begins with, and the environment.

        Args:
            state: the policy that a resumed run was begun with; None reads that of ``--init``.
        """
        if state is not None:
            return state, choose_target(self.env, self.data)
        if self.init is None:
            raise ValueError("which model? --init FOLDER, a run of refit pretrain")
        init = RunFolder.open(self.init)
        target = choose_target(self.env, self.data, fallback=init.config)
        policy = DiffusionPolicy.load(init.path, other_data=self.other_data)
        return policy.respaced(self.num_steps, self.eta), target

    def _settings(self, policy: DiffusionPolicy, target: Target) -> dict[str, Any]:
        """What the run is known by, JSON-plain."""
        env_kwargs = self.goal.env_kwargs() | judge_kwargs(policy, self.init, target)
        return {
            "env": target.env_id,
            "data": target.data,
            "seed": self.seed,
            "init": None if self.init is None else str(self.init.resolve()),
            "env_kwargs": env_kwargs | ({"other_data": True} if self.other_data else {}),
            "num_steps": self.num_steps,
            "eta": self.eta,
            "algorithm": self.algorithm,
            "preset": self.preset,
            "agent": plain(self.agent),
        }

    def _agent(self, policy: DiffusionPolicy, target: Target, settings: Mapping[str, Any]) -> FineTuner:
        """The agent; whatever does not fit is refused here."""
        kwargs = settings["env_kwargs"]
        try:
            agent = make_agent(policy, target, self.agent, kwargs, self.seed, self.device, self.algorithm)
        except SettingError as error:
            typed = {"reward_kwargs": "reward_options"}.get(error.setting, error.setting)
            raise SettingError(typed, error.fault) from error
        evaluated_users(agent.env.problem.dataset, "test")
        return agent

    def _resumed(self, folder: RunFolder) -> tuple[FineTuner, dict[str, float] | None]:
        """The agent of a run that was begun, as far as it came; and what its pretraining cost."""
        begun = folder.config
        saved = (folder.path / f"{FineTuner.stem}.safetensors").exists()
        state = policy_of(folder.path) if saved else None
        check_begun_on(folder.path, begun, load_dataset(choose_target(self.env, self.data).dataset))
        policy, target = self._start(state)
        settings = self._settings(policy, target)
        grows = check_unchanged(folder.path, begun, settings)
        needed = list(checkpoints_in(settings["env_kwargs"]).values())
        if state is None:  # it begins, or goes on from a state of an earlier version: from the same model
            needed.append(str(self.init))
        check_weights_unchanged(folder.path, begun, needed)
        agent = self._agent(policy, target, settings)
        if saved:
            agent.load(folder.path)
        if grows:
            kept = {name: begun.get(name) for name in ("dataset", "weights", "pretraining")}
            folder.write_config("finetune", settings | kept)
        return agent, begun.get("pretraining")

    def _train(self, folder: RunFolder, agent: FineTuner, pretraining: Mapping[str, float] | None) -> int:
        """Train, report, and return the exit code."""
        report = finetune_run(agent, folder, progress=not self.quiet, pretraining=pretraining)
        if report is None:
            raise interrupted("finetune", self.out, "iteration", agent.saved)
        if not self.quiet:
            note_other_data(load_dataset(choose_target(None, None, folder.config).dataset))
            console().print(comparison_table(report, f"{folder.config['env']}, seed {self.seed}"))
            say(_chosen(report["training"]))
        return 0


def _chosen(training: Mapping[str, Any]) -> str:
    """Which weights validation chose, in words.

    Example:
        >>> training = {"iterations": 5, "best_iteration": 0, "best_value": 0.25}
        >>> print(_chosen(training | {"selected_on": "valid ndcg@20"}))
        Iteration 0 of 5 has the best valid ndcg@20, 0.2500: the weights are those of the start.
    """
    best, last = training["best_iteration"], training["iterations"]
    start = ": the weights are those of the start" if best == 0 else ""
    value = f"{training['selected_on']}, {training['best_value']:.4f}"
    return f"Iteration {best} of {last} has the best {value}{start}."


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
    progress: bool = False,
    pretraining: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Fine-tune an agent's policy in place and write its run folder.

    Args:
        agent: with the pretrained policy, or as far as a resumed run came; it holds the chosen weights
            afterwards.
        folder: a run folder that was begun.
        progress: show a progress bar.
        pretraining: what pretraining cost, to be passed on into the report.

    Returns:
        What ``metrics.json`` holds, or None if Ctrl-C ended training (its state is saved).
    """
    result = agent.learn(folder.path, progress=progress)
    dataset = agent.env.problem.dataset
    draw_curve(folder, f"{dataset.name}: {agent.name}")
    if result.interrupted:
        return None
    with measure() as evaluation:
        before = agent.evaluate("test", start=True)
    after = agent.evaluate("test")
    agent.policy.save(folder.path, dataset)
    report = comparison(before, after) | {
        "training": {
            "iterations": int(result.history[-1]["iteration"]),
            "best_iteration": result.best_iteration,
            "selected_on": f"valid {agent.config.select_on}",
            "best_value": result.best_value,
            "share": result.share,
        },
        "cost": cost(pretraining=pretraining, finetuning=result.cost, evaluation=evaluation),
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


def _pretraining_cost(init: RunFolder) -> dict[str, float] | None:
    """What the pretrained model cost, where its run says so."""
    return init.metrics.get("cost", {}).get("pretraining") if init.finished() else None


class EnvKwargs(TypedDict, total=False):
    """What ``env_kwargs`` of ``config.json`` holds."""

    reward: str | dict[str, float]
    relevance: str
    k: int
    reward_kwargs: dict[str, Any]
    backbone: str
    checkpoint: str
    other_data: bool


def begun_command(out: Path) -> Finetune:
    """The command that began the run in ``out``: what ``--resume`` takes for the options that are left out.

    Raises:
        RunError: if there is no such run, or its ``config.json`` is damaged.
    """
    config, where = begun_settings(out, "finetune"), f"{out / CONFIG}"
    kwargs = check_record(config.get("env_kwargs", {}), EnvKwargs, f"{where}: env_kwargs", error=RunError)
    reward = kwargs.get("reward")
    if isinstance(reward, dict):
        reward = ",".join(f"{name}={weight!r}" for name, weight in reward.items())
    settings = algorithm(config.get("algorithm", "reinforce")).config_class
    data, init = config.get("data"), config.get("init")
    return Finetune(
        init=None if init is None else Path(init),
        out=out,
        env=None if data is not None else config["env"],
        data=None if data is None else Path(data),
        seed=config.get("seed", 0),
        num_steps=config.get("num_steps"),
        eta=config.get("eta"),
        goal=RewardChoice(
            reward, kwargs.get("relevance"), kwargs.get("k", 20), as_words(kwargs.get("reward_kwargs", {}))
        ),
        algorithm=config.get("algorithm", "reinforce"),
        preset=config.get("preset", "default"),
        agent=check_record(config.get("agent"), settings, f"{where}: agent", error=RunError),
        other_data=kwargs.get("other_data", False),
    )


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--algorithm", default="reinforce")
    chooser.add_argument("--preset", default="default")
    chooser.add_argument("--out", default=None)
    chooser.add_argument("--resume", action="store_true")
    chosen = chooser.parse_known_args(list(words))[0]
    if chosen.resume and chosen.out is not None:
        default = begun_command(Path(chosen.out))
    else:
        default = Finetune(
            out=tyro.MISSING,
            algorithm=chosen.algorithm,
            preset=chosen.preset,
            agent=named_settings(presets(chosen.algorithm), chosen.preset, f"preset of {chosen.algorithm}"),
        )
    command: Finetune = parse(Finetune, words, "refit finetune", default)
    return command.run()
