"""The cells of the comparison of algorithms, made in this process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.experiments.cells import do_cell
from agents.experiments.contest import Job, plan, run_job, whose
from agents.experiments.judging import CELLS, read_results
from agents.experiments.records import Cell, CellError, read_cell
from agents.experiments.rows import BASE, ROWS, choose_rows
from agents.hyperparams.algorithms import EnvSettings
from refit_env.data import load_dataset
from refit_env.errors import DataError
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy
from refit_env.utils.atomic_io import write_json

ENV = "ReFiT-Synthetic-v0"


def planned(out: Path, names: str, **more: Any) -> dict[str, Cell]:
    cells = plan([ENV], choose_rows(names), [0], out, **more)
    return {cell.key.split("_")[1]: cell for cell in cells}


@pytest.fixture
def done(tiny: EnvSettings, finished: Path) -> dict[str, dict[str, Any]]:
    """What the finished cells hold."""
    found = {name: read_cell(finished / CELLS, cell) for name, cell in planned(finished, "elbo,ppo").items()}
    return {name: cell for name, cell in found.items() if cell is not None}


def test_cells_hold_what_the_tables_need(done: dict[str, dict[str, Any]], finished: Path) -> None:
    assert list(done) == ["none", "reinforce", "elbo", "ppo"]
    assert len({cell["checkpoint"] for cell in done.values()}) == 1
    dataset = load_dataset("synthetic")
    start = DiffusionPolicy.load(finished / "runs" / f"{ENV}_pretrained_seed0")
    means = evaluate(start.scorer(dataset), dataset, "test").means()
    for name, cell in done.items():  # by other threads, where near ties may fall the other way
        assert json.loads((finished / CELLS / f"{ENV}_{name}_seed0.json").read_text()) == cell
        assert cell["cost"]["peak_memory_mib"] > 50 and cell["cost"]["seconds"] > 0
        if name == "none":
            assert cell["test"] == pytest.approx({m: means[m] for m in cell["test"]}, abs=1e-3)
            assert "over_no_training" not in cell and cell["env_steps"] == 0
            continue
        for metric, difference in cell["over_no_training"].items():
            assert difference["before"] == pytest.approx(means[metric], abs=1e-3)
            assert difference["after"] == pytest.approx(cell["test"][metric], abs=1e-6)
    for name in (
        "reinforce",
        "ppo",
    ):  # both took what 600 steps allow: 9 iterations of 16 users, 4 steps each
        assert done[name]["env_steps"] == 576 == done[name]["curve"]["steps"][-1]
        assert done[name]["curve"]["steps"][0] == 0.0 and len(done[name]["curve"]["steps"]) == 4
        assert done[name]["curve"]["valid/ndcg@20"][0] == pytest.approx(
            done["none"]["valid"]["ndcg@20"], abs=1e-5
        )
        assert max(done[name]["curve"]["valid/ndcg@20"]) == pytest.approx(
            done[name]["valid"]["ndcg@20"], abs=1e-5
        )


def test_more_elbo_takes_the_work_that_reinforce_took(tiny: EnvSettings, finished: Path) -> None:
    long = replace(tiny, more_elbo=replace(tiny.more_elbo, epochs=10_000))
    cells = planned(finished, "elbo", settings={ENV: long})
    rival = read_cell(finished / CELLS, cells["reinforce"])
    assert rival is not None
    assert rival["cost"]["work"] == {
        "forward": 576,
        "backward": 576,
        "units": 576.0,
    }  # an environment step each
    elbo = do_cell(cells["elbo"], finished / CELLS)
    assert elbo["budget"] == {"unit": "work", "amount": 576.0}
    assert 0 <= elbo["cost"]["work"]["units"] - 576.0 < long.more_elbo.users_per_batch
    rival["cost"].pop("work")
    write_json(cells["reinforce"].path(finished / CELLS), rival)
    with pytest.raises(DataError, match=r"reinforce_seed0\.json: counts no work"):
        do_cell(cells["elbo"], finished / CELLS)


def test_settings_of_other_rows_do_not_touch_a_cell(tiny: EnvSettings, tmp_path: Path) -> None:
    before = {name: cell.settings for name, cell in planned(tmp_path, "elbo,ppo,sac").items()}
    tuned = replace(tiny, tuned={**tiny.tuned, "reinforce": {"learning_rate": 1.0}})
    after = {n: c.settings for n, c in planned(tmp_path, "elbo,ppo,sac", settings={ENV: tuned}).items()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"reinforce", "elbo"}  # more ELBO does as much work as REINFORCE
    other = {n: c.settings for n, c in planned(tmp_path, "elbo,ppo,sac", steps=700).items()}
    assert {name for name in before if before[name] != other[name]} == {"reinforce", "elbo", "ppo", "sac"}


def test_cells_of_another_budget_are_refused(done: dict[str, dict[str, Any]], finished: Path) -> None:
    cells = planned(finished, "elbo,ppo", steps=700)
    with pytest.raises(CellError, match=r"stale, steps was 600, now 700.*--redo"):
        read_results(list(cells.values()), finished, BASE, whose)
    assert read_cell(finished / CELLS, cells["none"]) == done["none"]


def test_cells_of_another_checkpoint_are_refused(done: dict[str, dict[str, Any]], finished: Path) -> None:
    cells = planned(finished, "elbo,ppo")
    assert len(read_results(list(cells.values()), finished, BASE, whose)) == 4
    write_json(cells["ppo"].path(finished / CELLS), done["ppo"] | {"checkpoint": "other"})
    with pytest.raises(ValueError, match=r"ppo_seed0\.json began from another checkpoint"):
        read_results(list(cells.values()), finished, BASE, whose)


def test_plans_are_ordered_seed_by_seed_and_refuse_mistakes(tmp_path: Path) -> None:
    cells = plan([ENV], choose_rows("ppo"), [0, 1], tmp_path)
    assert [cell.key.removeprefix(f"{ENV}_") for cell in cells] == [
        "none_seed0", "ppo_seed0", "none_seed1", "ppo_seed1",
    ]  # fmt: skip
    assert cells[1].needs == (cells[0].key,) and cells[0].needs == ()
    with pytest.raises(ValueError, match="Did you mean 'ReFiT-Synthetic-v0'"):
        plan(["ReFiT-Synthetik-v0"], choose_rows("ppo"), [0], tmp_path)
    with pytest.raises(ValueError, match="no data set of its own"):
        plan(["ReFiT-Custom-v0"], choose_rows("ppo"), [0], tmp_path)
    with pytest.raises(ValueError, match="steps=0"):
        plan([ENV], choose_rows("ppo"), [0], tmp_path, steps=0)


@pytest.mark.parametrize(("row", "message"), [("ppo", "needs a TrainerConfig"), ("sac", "needs SB3Settings")])
def test_a_row_with_another_kind_s_settings(
    row: str, message: str, tiny: EnvSettings, measured: Path
) -> None:
    with pytest.raises(TypeError, match=message):
        run_job(Job(ENV, ROWS[row], 0, measured, tiny, None))
