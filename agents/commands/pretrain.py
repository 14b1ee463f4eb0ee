"""``refit pretrain``: ELBO training of a diffusion recommender."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypedDict

import tyro

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
    as_words,
    merged_words,
    named,
    parse,
)
from agents.commands.resuming import begun_settings, check_code, restarted
from agents.console import say
from agents.runs.files import CONFIG, RunError
from agents.runs.processes import launch, processes
from agents.training.pretrain_config import PretrainConfig, published_training
from agents.tuning.settings_file import PretrainPart, read_settings
from refit_env.registration import entry, env_ids
from refit_env.settings import Seed
from refit_env.utils.atomic_io import check_record
from refit_env.utils.user_code import absolute_place, places_in

if TYPE_CHECKING:
    from agents.tuning.defaults import Chosen  # it needs the backbones


@dataclass(frozen=True, kw_only=True)
class Pretrain(Command):
    """Train a diffusion recommender by its own loss (ELBO), with early stopping on validation.

    Writes a run folder that ``refit finetune --init`` starts from. Closed-form backbones (``linear``,
    ``spectral``) are fitted instead: validation chooses their settings. ``hybrid`` first fits its closed form
    so, then trains its network.
    """

    work: ClassVar[str] = "agents.commands.pretrain_run:run"

    out: Path
    """Run folder to write."""
    env: EnvOption = None
    """Environment id; it sets the data set, the backbone and the length of the chain."""
    data: FolderOption = None
    """Own data instead of ``--env``: a folder in canonical form, or its name in ``refit data list``."""
    seed: Seed = 0
    """Seed of the initial weights, the batches and the noise."""
    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` ..."""
    init: FolderOption = None
    """Run folder of a trained model to train further, instead of new weights."""
    backbone: NameOption = None
    """Name of the diffusion recommender, or one's own: ``my_backbone.py:Tiny``, ``package.module:Tiny``; if
    left out, the environment's. With ``--data``, and without options of a network's training, a closed form:
    ``linear``, or ``spectral`` for more than 10,000 items."""
    num_steps: CountOption = None
    """T, the length of the saved policy's chain; if left out, that of ``--init``, else the environment's."""
    eta: EtaOption = None
    """Share of the posterior's noise in the saved policy's denoising steps: 1 is DDPM, 0 is DDIM; if left
    out, that of ``--init``, else 1."""
    size: Literal["published", "small"] = "published"
    """The backbone's configuration: the published one, or a smaller one where there is one."""
    backbone_options: tuple[str, ...] = ()
    """Changes to the backbone's configuration, for example ``dropout=0.1 hidden=[200]``."""
    training: tyro.conf.OmitArgPrefixes[PretrainConfig] = field(default_factory=PretrainConfig)
    """Settings of training."""
    settings: FileOption = None
    """``settings.json`` of ``refit tune``: its backbone and training, where no option says otherwise."""
    other_data: Flag = False
    """Allow a data set other than the one that the model of ``--init`` was trained on."""
    new_data: Flag = False
    """Carry the model of ``--init`` over to data with other users and items, found by their source's ids:
    those of the next week. Not for ``cf-diff``, ``diff-poi``, ``hdrm``, ``l-diffrec`` and ``recdiff``."""
    processes: ProcessesOption = 1
    """Processes of this machine among which every batch is divided (the extra ``distributed``): one for each
    GPU, or for each core. ``torchrun`` starts them on several machines."""
    other_weights: Flag = False
    """Allow weights other than those that the run in the folder ended with."""
    resume: Flag = False
    """Continue the interrupted run in ``--out`` with the options that it was begun with; only ``--epochs``
    can be raised."""
    overwrite: Flag = False
    """Replace the run in ``--out``; a finished one is kept until the new one is finished."""
    quiet: Flag = False
    """Show no progress bar and no table."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""


class Network(TypedDict):
    """The network's settings in ``config.json``."""

    size: Literal["published", "small"]
    name: str | None


def begun_command(out: Path, named: Collection[str] = ()) -> Pretrain:
    """The command that began the run in ``out``; ``--resume`` uses its options where they are left out.

    Args:
        out: the run folder.
        named: places of code that the command line names.

    Raises:
        RunError: if there is no such run, its ``config.json`` is damaged, or the code that it names changed.
    """
    config, where = begun_settings(out, "pretrain"), f"{out / CONFIG}"
    check_code(out, config, named)
    data, init, backbone = config.get("data"), config.get("init"), dict(config.get("backbone") or {})
    settings = {"size": config.get("size", "published"), "name": backbone.pop("name", None)}
    network = check_record(settings, Network, where, error=RunError)
    return Pretrain(
        out=out,
        env=None if data is not None else config["env"],
        data=None if data is None else Path(data),
        seed=config.get("seed", 0),
        init=None if init is None else Path(init),
        backbone=network["name"],
        other_data=config.get("other_data", False),
        new_data=config.get("new_data", False),
        num_steps=config.get("num_steps"),
        eta=config.get("eta"),
        size=network["size"],
        backbone_options=as_words(backbone),
        training=check_record(config.get("pretrain"), PretrainConfig, f"{where}: pretrain", error=RunError),
    )


def with_settings(
    command: Pretrain,
    path: Path,
    named: Collection[str] = (),
    backbone: str | None = None,
    *,
    trained: bool = False,
) -> Pretrain:
    """The command with what a settings file says of pretraining.

    Args:
        command: the command.
        path: the file.
        named: places of code that the command line names.
        backbone: the one that the command line names; of another one, the file's options say nothing.
        trained: whether a trained model is trained further, of which the file's backbone says nothing.

    Raises:
        RunError: if there is no such file, it is damaged, or it names code that the command line does not.
    """
    part = read_settings(path)["pretrain"]
    where = f"{path}: pretrain.training"
    training = check_record(
        {**asdict(command.training), **part["training"]}, PretrainConfig, where, error=RunError
    )
    command = replace(command, settings=path, training=training)
    if trained:
        say(f"{path}: its backbone is left out, --init has one", stderr=True)
        return command
    for place in places_in(part["backbone"]):
        if absolute_place(place) not in map(absolute_place, named):
            raise RunError(
                f"{path} names the backbone {place}, a file whose code would be run: pass it with "
                "--backbone, too"
            )
    _check_backbone(part, path)
    other = backbone is not None and absolute_place(backbone) != absolute_place(part["backbone"])
    if other and part["backbone_options"]:
        say(
            f"{path}: its backbone options are for {part['backbone']}, not for {backbone}: they are left out",
            stderr=True,
        )
    return replace(
        command,
        backbone=part["backbone"],
        backbone_options=() if other else as_words(part["backbone_options"]),
        num_steps=part["num_steps"],
    )


def _check_backbone(part: PretrainPart, path: Path) -> None:
    """Refuse a backbone of a settings file that is unknown, or options that it does not have.

    Raises:
        RunError: naming the file and the field.
    """
    from refit_env.backbones.registry import backbone_config  # it needs torch, help does not

    try:
        backbone_config(part["backbone"], "", part["backbone_options"])
    except ValueError as error:
        raise RunError(f"{path}: pretrain: {error}") from None


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name; training defaults to the published settings."""
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--env", "--backbone", "--out", "--settings", "--data", "--init"):
        chooser.add_argument(option, nargs="?")  # without its value: the parser of all options says so
    chooser.add_argument("--resume", action="store_true")
    found = chooser.parse_known_args(list(words))[0]
    again = restarted(found.out)
    if (found.resume or again) and found.out is not None:
        begun = begun_command(Path(found.out), places_in(found.backbone or ""))
        resumed = _read(words, begun)
        return _run(replace(resumed, resume=True, overwrite=False) if again else resumed, words)
    row = next((entry(env_id) for env_id in env_ids() if env_id == found.env), None)  # others: tyro says so
    chosen: Chosen | None = None
    if found.data is not None and found.env in (None, "ReFiT-Custom-v0") and not named(words):
        from agents.commands.data_defaults import backbone_of_data  # it reads the data, help does not

        chosen = backbone_of_data(words, found.data)
    name = found.backbone or (row.backbone if row is not None else "")
    name = name if chosen is None else chosen.value
    training = published_training(name, (row.dataset if row is not None else None) or "")
    if found.init is not None:
        from agents.commands.data_defaults import training_of_model

        training = training_of_model(found.init) or training
    default = Pretrain(out=tyro.MISSING, training=training, backbone=chosen.value if chosen else None)
    if found.settings is not None:
        places = places_in(found.backbone or "")
        default = with_settings(
            default, Path(found.settings), places, found.backbone, trained=found.init is not None
        )
    return _run(_read(words, default), words, chosen)


def _read(words: Sequence[str], default: Pretrain) -> Pretrain:
    """Make the command; what it changes of the backbone is beside what the default says of it."""
    read: Pretrain = parse(Pretrain, words, "refit pretrain", default)
    return replace(read, backbone_options=merged_words(default.backbone_options, read.backbone_options))


def _run(command: Pretrain, words: Sequence[str], chosen: Chosen | None = None) -> int:
    """Run the command, in as many processes as it says; returns the exit code."""
    if command.processes > 1 and processes() == 1:
        return launch(["pretrain", *words], command.processes)
    if chosen is not None and not command.quiet:
        say(f"backbone {chosen.value}: {chosen.why} (--backbone NAME chooses another)", stderr=True)
    return command.run()
