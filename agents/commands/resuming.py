"""``--resume``: a run is continued with the settings, the start and the data that it was begun with."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.console import say
from agents.runs.contents import RunConfig, data_identity
from agents.runs.files import CONFIG, EARLIER, RunError
from agents.runs.folder import RunFolder
from agents.runs.processes import restarts
from refit_env.data.identity import check_same_data
from refit_env.utils.user_code import SHORT, Source, absolute_place, in_words, places_in, source_of

if TYPE_CHECKING:
    from refit_env.data import Dataset

MAY_GROW = ("agent.iterations", "pretrain.epochs")
"""Settings that a resumed run may raise."""


def restarted(out: str | None) -> bool:
    """Return whether the launcher started the processes of a run again: it then continues as by ``--resume``.

    Args:
        out: what ``--out`` said; of a run that had not begun, nothing is there to continue.
    """
    return restarts() > 0 and out is not None and (Path(out) / CONFIG).exists()


def check_unchanged(path: Path, begun: RunConfig, now: Mapping[str, Any]) -> bool:
    """Refuse settings that are not those that a run was begun with.

    Args:
        path: its folder.
        begun: its ``config.json``.
        now: the settings of the command that resumes it.

    Returns:
        Whether iterations or epochs were raised.

    Raises:
        RunError: naming the first option that differs.
    """
    grows = False
    for name, was, wanted in changed_since(begun, now):
        if name in MAY_GROW and isinstance(was, int) and was < wanted:
            grows = True
            continue
        more = ", or pass a larger number" if name in MAY_GROW else ""
        raise RunError(
            f"{path} was begun {change_of(name, was, wanted)}; leave the option out{more}: --resume uses "
            "what the run was begun with"
        )
    return grows


ANOTHER = "A resumed run needs the data that it was begun on; begin another one with another --out"
"""What to do where the data is not that of the run that is resumed."""


def check_begun_on(path: Path, begun: RunConfig, dataset: Dataset, advice: str = ANOTHER) -> None:
    """Refuse another data set than a run was begun on.

    Args:
        path: the run's folder.
        begun: its ``config.json``.
        dataset: the data set.
        advice: what to do.

    Raises:
        DataError: naming both.
    """
    identity = replace(data_identity(begun), validation=False)  # the data alone
    check_same_data(identity, dataset, f"the run {path}", advice)


def check_code(path: Path, begun: RunConfig, named: Collection[str]) -> None:
    """Refuse code that a run folder names, unless it is what the run was begun with; say that it is run.

    Nothing is run here.

    Args:
        path: the run's folder.
        begun: its ``config.json``.
        named: places that the command line names, so that the user wants them run.

    Raises:
        RunError: for another content than that of the beginning, naming both; for code of which the run
            records no sha256 and that the command line does not name.
    """
    wanted = {absolute_place(name) for name in named}
    for kind, recorded in code_in(begun).items():
        for name, was in recorded.items():
            option = f"--{kind} {name}"
            if was is None and name not in wanted:
                raise RunError(
                    f"{path} names the {kind} {name}, a file whose code would be run, and records no "
                    f"sha256 of it: pass it, too: {option}"
                )
            now = source_of(kind, name)
            if was is not None and now is not None:
                check_sources(path, kind, {name: was}, {name: now})
            if now is not None and name not in wanted:
                say(f"{path} names the {kind} in {in_words(now)}, unchanged: its code is run", stderr=True)


def check_sources(
    path: Path, kind: str, begun: Mapping[str, Source], now: Mapping[str, Source] | None
) -> None:
    """Refuse files of code whose content is not that with which a run was begun.

    Raises:
        RunError: naming both.
    """
    for name, was in begun.items():
        found = (now or {}).get(name, was)
        if was["sha256"] != found["sha256"]:
            raise RunError(
                f"{path} was begun with the {kind} in {in_words(was)}, which is {found['sha256'][:SHORT]} "
                "now: put the former file back, or begin another run with another --out"
            )


def code_in(begun: RunConfig) -> dict[str, dict[str, Source | None]]:
    """The places of code in a run's ``config.json``, by kind, with the file that each was at its begin."""
    files = begun.get("reward_files") or {}
    algorithms = places_in(begun.get("algorithm"))
    rewards = [*places_in((begun.get("env_kwargs") or {}).get("reward")), *files]  # a study names no other
    backbones = places_in((begun.get("backbone") or {}).get("name"))
    return {
        "backbone": {name: begun.get("backbone_file") for name in backbones},
        "algorithm": {name: begun.get("algorithm_file") for name in algorithms},
        "reward": {name: files.get(name) for name in rewards},
    }


def checkpoints_in(env_kwargs: Mapping[str, Any]) -> dict[str, str]:
    """Folders of the models that an environment reads, by the option that names each."""
    named = {
        "--init": env_kwargs.get("checkpoint"),
        "--reward-options checkpoint": (env_kwargs.get("reward_kwargs") or {}).get("checkpoint"),
    }
    return {option: folder for option, folder in named.items() if isinstance(folder, str)}


def begun_settings(out: Path, command: str) -> RunConfig:
    """The ``config.json`` of the run that ``--resume --out`` continues.

    Raises:
        RunError: if there is no such run, or it is one of another command.
    """
    config = RunFolder.open(out, needs=("config.json",)).config
    if config["command"] != command:
        raise RunError(
            f"{out} is a run of {_short(config['command'])}, not of {command}: resume it by the command that "
            "began it"
        )
    return config


def interrupted(command: str, out: Path, unit: str, saved: int | None) -> KeyboardInterrupt:
    """The end of a command by Ctrl-C, with what is saved and how to continue.

    Args:
        command: its name.
        out: the run folder.
        unit: what ``saved`` counts.
        saved: of the last state that was saved; None if there is none.

    Example:
        >>> print(interrupted("pretrain", Path("runs/a"), "epoch", 3))
        epoch 3 is saved; go on with: refit pretrain --resume --out runs/a
        >>> print(interrupted("finetune", Path("my runs/a"), "iteration", None))
        nothing was saved yet; go on with: refit finetune --resume --out 'my runs/a'
    """
    if saved is None and (stays := earlier_stays(out)):
        return KeyboardInterrupt(f"nothing was saved yet: {stays}")
    kept = "nothing was saved yet" if saved is None else f"{unit} {saved} is saved"
    earlier = (
        f"; {out / EARLIER} keeps the finished run until then" if RunFolder(out / EARLIER).finished() else ""
    )
    return KeyboardInterrupt(
        f"{kept}; go on with: refit {command} --resume --out {shlex.quote(str(out))}{earlier}"
    )


def earlier_stays(out: Path) -> str | None:
    """Return that a folder holds its earlier run, if a run with nothing to keep was to replace one there."""
    return f"{out} holds the earlier run, as it was" if RunFolder(out).replaces() else None


def changed_since(begun: RunConfig, now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, former and present value of each setting that is not as a run was begun with.

    Args:
        begun: its ``config.json``.
        now: the settings of the command that continues it.

    Example:
        >>> begun, now = {"tune": {"trials": 3}}, {"tune": {"trials": 3, "reward": "racs"}}
        >>> list(changed_since(begun, now))
        [('tune.reward', None, 'racs')]
    """
    return _differences({**begun}, json.loads(json.dumps(now)))


def _differences(
    was: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, former and present value of each setting that differs.

    A setting of a class that the run does not know came with a later version, and is at its default.
    """
    free = prefix.split(".")[0] in ("env_kwargs", "backbone", "tune")  # what is left out there was not given
    for name in {**(was if free else {}), **now}:
        if name not in was and not free:
            continue
        had, wanted = was.get(name), now.get(name)
        if name in ("reward_kwargs", "relevance_kwargs"):  # left out, it has no settings
            had, wanted = had or {}, wanted or {}
        if isinstance(had, Mapping) and isinstance(wanted, Mapping):
            yield from _differences(had, wanted, f"{prefix}{name}.")
        elif had != wanted and not _same_path(name, had, wanted):
            yield f"{prefix}{name}", had, wanted


def _same_path(name: str, one: Any, other: Any) -> bool:
    """Whether a setting that names a folder names the same one both times."""
    if name not in ("init", "data", "checkpoint") or not (isinstance(one, str) and isinstance(other, str)):
        return False
    return Path(one).resolve() == Path(other).resolve()


def change_of(name: str, was: Any, wanted: Any) -> str:
    """A changed setting in words.

    Example:
        >>> change_of("seed", 0, 1), change_of("tune.reward", None, "racs")
        ('with --seed 0, not 1', 'without --reward, not with racs')
        >>> change_of("tune.reward", "racs", None)
        'with --reward racs, not without'
    """
    option = _option(name)
    if was is None:
        return f"without {option}, not with {_short(wanted)}"
    return f"with {option} {_short(was)}, not {'without' if wanted is None else _short(wanted)}"


def _option(name: str) -> str:
    """A setting as the command line spells it."""
    first, _, last = name.rpartition(".")
    if first in ("env_kwargs.reward_kwargs", "env_kwargs.relevance_kwargs"):
        return f"--{first.rpartition('.')[2].removesuffix('_kwargs')}-options {last}"
    if first == "backbone" and last != "name":
        return f"--backbone-options {last}"
    return "--backbone" if name == "backbone.name" else f"--{last.replace('_', '-')}"


def _short(value: Any) -> str:
    """A value for a message, of bounded length."""
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        value = " ".join(value)
    elif isinstance(value, float):
        value = f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
