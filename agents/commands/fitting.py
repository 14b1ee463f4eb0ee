"""``refit pretrain`` of a closed-form backbone: validation chooses the settings, nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from tqdm import tqdm

from agents.commands.measures import cost, reported, validation_panel
from agents.runs.files import CURVE
from agents.runs.folder import RunFolder
from agents.runs.log import RunLog, read_log
from agents.runs.plots import plot_curves
from agents.runs.profiling import measure
from agents.training.closed_form import fit_closed_form
from refit_env.data import Dataset
from refit_env.evaluation.ranking import evaluate, selecting_rule
from refit_env.evaluation.selection import Rule
from refit_env.policy import DiffusionPolicy


def fit_run(
    folder: RunFolder,
    dataset: Dataset,
    name: str,
    options: Mapping[str, Any],
    *,
    num_steps: int = 1,
    eta: float = 1.0,
    select: str = "ndcg@20",
    device: str = "auto",
    progress: bool = False,
) -> dict[str, Any]:
    """Fit a closed-form denoiser and write its run folder.

    Args:
        folder: a run folder that was begun.
        dataset: the data.
        name: of the backbone.
        options: settings that are not searched.
        num_steps: T of the saved policy's chain.
        eta: of its steps back.
        select: the rule by which validation chooses the other settings.
        device: where validation runs.
        progress: show a progress bar.

    Returns:
        The content of ``metrics.json``.
    """
    bar = tqdm(desc=f"fit {name}", unit=" settings", disable=not progress)
    with RunLog(folder.path, step_name="trial") as log, bar, measure() as fitting:

        def note(row: Mapping[str, Any]) -> None:
            numbers = {key: value for key, value in row["settings"].items() if isinstance(value, int | float)}
            metrics = {key: value for key, value in row.items() if key != "settings"}
            log.write(next(trials), {**numbers, **metrics})
            bar.update()

        trials = count(1)
        result = fit_closed_form(
            dataset, name, options, num_steps=num_steps, select=select, device=device, callback=note
        )
    policy = DiffusionPolicy(result.backbone, num_steps, eta=eta)
    policy.to(next(result.backbone.parameters()).device).save(folder.path, dataset, overwrite=True)
    with measure() as evaluation:
        means = {
            split: reported(evaluate(policy.scorer(dataset), dataset, split, device=policy.device).means())
            for split in ("valid", "test")
        }
    rule = selecting_rule(select, dataset)
    _draw(folder, f"{dataset.name}: settings of {name}", rule, result.best_trial)
    report = means | {
        "training": {
            "trials": len(result.tried),
            "settings": result.backbone.config_dict(),
            "selected_on": f"valid {rule}",
            "best_value": result.best_value,
        },
        "cost": cost(pretraining=fitting, evaluation=evaluation),
    }
    folder.finish(report)
    return report


def _draw(folder: RunFolder, title: str, rule: Rule, best: int) -> None:
    """Draw validation over the trials, with the chosen one marked."""
    panel = validation_panel(
        read_log(folder.path), rule, (f"chosen: trial {best}", float(best)), step_name="trial"
    )
    plot_curves([panel], folder.path / CURVE, title=title, xlabel="trial")
