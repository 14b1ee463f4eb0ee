"""The work of ``refit refit``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from agents.commands.fitting_again import Again
from agents.commands.measures import comparison, comparison_table, cost
from agents.commands.refit import Refit
from agents.commands.resuming import check_begun_on
from agents.commands.start import check_recorded, weights_of
from agents.commands.target import choose_target, note_other_data
from agents.console import console, print_json, say
from agents.runs.files import CONFIG, METRICS, POLICY
from agents.runs.folder import RunFolder
from agents.runs.profiling import measure
from agents.training.tensors import resolve_device
from refit_env.data import load_dataset
from refit_env.data.identity import DataIdentity
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy


def run(command: Refit) -> int:
    """Fit again, measure beside the run's own model, and write the run folder; returns the exit code."""
    former = RunFolder.open(command.run_dir, needs=(CONFIG, POLICY, METRICS))
    config, device = former.config, resolve_device(command.device)
    target = choose_target(None, None, fallback=config)
    dataset = load_dataset(target.dataset)
    check_begun_on(former.path, config, dataset, "Put the former data back to fit its model again")
    weights = weights_of([command.run_dir])
    check_recorded(weights)
    joined = dataset.learning_validation()
    settings: dict[str, Any] = {
        "env": target.env_id,
        "data": target.data,
        "seed": config.get("seed", 0),
        "init": str(command.run_dir.resolve()),
        "dataset": asdict(DataIdentity.of(joined)),
        "weights": weights,
    }
    again = Again(target, joined, device)
    again.check(command.run_dir)
    with RunFolder.create(
        command.out, "refit", settings, overwrite=command.overwrite, needs={"--run": command.run_dir}
    ) as folder:
        with measure() as fitting:
            policy = again.policy_of(command.run_dir)
        policy.save(folder.path, joined, overwrite=True)
        chosen = DiffusionPolicy.load(command.run_dir, device)
        with measure() as evaluation:
            before = evaluate(chosen.scorer(dataset), dataset, "test", device=device)
            after = evaluate(policy.scorer(joined), joined, "test", device=device)
        found = comparison(before, after, joined)
        report = {"test": found["after"], "compared": found, "cost": cost(fit=fitting, evaluation=evaluation)}
        folder.finish(report)
        if command.json:
            print_json({"run": str(folder.path), "env": target.env_id, **folder.metrics})
        elif not command.quiet:
            note_other_data(dataset)
            console().print(comparison_table(found, f"{command.run_dir}, fitted again"))
            say(
                f"before: the input is the train items; after: {len(dataset.valid):,} validation items, too. "
                f"{command.out} is for use: nothing is left to choose by"
            )
    return 0
