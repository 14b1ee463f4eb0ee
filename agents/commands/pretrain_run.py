"""The work of ``refit pretrain``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch
from rich.table import Table
from tqdm import tqdm

from agents.baselines.popularity import popular_on_validation
from agents.commands.fitting import fit_run
from agents.commands.measures import cost, reported, validation_panel
from agents.commands.options import parse_options
from agents.commands.pretrain import Pretrain
from agents.commands.resuming import check_begun_on, check_unchanged, interrupted
from agents.commands.start import check_recorded, check_weights_unchanged, initial_policy, weights_of
from agents.commands.target import Target, choose_target
from agents.console import console, print_json, say, shows_progress
from agents.runs.files import CONFIG, CURVE
from agents.runs.folder import RunFolder
from agents.runs.log import RunLog, read_log
from agents.runs.plots import Panel, column, plot_curves
from agents.runs.processes import is_first, processes
from agents.runs.profiling import measure
from agents.training.closed_form import BUILT_ON, base_settings, is_closed_form
from agents.training.pretrain_config import PretrainConfig, published_training
from agents.training.pretrainer import Pretrainer
from agents.training.tensors import resolve_device
from agents.training.world import world_of
from agents.tuning.settings_file import chosen_elsewhere
from refit_env.backbones import backbone_for
from refit_env.backbones.closed_form import ClosedForm
from refit_env.data import Dataset, load_dataset
from refit_env.data.identity import DataIdentity
from refit_env.errors import SettingError, settings_in
from refit_env.evaluation.ranking import evaluate, evaluated_users, nearest_metric, selecting_rule
from refit_env.evaluation.selection import Rule
from refit_env.policy import DiffusionPolicy
from refit_env.settings import plain
from refit_env.utils.user_code import absolute_place, source_of


def run(command: Pretrain) -> int:
    """Train, evaluate, and write the run folder; returns the exit code."""
    if command.new_data and command.init is None:
        raise ValueError("--new-data carries a trained model over: name its run folder with --init")
    name = _closed_form(command)
    if name and processes() > 1:
        raise ValueError(f"backbone {name!r} is fitted in closed form, in one process: leave out --processes")
    if not is_first():
        return _assist(command)
    if command.resume:
        if command.overwrite:
            raise ValueError("--resume continues a run, --overwrite replaces it: leave one out")
        with RunFolder.resume(command.out) as folder:
            if name:
                _check_resumed(command, folder)
                return _fit(command, folder, name)
            return _train(command, folder, *_resumed(command, folder))
    if name:
        return _begin_fit(command, name)
    target = _target(command)
    trainer, policy = _trainer(command, target)
    needs = {} if command.init is None else {"--init": command.init}
    weights = weights_of(needs.values())
    if not command.other_weights:
        check_recorded(weights)
    begun = {
        "dataset": asdict(DataIdentity.of(trainer.dataset)),
        "weights": weights,
        "backbone_file": source_of("backbone", command.backbone or ""),
    }
    if isinstance(policy.backbone, BUILT_ON) and command.init is None:
        begun["base"] = policy.backbone.base.config_dict()
    # After all that can be refused: a mistake leaves no run in the way.
    with RunFolder.create(
        command.out, "pretrain", _settings(command, target) | begun, overwrite=command.overwrite, needs=needs
    ) as folder:
        return _train(command, folder, trainer, policy)


def _assist(command: Pretrain) -> int:
    """Train beside the first process, which writes the run folder; returns the exit code."""
    if command.resume:
        trainer, _ = _resumed(command, RunFolder.open(command.out, needs=(CONFIG,)))
    else:
        trainer, _ = _trainer(command, _target(command))
    trainer.learn()
    return 0


def _target(command: Pretrain) -> Target:
    """The environment."""
    fallback = None if command.init is None else RunFolder.open(command.init).config
    return choose_target(command.env, command.data, fallback=fallback)


def _dataset(command: Pretrain, target: Target) -> Dataset:
    """The data; a line says where settings from a file were chosen on other data."""
    dataset = load_dataset(target.dataset)
    note = None if command.settings is None or command.resume else chosen_elsewhere(command.settings, dataset)
    if note is not None and not command.quiet and is_first():
        say(note, stderr=True)
    return dataset


def _settings(command: Pretrain, target: Target) -> dict[str, Any]:
    """The settings of the run for its ``config.json``."""
    options, name = parse_options(command.backbone_options, "backbone_options"), command.backbone
    return {
        "env": target.env_id,
        "data": target.data,
        "seed": command.seed,
        "init": None if command.init is None else str(command.init.resolve()),
        "other_data": command.other_data,
        "new_data": command.new_data,
        "num_steps": command.num_steps,
        "eta": command.eta,
        "backbone": options if name is None else options | {"name": absolute_place(name)},
        "size": command.size,
        "pretrain": plain(command.training),
    }


def _trainer(
    command: Pretrain, target: Target, base: Mapping[str, Any] | None = None
) -> tuple[Pretrainer, DiffusionPolicy]:
    """The trainer, and the policy that will be saved; settings that do not fit are refused.

    Of a new model on a closed form, ``base`` are the settings that validation chose; None chooses them here.
    """
    dataset = _dataset(command, target)
    evaluated_users(dataset, "test")
    if command.init is None:
        policy = new_policy(command, target, dataset, base)
    elif command.backbone_options or command.backbone:
        raise ValueError("--backbone and --backbone-options cannot change the trained model of --init")
    else:
        policy = initial_policy(command, command.init, target).respaced(command.num_steps, command.eta)
    return trainer_of(command, dataset, policy), policy


def new_policy(
    command: Pretrain, target: Target, dataset: Dataset, base: Mapping[str, Any] | None = None
) -> DiffusionPolicy:
    """The untrained policy of a command without ``--init``; ``base`` as in ``_trainer``."""
    options = parse_options(command.backbone_options, "backbone_options")
    name = command.backbone or target.spec.backbone
    usual = target.spec.num_steps
    with settings_in("backbone_options"):
        if name in {one.name for one in BUILT_ON}:
            usual = 1
            options |= base or _base_settings(command, name, dataset, options)
        backbone = backbone_for(dataset, name, options, size=command.size, seed=command.seed)
    usual = min(usual, backbone.diffusion.num_steps)
    steps = usual if command.num_steps is None else command.num_steps
    return DiffusionPolicy(backbone, steps, eta=1.0 if command.eta is None else command.eta)


def trainer_of(command: Pretrain, dataset: Dataset, policy: DiffusionPolicy) -> Pretrainer:
    """The trainer of a policy; settings that do not fit are refused."""
    return Pretrainer(
        dataset,
        policy.backbone,
        command.training,
        seed=command.seed,
        device=command.device,
        num_steps=policy.num_steps,
        eta=policy.diffusion.eta,
    )


def _base_settings(
    command: Pretrain, name: str, dataset: Dataset, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of the closed form in a backbone, chosen on validation by the first process for all."""
    return world_of(resolve_device(command.device)).of_first(
        lambda: base_settings(
            dataset,
            name,
            options,
            num_steps=command.num_steps or 1,
            select=command.training.select,
            device=command.device,
        )
    )


def _closed_form(command: Pretrain) -> str | None:
    """The name of the backbone if a closed form of it is fitted here, else None."""
    if command.init is not None:
        return None
    name = command.backbone or _target(command).spec.backbone
    if not is_closed_form(name):
        return None
    if not command.resume:
        _check_fitted(command.training, name)
    return name


def _check_fitted(training: PretrainConfig, name: str) -> None:
    """Refuse settings of training for a backbone that is fitted in closed form: they would change nothing.

    Raises:
        SettingError: naming the first of them; the rule that selects is none of them.
    """
    further = "--init RUN trains the model of such a run further"
    if training.objective == "ranking":
        raise SettingError(
            "objective", f"must be elbo where backbone {name!r} is fitted in closed form; {further}"
        )
    usual = published_training(name, "")
    for setting in (field.name for field in fields(PretrainConfig) if field.name != "select"):
        if getattr(training, setting) != getattr(usual, setting):
            raise SettingError(
                setting,
                f"has no effect where backbone {name!r} is fitted in closed form: leave it out; {further}",
            )


def _begin_fit(command: Pretrain, name: str) -> int:
    """Fit a closed form in a new run folder, and return the exit code."""
    target = _target(command)
    dataset = _dataset(command, target)
    evaluated_users(dataset, "test")
    # All that can be refused comes before the folder: a mistake leaves an earlier run as it was.
    resolve_device(command.device)
    selecting_rule(command.training.select, dataset)
    options = parse_options(command.backbone_options, "backbone_options")
    with settings_in("backbone_options"):
        backbone = backbone_for(dataset, name, options, size=command.size)
    assert isinstance(backbone, ClosedForm)
    backbone.check_can_fit(dataset)
    begun = {
        "dataset": asdict(DataIdentity.of(dataset)),
        "weights": {},
        "backbone_file": source_of("backbone", name),
    }
    with RunFolder.create(
        command.out, "pretrain", _settings(command, target) | begun, overwrite=command.overwrite
    ) as folder:
        return _fit(command, folder, name)


def _fit(command: Pretrain, folder: RunFolder, name: str) -> int:
    """Fit a closed form, report, and return the exit code."""
    target = _target(command)
    try:
        report = fit_run(
            folder,
            load_dataset(target.dataset),
            name,
            parse_options(command.backbone_options, "backbone_options"),
            num_steps=1 if command.num_steps is None else command.num_steps,
            eta=1.0 if command.eta is None else command.eta,
            select=command.training.select,
            device=command.device,
            progress=shows_progress(command.quiet),
        )
    except KeyboardInterrupt as stop:
        raise interrupted("pretrain", command.out, "trial", None) from stop
    return _report(command, folder, report, f"{target.env_id}, {name} in closed form")


def _check_resumed(command: Pretrain, folder: RunFolder) -> bool:
    """Refuse to continue with other data or settings; returns whether ``--epochs`` was raised."""
    begun = folder.config
    check_begun_on(folder.path, begun, load_dataset(choose_target(command.env, command.data).dataset))
    return check_unchanged(folder.path, begun, _settings(command, _target(command)))


def _resumed(command: Pretrain, folder: RunFolder) -> tuple[Pretrainer, DiffusionPolicy]:
    """The trainer and the policy of an interrupted run in its last state."""
    begun = folder.config
    grows = _check_resumed(command, folder)
    saved = (folder.path / f"{Pretrainer.stem}.safetensors").exists()
    target = _target(command)
    settings = _settings(command, target)
    if command.init is not None and not saved:  # it begins, from the same model
        check_weights_unchanged(folder.path, begun, [command.init])
    trainer, policy = _trainer(command, target, begun.get("base"))
    if saved:
        trainer.load(folder.path)
    if grows and is_first():
        kept = {name: begun.get(name) for name in ("dataset", "weights", "base", "backbone_file")}
        folder.write_config("pretrain", settings | kept)
    return trainer, policy


def _train(command: Pretrain, folder: RunFolder, trainer: Pretrainer, policy: DiffusionPolicy) -> int:
    """Train, report, and return the exit code."""
    report = pretrain_run(trainer, folder, policy, progress=shows_progress(command.quiet))
    if report is None:
        raise interrupted("pretrain", command.out, "epoch", trainer.saved)
    code = _report(command, folder, report, f"{folder.config['env']}, seed {command.seed}")
    note = None if command.quiet else below_popularity(report["valid"], trainer.dataset)
    if note is not None:
        say(note, stderr=True)
    return code


def below_popularity(means: Mapping[str, float], dataset: Dataset) -> str | None:
    """Return a line where a model ranks no better than popularity, else None.

    Args:
        means: its validation metrics.
        dataset: that it was trained on.
    """
    metric = nearest_metric("ndcg@20", means)
    popular = popular_on_validation(dataset, metric, torch.device("cpu"))
    if not means[metric] <= popular:  # also where there is nothing to measure, and both are NaN
        return None
    return (
        f"note: valid {metric} is {means[metric]:.4f}, that of the most popular items {popular:.4f}: this "
        "model has not learned to rank. Other settings of training, or another --backbone, may; "
        "`refit baseline` measures what others reach."
    )


def _report(command: Pretrain, folder: RunFolder, report: Mapping[str, Any], title: str) -> int:
    """Print the metrics; returns the exit code."""
    if command.json:
        print_json({"run": str(folder.path), "env": folder.config["env"], **folder.metrics})
    elif not command.quiet:
        console().print(metrics_table(report, title))
    return 0


def pretrain_run(
    trainer: Pretrainer,
    folder: RunFolder,
    policy: DiffusionPolicy,
    *,
    progress: bool = False,
) -> dict[str, Any] | None:
    """Train a backbone and write its run folder.

    Args:
        trainer: with the backbone, its data and settings, and the state of a resumed run.
        folder: a run folder that was begun.
        policy: on the trainer's backbone; it is saved, so that its chain is the one to go on with.
        progress: show a progress bar.

    Returns:
        The content of ``metrics.json``, or None if Ctrl-C ended training (its state is saved).
    """
    config, dataset = trainer.config, trainer.dataset
    log = RunLog(folder.path, resume_after=trainer.epoch or None, step_name="epoch")
    bar = tqdm(total=config.epochs, initial=trainer.epoch, desc="pretrain", disable=not progress)
    with log, bar:

        def note(epoch: int, scalars: dict[str, float]) -> None:
            log.write(epoch, scalars)
            bar.update(epoch - bar.n)

        result = trainer.learn(folder.path, note, overwrite=True)
    if result.interrupted:
        return None
    policy.to(trainer.device).save(folder.path, dataset, overwrite=True)
    with measure() as evaluation:
        means = {
            split: reported(evaluate(policy.scorer(dataset), dataset, split, device=trainer.device).means())
            for split in ("valid", "test")
        }
    _draw(folder, f"{dataset.name}: pretraining", trainer.rule, result.best_epoch)
    report = means | {
        "training": {
            "epochs": trainer.epoch,
            "best_epoch": result.best_epoch,
            "selected_on": f"valid {config.select}",
            "best_value": result.best_value,
        },
        "cost": cost(pretraining=result.cost, evaluation=evaluation),
    }
    folder.finish(report)
    return report


def _draw(folder: RunFolder, title: str, rule: Rule, best_epoch: int) -> None:
    """Draw ``curve.png`` from the log: the loss, and the validation metrics with the chosen epoch."""
    rows = read_log(folder.path)
    chosen = (f"chosen: epoch {best_epoch}", float(best_epoch))
    panels = [
        Panel("training", {"mean loss": column(rows, "train/loss", "epoch")}, "loss", chosen=chosen),
        validation_panel(rows, rule, chosen, step_name="epoch"),
    ]
    plot_curves(panels, folder.path / CURVE, title=title, xlabel="epoch")


def metrics_table(report: Mapping[str, Any], title: str) -> Table:
    """The metrics for the terminal."""
    table = Table("metric", title=title, min_width=48)
    for split in ("valid", "test"):
        table.add_column(split, justify="right")
    for name in report["test"]:
        table.add_row(name, f"{report['valid'][name]:.4f}", f"{report['test'][name]:.4f}")
    return table
