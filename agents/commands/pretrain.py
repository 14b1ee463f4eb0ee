"""``refit pretrain``: ELBO training of a diffusion recommender."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

import tyro
from rich.table import Table
from tqdm import tqdm

from agents.commands.common import (
    Target,
    choose_target,
    cost,
    parse_options,
    plain,
    reported,
    validation_curves,
)
from agents.commands.fitting import fit_run
from agents.commands.options import CountOption, EnvOption, EtaOption, Flag, FolderOption, NameOption, parse
from agents.commands.resuming import (
    as_words,
    begun_settings,
    check_begun_on,
    check_unchanged,
    check_weights_unchanged,
    interrupted,
    weights_of,
)
from agents.console import console
from agents.runs.folder import CONFIG, CURVE, RunError, RunFolder
from agents.runs.log import RunLog, read_log
from agents.runs.plots import column, plot_curves
from agents.runs.profiling import measure
from agents.training.closed_form import is_closed_form
from agents.training.pretrain_config import PretrainConfig, published_training
from agents.training.pretrainer import Pretrainer
from refit_env.backbones import backbone_for
from refit_env.data import load_dataset
from refit_env.data.identity import DataIdentity
from refit_env.errors import SettingError
from refit_env.evaluation.ranking import evaluate, evaluated_users
from refit_env.policy import DiffusionPolicy
from refit_env.registration import entry, env_ids
from refit_env.settings import Bounded, Seed
from refit_env.utils.atomic_io import check_record


@dataclass(frozen=True, kw_only=True)
class Pretrain(Bounded):
    """Train a diffusion recommender by its own loss (ELBO), with early stopping on validation.

    Leaves a run folder that ``refit finetune --init`` starts from.
    """

    out: Path
    """Run folder to make."""
    env: EnvOption = None
    """Environment id: it says which data set, backbone and chain length."""
    data: FolderOption = None
    """A data set of one's own, instead of ``--env``: its canonical folder, or its name in a data home."""
    seed: Seed = 0
    """Of the initial weights, the batches and the noise."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` ..."""
    init: FolderOption = None
    """Run folder of a trained model to go on with, instead of new weights."""
    backbone: NameOption = None
    """The diffusion recommender; the environment's unless told otherwise."""
    num_steps: CountOption = None
    """T of the saved policy's chain; if not given, that of ``--init``, else the environment's."""
    eta: EtaOption = None
    """Share of the posterior's noise in the saved policy's steps back: 1 is DDPM, 0 DDIM; if not given, that
    of ``--init``, else 1."""
    size: Literal["published", "small"] = "published"
    """Whose configuration of the backbone: the published one, or a smaller one where there is one."""
    backbone_options: tuple[str, ...] = ()
    """Changes to the backbone's configuration, for example ``dropout=0.1 hidden=[200]``."""
    training: tyro.conf.OmitArgPrefixes[PretrainConfig] = field(default_factory=PretrainConfig)
    """Settings of training."""
    other_data: Flag = False
    """Let the model of ``--init`` meet another data set than the one that it was trained on."""
    resume: Flag = False
    """Go on with the interrupted run in ``--out``: what it was begun with is read from there, and of other
    options only more ``--epochs`` can be given."""
    overwrite: Flag = False
    """Replace the run in ``--out``."""
    quiet: Flag = False
    """No progress bar and no table."""

    def run(self) -> int:
        """Train, evaluate, and write the run folder."""
        if self.resume:
            if self.overwrite:
                raise ValueError("--resume goes on with a run, --overwrite replaces it: leave one out")
            with RunFolder.resume(self.out) as folder:
                if name := self._closed_form():
                    self._check_resumed(folder)
                    return self._fit(folder, name)
                return self._train(folder, *self._resumed(folder))
        if name := self._closed_form():
            return self._begin_fit(name)
        target = self._target()
        trainer, policy = self._trainer(target)
        needs = {} if self.init is None else {"--init": self.init}
        begun = {
            "dataset": asdict(DataIdentity.of(trainer.dataset)),
            "weights": weights_of(needs.values()),
        }
        # After all that can be refused: a mistake leaves no run in the way.
        with RunFolder.create(
            self.out, "pretrain", self._settings(target) | begun, overwrite=self.overwrite, needs=needs
        ) as folder:
            return self._train(folder, trainer, policy)

    def _target(self) -> Target:
        """The environment."""
        fallback = None if self.init is None else RunFolder.open(self.init).config
        return choose_target(self.env, self.data, fallback=fallback)

    def _settings(self, target: Target) -> dict[str, Any]:
        """What the run is known by, JSON-plain."""
        options = parse_options(self.backbone_options)
        return {
            "env": target.env_id,
            "data": target.data,
            "seed": self.seed,
            "init": None if self.init is None else str(self.init.resolve()),
            "num_steps": self.num_steps,
            "eta": self.eta,
            "backbone": options if self.backbone is None else options | {"name": self.backbone},
            "size": self.size,
            "pretrain": plain(self.training),
        }

    def _trainer(self, target: Target) -> tuple[Pretrainer, DiffusionPolicy]:
        """The trainer, and the policy on its backbone that will be saved; what does not fit is refused."""
        options = parse_options(self.backbone_options)
        dataset = load_dataset(target.dataset)
        evaluated_users(dataset, "test")
        if self.init is None:
            name = self.backbone or target.spec.backbone
            try:
                backbone = backbone_for(dataset, name, options, size=self.size, seed=self.seed)
            except SettingError as error:
                raise SettingError("backbone_options", str(error)) from error
            usual = min(target.spec.num_steps, backbone.diffusion.num_steps)
            steps = usual if self.num_steps is None else self.num_steps
            policy = DiffusionPolicy(backbone, steps, eta=1.0 if self.eta is None else self.eta)
        elif options or self.backbone:
            raise ValueError("--backbone and --backbone-options cannot change the trained model of --init")
        else:
            policy = DiffusionPolicy.load(self.init, other_data=self.other_data).respaced(
                self.num_steps, self.eta
            )
        trainer = Pretrainer(
            dataset,
            policy.backbone,
            self.training,
            seed=self.seed,
            device=self.device,
            eta=policy.diffusion.eta,
        )
        return trainer, policy

    def _closed_form(self) -> str | None:
        """The name of the backbone if a closed form of it is fitted here, else None."""
        if self.init is not None:
            return None
        name = self.backbone or self._target().spec.backbone
        return name if is_closed_form(name) else None

    def _begin_fit(self, name: str) -> int:
        """Fit a closed form in a new run folder, and return the exit code."""
        target = self._target()
        dataset = load_dataset(target.dataset)
        evaluated_users(dataset, "test")
        backbone_for(
            dataset, name, parse_options(self.backbone_options), size=self.size
        )  # refuses what is wrong
        begun = {"dataset": asdict(DataIdentity.of(dataset)), "weights": {}}
        with RunFolder.create(
            self.out, "pretrain", self._settings(target) | begun, overwrite=self.overwrite
        ) as folder:
            return self._fit(folder, name)

    def _fit(self, folder: RunFolder, name: str) -> int:
        """Fit a closed form, report, and return the exit code."""
        target = self._target()
        report = fit_run(
            folder,
            load_dataset(target.dataset),
            name,
            parse_options(self.backbone_options),
            num_steps=1 if self.num_steps is None else self.num_steps,
            eta=1.0 if self.eta is None else self.eta,
            select_on=self.training.select_on,
            device=self.device,
            progress=not self.quiet,
        )
        if not self.quiet:
            console().print(_table(report, f"{target.env_id}, {name} in closed form"))
        return 0

    def _check_resumed(self, folder: RunFolder) -> bool:
        """Refuse to go on with other data or settings; returns whether more epochs are asked for."""
        begun = folder.config
        check_begun_on(folder.path, begun, load_dataset(choose_target(self.env, self.data).dataset))
        return check_unchanged(folder.path, begun, self._settings(self._target()))

    def _resumed(self, folder: RunFolder) -> tuple[Pretrainer, DiffusionPolicy]:
        """The training of a run that was begun, as far as it came."""
        begun = folder.config
        grows = self._check_resumed(folder)
        saved = (folder.path / f"{Pretrainer.stem}.safetensors").exists()
        target = self._target()
        settings = self._settings(target)
        if self.init is not None and not saved:  # it begins, from the same model
            check_weights_unchanged(folder.path, begun, [self.init])
        trainer, policy = self._trainer(target)
        if saved:
            trainer.load(folder.path)
        if grows:
            kept = {name: begun.get(name) for name in ("dataset", "weights")}
            folder.write_config("pretrain", settings | kept)
        return trainer, policy

    def _train(self, folder: RunFolder, trainer: Pretrainer, policy: DiffusionPolicy) -> int:
        """Train, report, and return the exit code."""
        try:
            report = pretrain_run(trainer, folder, policy, progress=not self.quiet)
        except KeyboardInterrupt as stop:
            raise interrupted("pretrain", self.out, "epoch", trainer.saved) from stop
        if not self.quiet:
            console().print(_table(report, f"{folder.config['env']}, seed {self.seed}"))
        return 0


def begun_command(out: Path) -> Pretrain:
    """The command that began the run in ``out``: what ``--resume`` takes for the options that are left out.

    Raises:
        RunError: if there is no such run, or its ``config.json`` is damaged.
    """
    config, where = begun_settings(out, "pretrain"), f"{out / CONFIG}"
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
        num_steps=config.get("num_steps"),
        eta=config.get("eta"),
        size=network["size"],
        backbone_options=as_words(backbone),
        training=check_record(config.get("pretrain"), PretrainConfig, f"{where}: pretrain", error=RunError),
    )


class Network(TypedDict):
    """What ``config.json`` says of the network."""

    size: Literal["published", "small"]
    name: str | None


def pretrain_run(
    trainer: Pretrainer,
    folder: RunFolder,
    policy: DiffusionPolicy,
    *,
    progress: bool = False,
) -> dict[str, Any]:
    """Train a backbone and write its run folder.

    Args:
        trainer: with the backbone, its data and settings, and the state of a resumed run.
        folder: a run folder that was begun.
        policy: on the trainer's backbone; it is saved, so that its chain is the one to go on with.
        progress: show a progress bar.

    Returns:
        What ``metrics.json`` holds.
    """
    config, dataset = trainer.config, trainer.dataset
    log = RunLog(folder.path, resume_after=trainer.epoch or None, step_name="epoch")
    bar = tqdm(total=config.epochs, initial=trainer.epoch, desc="pretrain", disable=not progress)
    with log, bar:

        def note(epoch: int, scalars: dict[str, float]) -> None:
            log.write(epoch, scalars)
            bar.update(epoch - bar.n)

        result = trainer.learn(folder.path, note)
    policy.to(trainer.device).save(folder.path, dataset)
    with measure() as evaluation:
        means = {
            split: reported(evaluate(policy.scorer(dataset), dataset, split, device=trainer.device).means())
            for split in ("valid", "test")
        }
    _draw(folder, f"{dataset.name}: pretraining")
    report = means | {
        "training": {
            "epochs": trainer.epoch,
            "best_epoch": result.best_epoch,
            "selected_on": f"valid {config.select_on}",
            "best_value": result.best_value,
        },
        "cost": cost(pretraining=result.cost, evaluation=evaluation),
    }
    folder.finish(report)
    return report


def _draw(folder: RunFolder, title: str) -> None:
    """Draw ``curve.png`` from the log."""
    rows = read_log(folder.path)
    panels = {
        "loss (train)": {"mean": column(rows, "train/loss", "epoch")},
        "validation": validation_curves(rows, "epoch"),
    }
    plot_curves(panels, folder.path / CURVE, title=title, xlabel="epoch")


def _table(report: Mapping[str, Any], title: str) -> Table:
    """The metrics for the terminal."""
    table = Table("metric", title=title, min_width=48)
    for split in ("valid", "test"):
        table.add_column(split, justify="right")
    for name in report["test"]:
        table.add_row(name, f"{report['valid'][name]:.4f}", f"{report['test'][name]:.4f}")
    return table


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name; settings begin as published for its data."""
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--env", default="")
    chooser.add_argument("--backbone", default="")
    chooser.add_argument("--out", default=None)
    chooser.add_argument("--resume", action="store_true")
    found = chooser.parse_known_args(list(words))[0]
    if found.resume and found.out is not None:
        resumed: Pretrain = parse(Pretrain, words, "refit pretrain", begun_command(Path(found.out)))
        return resumed.run()
    row = next((entry(env_id) for env_id in env_ids() if env_id == found.env), None)  # others: tyro says so
    name = found.backbone or (row.backbone if row is not None else "")
    training = published_training(name, (row.dataset if row is not None else None) or "")
    default = Pretrain(out=tyro.MISSING, training=training)
    command: Pretrain = parse(Pretrain, words, "refit pretrain", default)
    return command.run()
