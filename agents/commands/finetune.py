"""``refit finetune``: reinforcement learning on top of a pretrained run."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypedDict

import tyro
from msgspec import Meta

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.registry import presets, settings_class
from agents.commands.options import (
    Command,
    CountOption,
    EnvOption,
    EtaOption,
    FileOption,
    Flag,
    FolderOption,
    NameOption,
    ProcessesOption,
    absolute_places,
    as_words,
    merged_words,
    named,
    parse,
    parse_options,
    parse_reward,
    reward_words,
)
from agents.commands.resuming import begun_settings, check_code, restarted
from agents.console import say
from agents.runs.files import CONFIG, RunError
from agents.runs.processes import launch, processes
from agents.training.config import TrainerConfig, named_settings
from agents.tuning.settings_file import read_settings
from refit_env.settings import Bounded, Seed
from refit_env.utils.atomic_io import check_record
from refit_env.utils.user_code import absolute_place, places_in

if TYPE_CHECKING:
    from agents.tuning.defaults import FineTuning  # it needs the backbones

DATA = "data"
"""The preset that depends on the data."""


@dataclass(frozen=True)
class RewardChoice(Bounded):
    """The reward."""

    reward: NameOption = None
    """Name of a reward, or a weighted mix: ``racs=1,coverage=0.1`` (``coverage=0->0.1`` rises over
    the training), or one's own: ``my_reward.py:FreshHits``,
    ``package.module:name``; if left out, the environment's."""
    relevance: NameOption = None
    """Which items count as hits: ``train``, ``recent``, ``holdout``, ``validation``, ``none``; if left out,
    the environment's."""
    k: Annotated[int, Meta(ge=1, le=10**6)] = 20
    """Length of the list that is rewarded."""
    reward_options: tuple[str, ...] = ()
    """Further settings of the reward, for example ``alpha=0.3 neighbors=20 variant=neighbor_lists``."""
    relevance_options: tuple[str, ...] = ()
    """Further settings of the relevance: ``fraction=0.1``, the hidden share of each history of ``recent`` and
    ``holdout``; ``seed=1``; ``selection_share=0.3``, the share of users that select under ``validation``."""

    def env_kwargs(self) -> dict[str, Any]:
        """The keyword arguments of the environment."""
        out: dict[str, Any] = {"k": self.k}
        if self.reward is not None:
            out["reward"] = absolute_places(parse_reward(self.reward))
        if self.relevance is not None:
            out["relevance"] = self.relevance
        if self.reward_options:
            out["reward_kwargs"] = parse_options(self.reward_options, "reward_options")
        if self.relevance_options:
            out["relevance_kwargs"] = parse_options(self.relevance_options, "relevance_options")
        return out


@dataclass(frozen=True, kw_only=True)
class Finetune(Command):
    """Fine-tune a pretrained recommender by reinforcement learning.

    Writes a run folder that holds the weights that validation chose and, in ``metrics.json``, the test
    metrics before and after with a paired bootstrap over users.
    """

    work: ClassVar[str] = "agents.commands.finetune_run:run"

    init: FolderOption = None
    """Run folder of the pretrained model."""
    out: Path
    """Run folder to write."""
    env: EnvOption = None
    """Environment id; if left out, that of ``--init``."""
    data: FolderOption = None
    """Own data instead of ``--env``: a folder in canonical form, or its name in ``refit data list``."""
    seed: Seed = 0
    """Seed of the users that are drawn, and of the noise."""
    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` ..."""
    num_steps: CountOption = None
    """T, the length of the chain; if left out, that of ``--init``. Fewer steps skip some of its schedule."""
    eta: EtaOption = None
    """Share of the posterior's noise in the denoising steps, and the means that go with it: 1 is DDPM, 0 is
    DDIM; if left out, that of ``--init``."""
    goal: tyro.conf.OmitArgPrefixes[RewardChoice] = field(default_factory=RewardChoice)
    """The reward."""
    algorithm: str = "reinforce"
    """``reinforce``, ``ppo``, ``grpo``, ``rwr``, ``dpo`` or ``es``; or ``distill``, the supervised baseline,
    not RL; or one's own: ``my_agent.py:Agent``, ``package.module:Agent``."""
    preset: str = "default"
    """Named settings of the algorithm (REINFORCE: ``score``, ``paper``; PPO: ``ddpo``); the options below
    change single ones. ``data``: REINFORCE, reward and relevance as the data suggest; it is the default
    where no reward, relevance, algorithm or preset is named."""
    agent: tyro.conf.OmitArgPrefixes[TrainerConfig] = field(default_factory=ReinforceConfig)
    """Settings of the algorithm."""
    settings: FileOption = None
    """``settings.json`` of ``refit tune``: its reward and agent, where no option says otherwise."""
    other_data: Flag = False
    """Allow a data set other than the one that the model was trained on."""
    new_data: Flag = False
    """Carry the model of ``--init`` over to data with other users and items, found by their source's ids:
    those of the next week. Not for ``cf-diff``, ``diff-poi``, ``hdrm``, ``l-diffrec`` and ``recdiff``."""
    processes: ProcessesOption = 1
    """Processes of this machine among which every batch is divided (REINFORCE; the extra ``distributed``):
    one for each GPU, or for each core. ``torchrun`` starts them on several machines."""
    other_weights: Flag = False
    """Allow weights other than those that the run in the folder ended with."""
    resume: Flag = False
    """Continue the interrupted run in ``--out`` with the options that it was begun with; only
    ``--iterations`` can be raised."""
    overwrite: Flag = False
    """Replace the run in ``--out``; a finished one is kept until the new one is finished."""
    quiet: Flag = False
    """Show no progress bar and no table."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""


class EnvKwargs(TypedDict, total=False):
    """``env_kwargs`` of ``config.json``."""

    reward: str | dict[str, float | str]
    relevance: str
    k: int
    reward_kwargs: dict[str, Any]
    relevance_kwargs: dict[str, Any]
    backbone: str
    checkpoint: str
    other_data: bool


def begun_command(out: Path, named: Collection[str] = ()) -> Finetune:
    """The command that began the run in ``out``; ``--resume`` uses its options where they are left out.

    Args:
        out: the run folder.
        named: places of code that the command line names.

    Raises:
        RunError: if there is no such run, its ``config.json`` is damaged, or the code that it names changed.
    """
    config, where = begun_settings(out, "finetune"), f"{out / CONFIG}"
    check_code(out, config, named)
    kwargs = check_record(config.get("env_kwargs", {}), EnvKwargs, f"{where}: env_kwargs", error=RunError)
    reward = kwargs.get("reward")
    reward = None if reward is None else reward_words(reward)
    settings = settings_class(config.get("algorithm", "reinforce"))
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
            reward,
            kwargs.get("relevance"),
            kwargs.get("k", 20),
            as_words(kwargs.get("reward_kwargs", {})),
            as_words(kwargs.get("relevance_kwargs", {})),
        ),
        algorithm=config.get("algorithm", "reinforce"),
        preset=config.get("preset", "default"),
        agent=check_record(config.get("agent"), settings, f"{where}: agent", error=RunError),
        other_data=kwargs.get("other_data", False),
        new_data=config.get("new_data", False),
    )


def with_settings(path: Path, named: Collection[str] = (), reward: str | None = None) -> Finetune:
    """The command of a settings file.

    Args:
        path: the file.
        named: places of code that the command line names.
        reward: the one that the command line names; of another one, the file's options say nothing.

    Raises:
        RunError: if there is no such file, it is damaged, it has no fine-tuning, or it names code that the
            command line does not.
    """
    part = read_settings(path)["finetune"]
    if part is None:
        raise RunError(f"{path}: no fine-tuning was better than its start there; leave out --settings")
    own, where = part["reward"], f"{path}: finetune.agent"
    for place in places_in(own):
        if absolute_place(place) not in map(absolute_place, named):
            raise RunError(
                f"{path} names the reward {place}, a file whose code would be run: pass it with --reward, too"
            )
    other = reward is not None and absolute_places(parse_reward(reward)) != absolute_places(own)
    options = () if other else as_words(part["reward_kwargs"])
    return Finetune(
        out=tyro.MISSING,
        settings=path,
        goal=RewardChoice(reward_words(own), part["relevance"], reward_options=options),
        algorithm=part["algorithm"],
        agent=check_record(part["agent"], settings_class(part["algorithm"]), where, error=RunError),
    )


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("algorithm", "preset", "settings", "env", "data", "init", "reward", "goal.reward", "out"):
        chooser.add_argument(f"--{option}", nargs="?")  # without its value: the parser of all options says so
    chooser.add_argument("--resume", action="store_true")
    chosen = chooser.parse_known_args(list(words))[0]
    of_data: FineTuning | None = None
    reward = getattr(chosen, "goal.reward") or chosen.reward
    code = places_in([chosen.algorithm or ""]) + places_in(parse_reward(reward or ""))
    again = restarted(chosen.out)
    if (chosen.resume or again) and chosen.out is not None:
        default = begun_command(Path(chosen.out), code)
    elif chosen.settings is not None:
        if chosen.algorithm is not None or chosen.preset is not None:
            raise ValueError("--settings states the algorithm, too: leave out --algorithm, --preset")
        default = with_settings(Path(chosen.settings), code, reward)
    elif of_data := _of_data(chosen, words):
        goal = RewardChoice(of_data.env["reward"], of_data.env["relevance"])
        default = Finetune(out=tyro.MISSING, goal=goal, preset=DATA, agent=of_data.agent)
    else:
        name, preset = chosen.algorithm or "reinforce", chosen.preset or "default"
        preset = "default" if preset == DATA else preset  # the data or the model could not be read
        agent = named_settings(presets(name), preset, f"preset of {name}", (DATA,))
        default = Finetune(out=tyro.MISSING, algorithm=name, preset=preset, agent=agent)
    command: Finetune = parse(Finetune, words, "refit finetune", default)
    command = replace(command, goal=_beside(default.goal, command.goal))
    if again:
        command = replace(command, resume=True, overwrite=False)
    if command.processes > 1 and processes() == 1:
        return launch(["finetune", *words], command.processes)
    if of_data is not None and not command.quiet:
        say(f"reward {command.goal.reward}, relevance {command.goal.relevance}: {of_data.why}", stderr=True)
    return command.run()


def _beside(default: RewardChoice, typed: RewardChoice) -> RewardChoice:
    """The reward, whose typed options are beside those of the default."""
    return replace(
        typed,
        reward_options=merged_words(default.reward_options, typed.reward_options),
        relevance_options=merged_words(default.relevance_options, typed.relevance_options),
    )


def _of_data(chosen: argparse.Namespace, words: Sequence[str]) -> FineTuning | None:
    """The defaults that depend on the data, where nothing else is chosen; None where something is."""
    if chosen.algorithm not in (None, "reinforce") or chosen.preset not in (None, DATA):
        return None
    others = ("reward", "relevance", "reward_options", "algorithm") if chosen.preset is None else ()
    if named(words, *others):
        return None
    from agents.commands.data_defaults import finetuning_of_data  # it reads the data, help does not

    return finetuning_of_data(chosen.env, chosen.data, chosen.init)
