"""``refit pretrain``: ELBO training of a diffusion recommender."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.table import Table
from tqdm import tqdm

from agents.commands.common import (
    choose_target,
    cost,
    parse_options,
    plain,
    reopen,
    reported,
    validation_curves,
)
from agents.commands.options import CountOption, EnvOption, EtaOption, Flag, FolderOption, NameOption, parse
from agents.console import console
from agents.plots import column, plot_curves
from agents.pretrain import STATE_NAME, Pretrainer
from agents.pretrain_config import PretrainConfig, published_training
from agents.resources import measure
from agents.runlog import RunLog, read_log
from agents.runs import CURVE, RunFolder
from refit_env.backbones import backbone_for
from refit_env.data import load_dataset
from refit_env.evaluation import evaluate, evaluated_users
from refit_env.policy import DiffusionPolicy
from refit_env.registration import entry, env_ids
from refit_env.settings import Bounded, Seed


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
    """Folder of one's own data set in canonical form, instead of ``--env``."""
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
    resume: Flag = False
    """Go on with the interrupted run in ``--out``, with the settings it was begun with."""
    overwrite: Flag = False
    """Replace the run in ``--out``."""
    quiet: Flag = False
    """No progress bar and no table."""

    def run(self) -> int:
        """Train, evaluate, and write the run folder."""
        earlier = None if self.init is None else RunFolder.open(self.init)
        target = choose_target(self.env, self.data, fallback=None if earlier is None else earlier.config)
        options = parse_options(self.backbone_options)
        settings = {
            "env": target.env_id,
            "data": target.data,
            "seed": self.seed,
            "init": None if self.init is None else str(self.init),
            "num_steps": self.num_steps,
            "eta": self.eta,
            "backbone": options if self.backbone is None else options | {"name": self.backbone},
            "size": self.size,
            "pretrain": plain(self.training),
        }
        dataset = load_dataset(target.dataset)
        evaluated_users(dataset, "test")
        if earlier is None:
            name = self.backbone or target.spec.backbone
            backbone = backbone_for(dataset, name, options, size=self.size, seed=self.seed)
            usual = min(target.spec.num_steps, backbone.diffusion.num_steps)
            steps = usual if self.num_steps is None else self.num_steps
            policy = DiffusionPolicy(backbone, steps, eta=1.0 if self.eta is None else self.eta)
        elif options or self.backbone:
            raise ValueError("--backbone and --backbone-options cannot change the trained model of --init")
        else:
            policy = DiffusionPolicy.load(earlier.path).respaced(self.num_steps, self.eta)
        trainer = Pretrainer(
            dataset,
            policy.backbone,
            self.training,
            seed=self.seed,
            device=self.device,
            eta=policy.diffusion.eta,
        )
        if self.resume:
            folder = reopen(self.out, settings, STATE_NAME)
        else:  # after all that can be refused: a mistake leaves no run in the way
            folder = RunFolder.create(self.out, "pretrain", settings, overwrite=self.overwrite)
        report = pretrain_run(trainer, folder, policy, resume=self.resume, progress=not self.quiet)
        if not self.quiet:
            console().print(_table(report, f"{target.env_id}, seed {self.seed}"))
        return 0


def pretrain_run(
    trainer: Pretrainer,
    folder: RunFolder,
    policy: DiffusionPolicy,
    *,
    resume: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Train a backbone and write its run folder.

    Args:
        trainer: with the backbone, its data and settings.
        folder: a run folder that was begun.
        policy: on the trainer's backbone; it is saved, so that its chain is the one to go on with.
        resume: take up the state in the folder.
        progress: show a progress bar.

    Returns:
        What ``metrics.json`` holds.
    """
    if resume:
        trainer.load(folder.path)
    config, dataset = trainer.config, trainer.dataset
    log = RunLog(folder.path, resume_after=trainer.epoch or None, step_name="epoch")
    bar = tqdm(total=config.epochs, initial=trainer.epoch, desc="pretrain", disable=not progress)
    with log, bar, measure() as training:

        def note(epoch: int, scalars: dict[str, float]) -> None:
            log.write(epoch, scalars)
            bar.update(epoch - bar.n)

        result = trainer.learn(folder.path, note)
    policy.to(trainer.device).save(folder.path, dataset=dataset.name)
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
        "cost": cost(pretraining=training, evaluation=evaluation),
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
    found = chooser.parse_known_args(list(words))[0]
    row = next((entry(env_id) for env_id in env_ids() if env_id == found.env), None)  # others: tyro says so
    name = found.backbone or (row.backbone if row is not None else "")
    training = published_training(name, (row.dataset if row is not None else None) or "")
    default = Pretrain(out=tyro.MISSING, training=training)
    command: Pretrain = parse(Pretrain, words, "refit pretrain", default)
    return command.run()
