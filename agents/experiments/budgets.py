"""Budgets of controls: as much work as another variant took, the same on a busy and on an idle machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.experiments.records import read_records
from refit_env.errors import DataError

WORK, SECONDS = "work", "seconds"
"""Units of a budget: rows through the denoiser forward and backward (``agents.runs.work``), or wall-clock
time, which controls of older records had."""


def in_work(amount: float) -> dict[str, Any]:
    """What a control's record says of its budget.

    Example:
        >>> in_work(153600.0)
        {'unit': 'work', 'amount': 153600.0}
    """
    return {"unit": WORK, "amount": amount}


def work_of(records: Path, key: str) -> float:
    """The work that a record counts: the budget of a control.

    Raises:
        DataError: if there is no such record, or it counts none.
    """
    found = read_records(records).get(key)
    if found is None:
        raise DataError(f"{records}: there is no record of {key}, whose work is a budget")
    work = (found.get("cost") or {}).get("work")
    if not work:
        raise DataError(
            f"{records}: {key} counts no work, so no control can have as much; --redo measures it again"
        )
    return float(work["units"])


def units_of(records: Iterable[Mapping[str, Any]]) -> set[str]:
    """In what the budgets of controls were counted; empty where none of the records is a control's.

    Example:
        >>> units_of([{"budget": {"unit": "work", "amount": 8.0}}, {"variant": "pretrained"}])
        {'work'}
    """
    return {str(record["budget"]["unit"]) for record in records if record.get("budget")}


def mean_work(records: Sequence[Mapping[str, Any]]) -> float | None:
    """The mean work of cells; None where one did not count it.

    Example:
        >>> mean_work([{"cost": {"work": {"units": 8.0}}}]), mean_work([{"cost": {}}])
        (8.0, None)
    """
    found = [(record.get("cost") or {}).get("work") for record in records]
    known = [float(work["units"]) for work in found if work]
    return sum(known) / len(known) if known and len(known) == len(found) else None


def same(units: Iterable[str]) -> str:
    """The unit in which a control has as much as its counterpart, for a table; empty without one.

    Example:
        >>> same({"work"}), same({"seconds"}), same({"seconds", "work"})
        ('same work', 'same seconds', 'same seconds or work')
    """
    return f"same {' or '.join(sorted(units))}" if units else ""


def budget_note(units: Iterable[str]) -> str:
    """A sentence on the budgets of controls; empty where there are none.

    Args:
        units: of ``units_of``.
    """
    units = set(units)
    rows = (
        "'same work': as many rows through the denoiser, forward and backward, as REINFORCE took, each step "
        "of a chain counted and validation not. "
    )
    older = (
        "'same seconds': the wall-clock time of REINFORCE, validation included, on the machine of that time. "
    )
    return (rows if WORK in units else "") + (older if SECONDS in units else "")
