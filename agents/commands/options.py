"""The command line: types of options, and how a command is made from its words.

A command's options are in a module of their own that imports neither PyTorch nor pandas, so that help is
printed at once; ``Command.work`` names the function that does the work.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

import tyro
from msgspec import Meta

from agents.commands.refusals import WIDE, refusal
from refit_env.errors import SettingError
from refit_env.settings import Bounded, unchecked
from refit_env.utils.text import acts, shown, visible
from refit_env.utils.user_code import absolute_place

ALIASES = {"relevance": "target", **dict.fromkeys(("rows", "algorithms", "rewards"), "variants")}
"""Option -> the setting that it names, where they differ."""
OPTIONS = {"reward_kwargs": "reward_options", "relevance_kwargs": "relevance_options"}
"""Argument of an environment -> the option that states it."""
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A switch without its ``--no-`` twin."""
EnvOption = Annotated[str | None, tyro.conf.arg(metavar="ID")]
"""``--env``."""
FolderOption = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")]
"""A folder that may be left out."""
FileOption = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
"""A file that may be left out."""
NameOption = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
"""A name that may be left out."""
CountOption = Annotated[Annotated[int, Meta(ge=1, le=10**9)] | None, tyro.conf.arg(metavar="INT")]
"""A number of something that may be left out."""
ProcessesOption = Annotated[int, Meta(ge=1, le=1024)]
"""A number of processes of this machine."""
Repeats = Annotated[int, Meta(ge=1, le=1000)]
"""How many runs."""
RepeatsOption = Annotated[Repeats | None, tyro.conf.arg(metavar="INT")]
"""How many runs; may be left out."""
Workers = Annotated[int, Meta(ge=1, le=1024)]
"""Processes that run at once."""
EtaOption = Annotated[Annotated[float, Meta(ge=0, le=1)] | None, tyro.conf.arg(metavar="FLOAT")]
"""``--eta``."""


class Command(Bounded):
    """Base of the commands: their options; the work is imported when it is to be done."""

    work: ClassVar[str]
    """``module:function``, called with the command; it returns the exit code."""

    def run(self) -> int:
        """Do the work; returns the exit code."""
        module, _, function = self.work.partition(":")
        code: int = getattr(import_module(module), function)(self)
        return code


_NUMBER = r"[-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?"
_POINT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
"""A number with a point, also one that JSON has no form for: ``.5``, ``5.``, ``+0.5``."""
_SCHEDULE = re.compile(f"{_NUMBER}->{_NUMBER}")


def parse_options(words: Sequence[str], of: str) -> dict[str, Any]:
    """Read ``name=value`` words; values are JSON or numbers such as ``.5`` where they can be, else text.

    Args:
        words: the words.
        of: the setting that they are of, for the message.

    Raises:
        SettingError: for a word of another form, or a name that is given twice.

    Example:
        >>> parse_options(["alpha=0.3", "variant=neighbor_lists"], "reward_options")
        {'alpha': 0.3, 'variant': 'neighbor_lists'}
        >>> parse_options(["alpha=.3", "beta=-2.", "code=007"], "reward_options")
        {'alpha': 0.3, 'beta': -2.0, 'code': '007'}
    """
    options: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise SettingError(of, f"{shown(word)} should read name=value, for example alpha=0.3")
        if name in options:
            raise SettingError(of, f"{shown(word)}: {name} is given twice; leave one of them out")
        try:
            options[name] = json.loads(value)
        except (ValueError, RecursionError):  # no JSON, thousands of digits, or nested without end
            options[name] = float(value) if _POINT.fullmatch(value) else value
    return options


def merged_words(default: Sequence[str], typed: Sequence[str]) -> tuple[str, ...]:
    """``name=value`` words of a default and those that were typed, which say otherwise by name.

    Args:
        default: words of a file or of an earlier command.
        typed: words of the command line; those of no such form are kept, to be refused by ``parse_options``.

    Example:
        >>> merged_words(["rank=64", "l2=100.0"], ["l2=5"])
        ('rank=64', 'l2=5')
        >>> merged_words(["rank=64"], ["rank=64"])
        ('rank=64',)
    """
    if tuple(typed) == tuple(default):  # the option was left out
        return tuple(typed)
    changed = {word.partition("=")[0] for word in typed}
    return (*(word for word in default if word.partition("=")[0] not in changed), *typed)


def named(words: Sequence[str], *options: str) -> bool:
    """Whether one of the options, or help, is among the words.

    Example:
        >>> named(["--data", "shop", "--learning-rate=1e-3"], "learning_rate")
        True
    """
    wanted = {"--" + option.replace("_", "-") for option in (*options, "help")}
    given = {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")}
    grouped = {"--" + word.rpartition(".")[2] for word in given}
    return bool((given | grouped) & wanted) or "-h" in words


RewardText = str | dict[str, float | str]
"""A reward's name, or the weights of a mix: numbers, or schedules ``"0->0.5"``."""


def parse_reward(text: str) -> RewardText:
    """Read a reward: one name, or a weighted mix.

    Example:
        >>> parse_reward("racs"), parse_reward("racs=1,coverage=0.1")
        ('racs', {'racs': 1, 'coverage': 0.1})
    """
    if "=" not in text:
        return text
    mix = parse_options([word.strip() for word in text.split(",")], "reward")
    wrong = [
        name
        for name, weight in mix.items()
        if isinstance(weight, bool)
        or not (isinstance(weight, int | float) or _SCHEDULE.fullmatch(str(weight)))
    ]
    if wrong:
        raise SettingError(
            "reward", f"{text}: the weight of {', '.join(wrong)} is not a number, nor a schedule 0->0.5"
        )
    return mix


def reward_words(reward: str | Mapping[str, float | str]) -> str:
    """The reward as ``--reward`` reads it.

    Example:
        >>> reward_words({"racs": 1.0, "coverage": "0->0.5"}), reward_words("racs")
        ('racs=1.0,coverage=0->0.5', 'racs')
    """
    if isinstance(reward, str):
        return reward
    return ",".join(f"{name}={weight}" for name, weight in reward.items())


def absolute_places(reward: RewardText) -> RewardText:
    """Return a reward with the absolute paths of the files that it names.

    Example:
        >>> absolute_places("racs"), absolute_places({"racs": 1.0})
        ('racs', {'racs': 1.0})
    """
    if isinstance(reward, str):
        return absolute_place(reward)
    return {absolute_place(name): weight for name, weight in reward.items()}


def as_words(options: Mapping[str, Any]) -> tuple[str, ...]:
    """``name=value`` words that ``parse_options`` reads back.

    Example:
        >>> as_words({"alpha": 0.3, "variant": "neighbor_lists"})
        ('alpha=0.3', 'variant="neighbor_lists"')
    """
    return tuple(f"{name}={json.dumps(value)}" for name, value in options.items())


def parse(command: Any, words: Sequence[str], prog: str, default: Any = None) -> Any:
    """Make a command from its words.

    Args:
        command: a settings class, or a union of them as subcommands.
        words: what follows its name.
        prog: how help names the command.
        default: an instance whose values are those of options left out; None: the class's.

    Returns:
        The command; its values are within their bounds.

    Raises:
        SettingError: for a value out of its bounds.
        ValueError: for options that cannot be read, with a did-you-mean.
        SystemExit: after help.
    """
    given: dict[str, Any] = {} if default is None else {"default": default}
    no_color = bool(os.environ.get("NO_COLOR"))
    with unchecked(), _plain_output(no_color or any(acts(word) for word in words)):
        made = _read(command, words, prog, given)
    refuse_repeated(made, words)
    check_all(made, words)
    return made


def refuse_repeated(command: Any, words: Sequence[str]) -> None:
    """Refuse an option of several values that is given twice: the parser forgets the values of the first.

    Args:
        command: what was made of the words.
        words: the words.

    Raises:
        ValueError: naming the option.
    """
    typed = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    for field in fields(command):
        value = getattr(command, field.name)
        if is_dataclass(value):
            refuse_repeated(value, words)
        option = "--" + field.name.replace("_", "-")
        if isinstance(value, tuple) and typed.count(option) > 1:
            raise ValueError(f"{option} is given twice: give it once, followed by all its values")


def _read(command: Any, words: Sequence[str], prog: str, given: Mapping[str, Any]) -> Any:
    """Make the command; what the parser prints in a box is raised as one line.

    Raises:
        ValueError: for options that cannot be read.
        SystemExit: after help.
    """
    box, columns = io.StringIO(), os.environ.get("COLUMNS")
    try:
        with redirect_stderr(box):
            made = tyro.cli(command, prog=prog, args=list(words), **given)
    except SystemExit as stop:
        if not stop.code:
            raise
    else:
        sys.stderr.write(box.getvalue())
        return made
    box = io.StringIO()
    try:  # again, in a box so wide that no line is wrapped
        os.environ["COLUMNS"] = WIDE
        with redirect_stderr(box), suppress(SystemExit):
            tyro.cli(command, prog=prog, args=list(words), **given)
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    raise ValueError(refusal(visible(box.getvalue()), " ".join([prog, *_subcommand(command, words)])))


def _subcommand(command: Any, words: Sequence[str]) -> list[str]:
    """Return the subcommand that the words begin with, in a list that is empty if there is none."""
    names = [getattr(note, "name", None) for each in get_args(command) for note in get_args(each)[1:]]
    return [word for word in words[:1] if word in names]


def check_all(command: Any, words: Sequence[str]) -> None:
    """Check a command and the settings that it holds.

    Raises:
        SettingError: for a value out of its bounds.
    """
    if isinstance(command, Bounded):
        command.check()
    for field in fields(command):
        value = getattr(command, field.name)
        if is_dataclass(value):
            with of_group(field.name if any(w.startswith(f"--{field.name}.") for w in words) else ""):
                check_all(value, words)


@contextmanager
def of_group(name: str) -> Iterator[None]:
    """Within, a wrong setting is one of a group of options: ``--agent.eval-every``. Empty: of none."""
    try:
        yield
    except SettingError as error:
        raise SettingError(f"{name}.{error.setting}".removeprefix("."), error.fault) from error


def as_typed(error: SettingError, words: Sequence[str]) -> ValueError:
    """The error, naming the option as it was typed; as it would be typed, where it was left out.

    Example:
        >>> print(as_typed(SettingError("epochs", "must be >= 1, found 0"), ["--training.epochs=0"]))
        --training.epochs must be >= 1, found 0
    """
    wanted = OPTIONS.get(error.setting, error.setting)
    typed = [word.partition("=")[0] for word in words if word.startswith("--")]
    names = [ALIASES.get(name, name) for name in (word[2:].replace("-", "_") for word in typed)]
    exact = [word for word, name in zip(typed, names, strict=True) if name == wanted]
    inner = [word for word, name in zip(typed, names, strict=True) if name.endswith(f".{wanted}")]
    option = next(iter(exact + inner), "--" + wanted.replace("_", "-"))
    return ValueError(f"{option} {error.fault}")


@contextmanager
def _plain_output(wanted: bool) -> Iterator[None]:
    """Within, colours are left out and control characters escaped: help and errors repeat the words."""
    if not wanted:
        yield
        return
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield
    finally:
        sys.stdout.write(visible(out.getvalue()))
        sys.stderr.write(visible(err.getvalue()))
