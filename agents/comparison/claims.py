"""The paper's claims beside what ``refit compare backbones`` measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from agents.comparison.backbone_tables import RANKED, TASKS, name_of, percent
from agents.comparison.backbones import ELBO, REINFORCE
from agents.comparison.tables import TextTable
from refit_env.registration import entry
from refit_env.slices import COLD

PAPER = {"cf": "+2.65 (mean)", "sequential": "up to +36.3", "social": "improves", "poi": "improves"}
"""NDCG@20 by task, as arXiv 2511.06937 has it."""
PAPER_COLD = "+8.5"
ENOUGH = 100
"""Cold users that an environment must have to be told of."""
Model = Mapping[str, Any]


def claims_table(summary: Sequence[Model]) -> TextTable:
    """Each claim: the paper's figure, every environment's gain, and that of as much more training.

    Args:
        summary: of ``backbone_tables.summarise``.
    """
    tuned = [found for found in summary if "gain" in found]
    lines = []
    for task, title in TASKS.items():
        lines.append(_line(f"NDCG@20, {title}", PAPER[task], tuned, partial(_usual, task=task)))
        if task == "sequential":
            lines.append(_line("the same over DreamRec trained to rank", "not compared", tuned, _ranked))
    cold = [m for m in tuned if not _ranked(m) and m["slices"][COLD]["users"] >= ENOUGH]
    told = [
        f"{name_of(m)} {percent(gain)}"
        for m in cold
        if m["row"] == REINFORCE and (gain := m["slice_gain"][COLD]["recall@20"])
    ]
    lines.append(("Recall@20 of users with fewer than 5 items", PAPER_COLD, ", ".join(told), ""))
    columns = ("claim", "paper, %", "REINFORCE, %", "more training, %")
    kept = tuple(line for line in lines if any(line[2:]))
    return TextTable("What the paper claims, and what was measured (test)", columns, kept)


def _line(
    what: str, paper: str, tuned: Sequence[Model], wanted: Callable[[Model], bool]
) -> tuple[str, str, str, str]:
    """The gains of the models that are wanted, and their controls'."""
    rows = {row: [m for m in tuned if wanted(m) and m["row"] == row] for row in (REINFORCE, ELBO)}
    gains, controls = (
        ", ".join(f"{name_of(m)} {percent(m['gain']['ndcg@20'])}" for m in models) for models in rows.values()
    )
    return what, paper, gains, controls


def _usual(model: Model, task: str) -> bool:
    """Whether it is the usual recommender of an environment of the task."""
    return bool(model["task"] == task and model["model"] == entry(model["env"]).backbone)


def _ranked(model: Model) -> bool:
    """Whether it was trained to rank."""
    return str(model["model"]).endswith(RANKED)
