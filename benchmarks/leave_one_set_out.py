"""Measures the rules of ``refit tune`` on data sets that did not choose them, each data set in turn.

    python -m benchmarks.leave_one_set_out run --out FOLDER --seconds 280 --data ml-1m anime ...
    python -m benchmarks.leave_one_set_out table --out FOLDER

``run`` measures cells, one after the other, until the seconds have passed, and continues where it stopped:
for each data set the best of the baselines of ``refit tune``, the closed forms, and fine-tunings of the best
closed form by each candidate, all with a fixed amount of work. ``table`` chooses, for each data set, the
candidate by the validation gains on all other sets with the same split, and reports its test metric here.
A fine-tuning is kept where its validation gain is more than two standard errors, as in ``refit tune``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from agents.baselines import fit_baseline
from agents.training.closed_form import fit_closed_form
from agents.training.closed_form_search import fitted_policy
from agents.tuning.choice import better_of
from agents.tuning.defaults import TRAINED, FineTuning, backbones_for, default_finetuning
from agents.tuning.floor import floor_names, search_baseline
from agents.tuning.inspection import DataFacts, inspect_data
from agents.tuning.trying import Training
from benchmarks.harness import report
from refit_env.data import Dataset, load_dataset
from refit_env.evaluation.intervals import ends_in_words
from refit_env.evaluation.ranking import ScoreFunction, evaluate
from refit_env.evaluation.statistics import Gain, paired_bootstrap
from refit_env.policy import DiffusionPolicy
from refit_env.utils.atomic_io import write_json

METRIC = "ndcg@20"
TRIALS = {"ials": 2, "slim": 2}
"""Most settings of a baseline; of others ``MOST``."""
MOST = 5
CLOSED_FORM_TRIALS = 60
"""Most settings of a closed form."""
ROWS = 256 * 60
"""Users that a fine-tuning rolls out."""
SLOW_SLIM = 2_000
"""Items above which SLIM is left out."""
CPU = torch.device("cpu")
Values = Mapping[str, npt.NDArray[np.float64]]
"""``valid`` and ``test``: METRIC of each user."""


def candidates(facts: DataFacts, backbone: str) -> dict[str, FineTuning]:
    """Return the fine-tunings to compare on a data set, by name; a name means the same on all sets.

    Args:
        facts: facts of the data.
        backbone: name of the start.
    """
    usual = default_finetuning(facts, backbone)
    later = facts.split == "time" and facts.form == "sets"
    steps = {"long": (1e-4, 0.05), "short": (3e-5, 0.02) if later else (1e-5, 0.05)}
    rewards = ["ndcg"] if facts.form == "rows" else ["ndcg", "racs"]
    out = {}
    for reward in rewards:
        for name, (rate, std) in steps.items():
            agent = replace(usual.agent, learning_rate=rate, exploration_std=std)
            agent = replace(agent, iterations=ROWS // agent.users_per_batch, eval_every=15)
            out[f"{reward}, {name} steps"] = FineTuning({**usual.env, "reward": reward}, agent)
    return out


@dataclass(frozen=True)
class Cell:
    """A measurement: its name, a part of its file's name, and its work."""

    name: str
    """``baseline``, ``start/linear``, ``ndcg, long steps``."""
    path: Path
    """File of the result."""
    work: Callable[[], dict[str, Any]]
    """Measures."""


class Cells:
    """The cells of a data set, in order.

    Attributes:
        name: of the data set, or of its folder.
        dataset: the data set.
        facts: its facts.
        folder: folder of the results.
    """

    def __init__(self, data: str, folder: Path) -> None:
        """Load a data set.

        Args:
            data: a name, or a folder in canonical form.
            folder: folder of the results.
        """
        self.data, self.name, self.folder = data, Path(data).name, folder
        self.dataset: Dataset = load_dataset(data)
        self.facts = inspect_data(self.dataset)

    def __iter__(self) -> Iterator[Cell]:
        """Yield the cells; those of fine-tuning only when the closed forms are measured."""
        for name in floor_names(self.dataset):
            if name != "slim" or self.facts.items <= SLOW_SLIM:
                yield self._cell(f"baseline/{name}", partial(self._baseline, name))
        for name in backbones_for(self.facts):
            yield self._cell(f"start/{name}", partial(self._start, name))
        start = self.start()
        for label, chosen in candidates(self.facts, start["name"]).items():
            yield self._cell(label, partial(self._fine_tuned, chosen))

    def start(self) -> dict[str, Any]:
        """Return the record of the best closed form that can be fine-tuned."""
        rows = [
            read(self.path(f"start/{name}"))
            for name in backbones_for(self.facts)
            if name != "linear" or self.facts.items <= TRAINED
        ]
        return better_of([(row, row["per_user"]["valid"]) for row in rows])

    def path(self, cell: str) -> Path:
        """Return the file of a cell."""
        return self.folder / f"{self.name}-{self.facts.split}.{cell.replace('/', '.')}.json"

    def _cell(self, name: str, work: Callable[[], dict[str, Any]]) -> Cell:
        return Cell(name, self.path(name), work)

    def _baseline(self, name: str) -> dict[str, Any]:
        """Search a baseline's settings on validation; measure the best."""
        tried: list[tuple[float, dict[str, Any]]] = []

        def note(settings: dict[str, Any], means: dict[str, float]) -> float:
            tried.append((means[METRIC], settings))
            return means[METRIC]

        most = TRIALS.get(name, MOST)
        search_baseline(
            self.dataset, name, seed=0, device=CPU, note=note, out_of_time=lambda: len(tried) >= most
        )
        settings = max(tried, key=lambda row: row[0])[1]
        scorer, _ = fit_baseline(self.dataset, name, settings)
        return {"name": name, "settings": settings, "trials": len(tried)} | self._measured(scorer)

    def _start(self, name: str) -> dict[str, Any]:
        """Search a closed form's settings on validation; measure the best."""
        count = 0

        def note(row: Mapping[str, Any]) -> None:
            nonlocal count
            count += 1

        found = fit_closed_form(
            self.dataset,
            name,
            device="cpu",
            callback=note,
            out_of_time=lambda share: count >= share * CLOSED_FORM_TRIALS,
        )
        policy = DiffusionPolicy(found.backbone, 1).eval()
        settings = asdict(found.backbone.config)
        return {"name": name, "settings": settings, "trials": count} | self._scored(policy)

    def _fine_tuned(self, chosen: FineTuning) -> dict[str, Any]:
        """Fine-tune the best closed form."""
        start = self.start()
        policy = fitted_policy(self.dataset, start["name"], start["settings"], 1, CPU)
        env_kwargs = {"data": self.data}
        training = Training("ReFiT-Custom-v0", env_kwargs, 0, CPU)
        notes = training.fine_tune(policy, chosen, float("inf"))
        made = {"name": start["name"], "env": dict(chosen.env), "agent": asdict(chosen.agent), "notes": notes}
        return made | self._scored(policy)

    def _scored(self, policy: DiffusionPolicy) -> dict[str, Any]:
        return self._measured(policy.scorer(self.dataset.episodes))

    def _measured(self, score: ScoreFunction) -> dict[str, Any]:
        found = {split: evaluate(score, self.dataset, split) for split in ("valid", "test")}
        return {
            "means": {split: result.means()[METRIC] for split, result in found.items()},
            "per_user": {split: result.per_user[METRIC].tolist() for split, result in found.items()},
            "groups": self.dataset.groups_of(found["test"].users).tolist(),
        }


def read(path: Path) -> dict[str, Any]:
    """Return a cell's record; its users' values are arrays."""
    row: dict[str, Any] = json.loads(path.read_text("utf-8"))
    row["per_user"] = {split: np.array(values) for split, values in row["per_user"].items()}
    return row


def run(data: Sequence[str], folder: Path, seconds: float) -> bool:
    """Measure the cells that are missing; returns whether all are measured."""
    begin = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    for name in data:
        cells = Cells(name, folder)
        for cell in cells:
            if cell.path.exists():
                continue
            if time.perf_counter() - begin > seconds:
                return False
            at = time.perf_counter()
            row = cell.work()
            row |= {"data": cells.name, "split": cells.facts.split, "form": cells.facts.form}
            row |= {"cell": cell.name, "seconds": time.perf_counter() - at}
            write_json(cell.path, row)
            means = {split: round(value, 4) for split, value in row["means"].items()}
            print(f"{cell.path.stem}: {means}, {row['seconds']:.0f} s", flush=True)
    return True


def chosen_by_others(gains: Mapping[str, Mapping[str, float]], without: str) -> str | None:
    """Return the candidate with the largest mean relative validation gain over all sets but one.

    None if no candidate's mean is more than one standard error (over the sets) above 0.

    Args:
        gains: data set -> candidate -> validation gain over the start, relative to the start.
        without: the data set that does not choose.

    Example:
        >>> gains = {"a": {"x": 0.1, "y": 0.0}, "b": {"x": 0.2, "y": -0.1}, "c": {"x": 0.0, "y": 0.9}}
        >>> chosen_by_others(gains, "c"), chosen_by_others(gains, "a")
        ('x', None)
    """
    others = [row for name, row in gains.items() if name != without]
    names = [name for name in others[0] if all(name in row for row in others)] if others else []
    best, value = None, 0.0
    for name in names:
        values = np.array([row[name] for row in others])
        error = values.std(ddof=1) / np.sqrt(values.size) if values.size > 1 else 0.0
        if values.mean() > max(error, value):
            best, value = name, float(values.mean())
    return best


def table(folder: Path, command: str) -> None:
    """Print the table, and write ``leave_one_set_out.json``."""
    rows = [read(path) for path in sorted(folder.glob("*.json"))]
    sets: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        sets.setdefault((row["form"], row["split"], row["data"]), []).append(row)
    out, details = [], []
    for form, split, name in sorted(sets):
        kind = {key[2]: value for key, value in sets.items() if key[:2] == (form, split)}
        gains = {data: _gains(value) for data, value in kind.items() if _gains(value)}
        if name in gains:
            found = _line(kind[name], chosen_by_others(gains, name))
            details.append({"data": name, "split": split, "form": form, **found[1]})
            out.append([f"{name}, {'by time' if split == 'time' else 'at random'}", *found[0]])
    report(
        "leave_one_set_out",
        title="Each set left out in turn: fine-tunings that the others chose",
        command=command,
        columns=[
            *("data", "best baseline", "test NDCG@20", "closed form", "test NDCG@20"),
            *("fine-tuning that the others chose (its validation gain)", "policy, test NDCG@20"),
            "less the baseline, 95 % over users",
        ],
        rows=out,
        sets=details,
    )


def _starts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["cell"].startswith("start/")]


def _gains(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the validation gain of each fine-tuning over its start, relative to it."""
    starts = {row["name"]: row["means"]["valid"] for row in _starts(rows)}
    tuned = [row for row in rows if "env" in row]
    return {row["cell"]: row["means"]["valid"] / starts[row["name"]] - 1 for row in tuned}


def _line(rows: Sequence[dict[str, Any]], rule: str | None) -> tuple[list[str], dict[str, Any]]:
    """Return the cells of a data set's line, and its figures."""
    starts, floor = _starts(rows), [row for row in rows if row["cell"].startswith("baseline/")]
    start = better_of([(row, row["per_user"]["valid"]) for row in starts])
    baseline = max(floor, key=lambda row: row["means"]["valid"])
    policy, said = start, "the closed form"
    tuned = next((row for row in rows if row["cell"] == rule), None)
    if tuned is not None:
        gain = Gain.of(start["per_user"]["valid"], tuned["per_user"]["valid"])
        said = f"{rule} ({gain})"
        policy = tuned if gain.clear else start
    test = (row["per_user"]["test"] for row in (baseline, policy))
    found = paired_bootstrap(*test, groups=baseline.get("groups"))  # older cells have none
    values = {
        "baseline": {"name": baseline["name"], **baseline["means"]},
        "closed_form": {"name": start["name"], **start["means"]},
        "rule": rule,
        "policy": policy["means"],
        "paired_bootstrap": found.to_json(),
    }
    cells = [
        baseline["name"],
        f"{baseline['means']['test']:.4f}",
        start["name"],
        f"{start['means']['test']:.4f}",
        said,
        f"{policy['means']['test']:.4f}",
        f"{found.mean_difference:+.4f} [{ends_in_words(found.low, found.high, ', ')}]",
    ]
    return cells, values


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure cells, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--data", nargs="+", default=[], help="names or folders of data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cells")
    parser.add_argument("--seconds", type=float, default=280.0, help="begin no cell after this time")
    given = parser.parse_args(arguments)
    if given.what == "run":
        print("all measured" if run(given.data, given.out, given.seconds) else "not all measured")
    else:
        table(given.out, "python -m benchmarks.leave_one_set_out table --out FOLDER")


if __name__ == "__main__":
    main()
