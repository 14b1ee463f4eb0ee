"""The work of ``refit refit``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from agents.commands.fitting_again import Again
from agents.commands.measures import comparison, comparison_table, cost
from agents.commands.recipes import Reading, Recipe
from agents.commands.refit import Refit
from agents.commands.resuming import check_begun_on
from agents.commands.start import check_recorded, weights_of
from agents.commands.target import choose_target, note_other_data
from agents.console import console, print_json, say
from agents.runs.files import CONFIG, METRICS, POLICY
from agents.runs.folder import RunFolder
from agents.runs.profiling import measure
from agents.training.tensors import resolve_device
from refit_env.data import Dataset, load_dataset
from refit_env.data.identity import DataIdentity
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy


def run(command: Refit) -> int:
    """Fit again, measure beside the run's own model, and write the run folder; returns the exit code."""
    former = RunFolder.open(command.run_dir, needs=(CONFIG, POLICY, METRICS))
    config, device = former.config, resolve_device(command.device)
    target = choose_target(None, command.data, fallback=config)
    dataset = load_dataset(target.dataset)
    check_begun_on(former.path, config, dataset, "Fit its model again on the data that it was made on")
    reading = Reading(target, dataset)
    recipe = reading.recipe(command.run_dir)
    weights = weights_of([command.run_dir])
    check_recorded(weights)
    again = Again(target, dataset.learning_validation(), device)
    settings: dict[str, Any] = {
        "env": target.env_id,
        "data": target.data,
        "seed": config.get("seed", 0),
        "run": str(command.run_dir.resolve()),
        "dataset": asdict(DataIdentity.of(again.dataset)),
        "weights": weights,
    }
    needs = {f"a model that --run needs, {path}": path for path in reading.needs[1:]}
    with RunFolder.create(
        command.out,
        "refit",
        settings,
        overwrite=command.overwrite,
        needs={"--run": command.run_dir, **needs},
        resumable=False,
    ) as folder:
        try:
            report = _report(command, folder, again, recipe, dataset)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("nothing is kept; the same command begins anew") from None
    if command.json:
        print_json({"run": str(folder.path), "env": target.env_id, **folder.metrics})
    elif not command.quiet:
        note_other_data(dataset)
        console().print(comparison_table(report["compared"], f"{command.run_dir}, fitted again"))
        say(
            f"before: the input is the train items; after: {len(dataset.valid):,} validation items, too. "
            f"{command.out} is for use: nothing is left to choose by"
        )
    return 0


def _report(
    command: Refit, folder: RunFolder, again: Again, recipe: Recipe, dataset: Dataset
) -> dict[str, Any]:
    """Make, save and measure the model; returns the content of ``metrics.json``."""
    joined = again.dataset
    with measure() as fitting:
        policy = again.make(recipe)
    policy.save(folder.path, joined, overwrite=True)
    chosen = DiffusionPolicy.load(command.run_dir, policy.device)
    with measure() as evaluation:
        before = evaluate(chosen.scorer(dataset), dataset, "test", device=policy.device)
        after = evaluate(policy.scorer(joined), joined, "test", device=policy.device)
    found = comparison(before, after, joined)
    report = {"test": found["after"], "compared": found, "cost": cost(fit=fitting, evaluation=evaluation)}
    folder.finish(report)
    return report
