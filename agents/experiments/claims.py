"""The paper's claims beside what a study measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.experiments.aggregate import REINFORCE
from agents.experiments.tables import TextTable
from refit_env.evaluation.slices import COLD
from refit_env.registration import entry

ELBO = "elbo"
"""The variant that goes on with the same training."""
OTHERS = {"-distance": "ranked by distance", "-ranking": "trained to rank"}
"""End of the name of another DreamRec -> what it is; a line beside the task's, of the models as published."""
TASKS = {"cf": "standard CF", "sequential": "sequential", "social": "social", "poi": "POI"}
PAPER = {"cf": "+2.65", "sequential": "up to +36.3", "social": "above 0", "poi": "above 0"}
"""NDCG@20 by task, as arXiv 2511.06937 has it."""
PAPER_COLD = "+8.5"
ENOUGH = 100
"""Cold users that an environment must have to be counted."""
Model = Mapping[str, Any]


def claims_table(summary: Sequence[Model]) -> TextTable:
    """Each claim: the paper's figure, and the mean gain over environments here.

    Args:
        summary: of ``agents.experiments.summary.summarise``.
    """
    tuned = [found for found in summary if "gain" in found]
    usual = [found for found in tuned if found["model"] == entry(found["env"]).backbone]
    lines = []
    for task, title in TASKS.items():
        lines.append(_line(f"NDCG@20, {title}", PAPER[task], [m for m in usual if m["task"] == task]))
        if task == "sequential":
            for end, what in OTHERS.items():
                models = [m for m in tuned if str(m["model"]).endswith(end)]
                lines.append(_line(f"the same over DreamRec {what}", "", models))
    cold = [m for m in usual if COLD in m["slices"] and m["slices"][COLD]["users"] >= ENOUGH]
    lines.append(_line("Recall@20 of users with fewer than 5 items", PAPER_COLD, cold, cold=True))
    columns = ("gain in", "paper, %", "environments", "surely above 0", "REINFORCE, %", "more training, %")
    title = "What the paper claims, and what was measured (test, means over environments)"
    return TextTable(title, columns, tuple(line for line in lines if line[2] != "0"))


def _line(what: str, paper: str, models: Sequence[Model], cold: bool = False) -> tuple[str, ...]:
    """Mean gains of fine-tuning and of its controls, and how many environments' intervals are above zero."""
    gains: dict[str, list[Mapping[str, Any]]] = {REINFORCE: [], ELBO: []}
    for model in models:
        gain = model["slice_gain"][COLD]["recall@20"] if cold else model["gain"]["ndcg@20"]
        if model["variant"] in gains and gain is not None:
            gains[model["variant"]].append(gain)
    sure = sum(gain["excludes_zero"] and gain["mean"] > 0 for gain in gains[REINFORCE])
    means = [f"{100 * np.mean([g['mean'] for g in found]):+.1f}" if found else "" for found in gains.values()]
    return what, paper, str(len(gains[REINFORCE])), str(sure), *means
