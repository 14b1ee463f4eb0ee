"""Leaderboards: every variant of an environment, best first, paired over users with the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.experiments.columns import COLUMNS, Entry, counted, signed
from agents.experiments.per_user import values_of
from agents.experiments.row_groups import rows_note
from agents.experiments.spec import FINETUNE, SB3
from agents.experiments.study import Study
from agents.experiments.summary import Runs, drawn_together
from agents.experiments.tables import TextTable, row_name
from refit_env.evaluation.intervals import ends_in_words, is_known
from refit_env.evaluation.slices import COLD, POPULAR, TAIL
from refit_env.evaluation.statistics import PairedBootstrap, paired_bootstraps

METRIC = "ndcg@20"
"""The metric that orders the rows."""
RESAMPLES = 2000
"""Number of resamples of the bootstrap that compares a row with the best one."""
RACS = "racs"
"""The name of the method's own reward."""


@dataclass(frozen=True)
class Row:
    """One row of a leaderboard."""

    runs: Runs
    """Its records."""
    entry: Entry
    """Its figures, of ``summarise``."""
    split: str
    """What was measured."""

    @property
    def mean(self) -> float:
        """The mean over seeds of the metric that orders the rows."""
        return float(self.entry[self.split][METRIC]["mean"])

    @property
    def name(self) -> str:
        """The row's name, without its environment."""
        return row_name({**self.entry, "gain": None}, each=True)

    @property
    def is_baseline(self) -> bool:
        """Whether it is a recommender of ``agents.baselines``."""
        return not self.runs.model

    @property
    def is_rl(self) -> bool:
        """Whether a policy was fine-tuned on a reward; a distillation of the reward does not count.

        Of an older record, which states no settings, whether it took environment steps.
        """
        made = self._made
        if not made:
            return bool(self.entry.get("env_steps"))
        return made.get("make") in (FINETUNE, SB3) and made.get("algorithm") != "distill"

    @property
    def is_racs(self) -> bool:
        """Whether it was fine-tuned on RACS alone."""
        reward = (self._made.get("env") or {}).get("reward")
        return self.is_rl and (reward == RACS or (isinstance(reward, Mapping) and list(reward) == [RACS]))

    @property
    def _made(self) -> Mapping[str, Any]:
        """What its records state of its variant."""
        return (self.runs.records[0].get("settings") or {}).get(self.runs.variant) or {}

    def users(self) -> Any:
        """The metric of each user (n,), averaged over the seeds that hold it; None where none does.

        Records of the same row with other numbers of users are no such record.
        """
        held = [record for record in self.runs.records if METRIC in (record.get("per_user") or {})]
        values = [values_of(record, METRIC) for record in held]
        return np.mean(values, axis=0) if len({v.shape for v in values}) == 1 else None


def ranked(groups: Sequence[Runs], entries: Sequence[Entry], split: str) -> list[Row]:
    """The rows of one environment, the best mean first.

    Args:
        groups: the records of the entries, in the same order.
        entries: of ``summarise``.
        split: what was measured.
    """
    rows = [Row(group, entry, split) for group, entry in zip(groups, entries, strict=True)]
    return sorted(rows, key=lambda row: row.mean, reverse=True)


@dataclass(frozen=True)
class Paired:
    """Rows less another one, user by user."""

    found: Sequence[PairedBootstrap | None]
    """Of each row; None for the other one itself, and for rows without its users."""
    together: bool
    """Whether whole users or sessions were drawn, to which several rows of the data belong."""

    def drawn(self) -> list[bool]:
        """``together`` for each interval."""
        return [self.together for one in self.found if one is not None]


def over(rows: Sequence[Row], best: Row) -> Paired:
    """Bootstrap over users of each row's metric less that of ``best``.

    All rows share the draws of users. None for ``best`` itself, for rows that hold no single users, and for
    rows of other users.
    """
    start = best.users()
    found = {} if start is None else {n: row.users() for n, row in enumerate(rows) if row is not best}
    after = {str(n): v for n, v in found.items() if v is not None and v.shape == start.shape}
    if not after:
        return Paired([None] * len(rows), together=False)
    ids = drawn_together([best.runs, *(rows[int(n)].runs for n in after)])
    table = paired_bootstraps(dict.fromkeys(after, start), after, groups=ids, resamples=RESAMPLES)
    return Paired([table.get(str(n)) for n in range(len(rows))], ids is not None)


def leaderboard_table(title: str, first: str, columns: Sequence[str], rows: Sequence[Row]) -> TextTable:
    """The rows of one environment, each with its difference from the best over users.

    Args:
        title: above it.
        first: heading of the first column.
        columns: names of ``COLUMNS``.
        rows: of ``ranked``.
    """
    chosen = [COLUMNS[name] for name in columns]
    best = next((row for row in rows if row.users() is not None), rows[0])
    env, paired = rows[0].runs.env_id, over(rows, best)
    lines = [
        (row.name, *(column.cell(row.entry, row.split) for column in chosen), difference(found))
        for row, found in zip(rows, paired.found, strict=True)
    ]
    note = " ".join(filter(None, (verdict(rows), rows_note({env: paired.drawn()}))))
    against = "from the best" if best is rows[0] else f"from {best.name}"
    headings = (first, *(column.heading for column in chosen), f"{against}, paired 95 %")
    return TextTable(title, headings, tuple(lines), env=env, note=note)


def slices_table(title: str, first: str, rows: Sequence[Row]) -> TextTable:
    """NDCG@20 and Recall@20 of cold users, popular items and the tail, in the order of the leaderboard."""
    parts = [name for name in (COLD, POPULAR, TAIL) if any(_slice(row, name) for row in rows)]
    heads = {COLD: "fewer than 5 train items", POPULAR: "popular items", TAIL: "tail items"}
    columns = [first]
    for name in parts:
        size = next(int(found["users"]) for row in rows if (found := _slice(row, name)))
        columns += [f"{heads[name]} ({counted(size, 'user')}): NDCG@20", "Recall@20"]
    lines = []
    for row in rows:
        cells = [row.name]
        for name in parts:
            found = _slice(row, name) or {}
            cells += [_mean(found.get(metric)) for metric in (METRIC, "recall@20")]
        lines.append(tuple(cells))
    return TextTable(title, tuple(columns), tuple(lines), env=rows[0].runs.env_id)


def verdict(rows: Sequence[Row]) -> str:
    """Which row is first, and how far the best of the other side, baselines or this project, is from it.

    Args:
        rows: of ``ranked``.
    """
    first = rows[0]
    text = f"First by its mean: {first.name} (NDCG@20 {first.mean:.4f}), {_whose(first)}."
    other = next((row for row in rows if row.is_baseline != first.is_baseline), None)
    if other is None:
        side = "row of this project" if first.is_baseline else "baseline"
        return f"{text} No {side} is measured here yet."
    found = over([other], first).found[0]
    place = next(n for n, row in enumerate(rows, 1) if row is other)
    side = "row of this project" if first.is_baseline else "baseline"
    text += f" The best {side}, {other.name} ({other.mean:.4f}), has place {place} of {len(rows)}"
    if found is None:
        return f"{text}; no interval, since one of the two has no record of single users."
    if not is_known(found.low, found.high):
        return f"{text}: {found.mean_difference:+.4f}; no interval, since all is of one user or session."
    sure = "does not contain" if found.excludes_zero else "contains"
    return f"{text}: {difference(found).removesuffix(' *')}, which {sure} zero."


def gain_of_rl(rows: Sequence[Row]) -> str:
    """What RL adds to the start of its best row, over seeds; empty without such a row.

    Args:
        rows: of ``ranked``.
    """
    best = next((row for row in rows if row.is_rl), None)
    found = None if best is None else best.entry.get("difference", {}).get(METRIC)
    if best is None or found is None:
        return ""
    text = f"With RL {best.name} is the best; over its own start it has {signed(found)} NDCG@20"
    kept = sum(record.get("best_at") == 0 for record in best.runs.records)
    seeds = f"with {kept} of {counted(len(best.runs.records), 'seed')} validation kept the start"
    why = f" ({seeds})" if kept else ""
    if not found["excludes_zero"]:
        return f"{text}: no change that is certain{why}."
    return f"{text}: a {'gain' if found['mean'] > 0 else 'loss'}{why}."


def missing(study: Study, env_id: str, rows: Sequence[Row]) -> str:
    """A sentence that names the variants of an environment that are not measured; empty without any.

    Args:
        study: whose.
        env_id: the environment.
        rows: of ``ranked``.
    """
    there = {row.runs.variant for row in rows}
    lacking = [variant.title for variant in study.place(env_id).variants if variant.key not in there]
    return f"Not measured yet: {', '.join(lacking)}." if lacking else ""


def difference(found: PairedBootstrap | None) -> str:
    """A paired difference with its interval, starred where that excludes zero; empty for None."""
    if found is None:
        return ""
    star = " *" if found.excludes_zero else ""
    return f"{found.mean_difference:+.4f} [{ends_in_words(found.low, found.high, ', ')}]{star}"


def _whose(row: Row) -> str:
    if row.is_baseline:
        return "a baseline"
    return "of this project, with RL" if row.is_rl else "of this project, without RL"


def _slice(row: Row, name: str) -> Mapping[str, Any] | None:
    """A slice that has users; None for one without any, or of a record that has none."""
    found = row.entry["slices"].get(name)
    return found if found and found["users"] else None


def _mean(interval: Mapping[str, Any] | None) -> str:
    return "" if interval is None else f"{interval['mean']:.4f}"
