"""Leaderboards: the best first, paired over users; slices, the summary, published figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.experiments.leaderboard import (
    RESAMPLES,
    gain_of_rl,
    leaderboard_table,
    missing,
    over,
    ranked,
    slices_table,
    verdict,
)
from agents.experiments.leaders import leaders_table
from agents.experiments.per_user import pack
from agents.experiments.published import published_table
from agents.experiments.shipped import study_path
from agents.experiments.spec import Published
from agents.experiments.study import read_study
from agents.experiments.summary import Runs
from refit_env.errors import DataError
from refit_env.evaluation.statistics import paired_bootstrap

USERS = 400
COIN = np.random.default_rng(0).integers(0, 2, (3, USERS))
ENV = "ReFiT-ML1M-v0"


def group(model: str, variant: str, *seeds: Any, **made: Any) -> Runs:
    records = tuple(
        {
            "key": "k",
            "seed": n,
            "per_user": {} if v is None else {"ndcg@20": pack(v)},
            "settings": {variant: made},
        }
        for n, v in enumerate(seeds)
    )
    return Runs(ENV, model, variant, variant.upper(), "", records)


def level(mean: float) -> dict[str, Any]:
    return {"mean": mean, "low": None, "high": None}


def entry(runs: Runs, mean: float, **more: Any) -> dict[str, Any]:
    out = {"env": runs.env_id, "model": runs.model, "title": runs.title, "budget": [], "device": "cpu"}
    return out | {"test": {"ndcg@20": level(mean)}, "seconds": 3.0, "slices": {}} | more


def rows(*pairs: tuple[Runs, float]) -> Any:
    return ranked([runs for runs, _ in pairs], [entry(runs, mean) for runs, mean in pairs], "test")


LOW = group("", "ease", COIN[0] / 2)
HIGH = group("diffrec", "rl", (COIN[0] + COIN[1]) / 2, COIN[1], make="finetune", algorithm="reinforce")


def test_rows_are_ordered_by_their_means_with_their_differences_from_the_best() -> None:
    table = leaderboard_table("Best", "model", ("ndcg@20", "seconds"), rows((LOW, 0.25), (HIGH, 0.5)))
    assert table.columns == ("model", "NDCG@20", "seconds", "from the best, paired 95 %")
    assert [line[0] for line in table.rows] == ["diffrec: RL", "EASE"] and table.rows[0][3] == ""
    best = (COIN[0] + COIN[1]) / 4 + COIN[1] / 2
    expected = paired_bootstrap(best, COIN[0] / 2, resamples=RESAMPLES)
    assert table.rows[1][3].startswith(f"{expected.mean_difference:+.4f} [{expected.low:+.4f}, ")
    assert table.rows[1][3].endswith(" *")


def test_rows_without_values_of_single_users_have_no_difference() -> None:
    old, few = group("", "old", None), group("", "few", COIN[0][:9])
    found = rows((LOW, 0.3), (old, 0.2), (few, 0.1))
    assert over(found, found[0]).found == [None, None, None]
    old_first = rows((old, 0.5), (LOW, 0.3), (HIGH, 0.2))
    table = leaderboard_table("Best", "model", (), old_first)
    assert table.columns[-1] == "from EASE, paired 95 %"
    assert [bool(line[-1]) for line in table.rows] == [False, False, True]


def test_a_row_is_paired_over_the_seeds_that_hold_single_users() -> None:
    first, third = COIN[0] / 2, (COIN[1] + COIN[2]) / 2
    mixed, whole = group("", "mixed", first, None, third), group("", "whole", first, third)
    found = rows((HIGH, 0.5), (mixed, 0.3), (whole, 0.2))
    assert np.allclose(found[1].users(), (first + third) / 2, atol=1e-4)
    paired = over(found, found[0]).found
    assert paired[1] == paired[2] is not None


def test_the_verdict_is_made_from_the_numbers() -> None:
    text = verdict(rows((LOW, 0.25), (HIGH, 0.5)))
    assert text.startswith("First by its mean: diffrec: RL (NDCG@20 0.5000), of this project, with RL. ")
    assert "The best baseline, EASE (0.2500), has place 2 of 2: -0.2" in text
    assert text.endswith("which does not contain zero.")
    assert "a baseline. The best row of this project, diffrec: RL (0.1000)" in verdict(
        rows((LOW, 0.25), (HIGH, 0.1))
    )
    assert verdict(rows((LOW, 0.25))).endswith("a baseline. No row of this project is measured here yet.")


def test_the_verdict_of_a_single_user_is_not_certain() -> None:
    few = group("", "ease", np.array([0.25])), group("diffrec", "rl", np.array([0.5]))
    found = rows((few[0], 0.25), (few[1], 0.5))
    assert verdict(found).endswith(": -0.2500; no interval, since all is of one user or session.")
    assert leaderboard_table("Best", "model", (), found).rows[1][-1] == "-0.2500 [-]"


def test_the_gain_of_rl_over_its_own_start_is_stated() -> None:
    def said(mean: float, sure: bool) -> str:
        gain = {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "excludes_zero": sure}
        made = ranked([LOW, HIGH], [entry(LOW, 0.2), entry(HIGH, 0.1, difference={"ndcg@20": gain})], "test")
        return gain_of_rl(made)

    assert said(0.02, True) == (
        "With RL diffrec: RL is the best; over its own start it has +0.0200 ± 0.0100 * NDCG@20: a gain."
    )
    assert said(-0.02, True).endswith(": a loss.") and said(0.0, False).endswith("no change that is certain.")
    assert gain_of_rl(rows((LOW, 0.25))) == "" == gain_of_rl(rows((HIGH, 0.5)))
    records = tuple({**record, "best_at": place} for place, record in enumerate(HIGH.records))
    gain = {"mean": 0.0, "low": -0.01, "high": 0.01, "excludes_zero": False}
    kept = replace(HIGH, records=records)
    made = ranked([LOW, kept], [entry(LOW, 0.2), entry(kept, 0.1, difference={"ndcg@20": gain})], "test")
    assert gain_of_rl(made).endswith("certain (with 1 of 2 seeds validation kept the start).")


def test_what_is_not_measured_is_named() -> None:
    study = read_study(study_path("leaderboards"))
    text = missing(study, ENV, rows((LOW, 0.25)))
    assert text.startswith("Not measured yet: popularity, ") and "EASE" not in text


def test_slices_are_shown_where_there_are_users() -> None:
    here = {"users": 7.0, "ndcg@20": level(0.125), "recall@20": level(0.5)}
    slices = {"cold": {"users": 0.0}, "popular": here, "tail": here}
    made = ranked([LOW, HIGH], [entry(LOW, 0.2, slices=slices), entry(HIGH, 0.1)], "test")
    table = slices_table("Slices", "model", made)
    assert table.columns[1] == "popular items (7 users): NDCG@20" and len(table.columns) == 5
    assert table.rows == (("EASE", "0.1250", "0.5000", "0.1250", "0.5000"), ("diffrec: RL", "", "", "", ""))


def test_the_summary_names_the_best_row_of_each_kind() -> None:
    start = group("diffrec", "pretrained", COIN[2], make="pretrain")
    racs = group("diffrec", "racs", COIN[1], make="finetune", algorithm="reinforce", env={"reward": "racs"})
    distilled = group("diffrec", "distill", COIN[1], make="finetune", algorithm="distill")
    board = rows((LOW, 0.25), (HIGH, 0.5), (start, 0.1), (racs, 0.3), (distilled, 0.2))
    line = leaders_table("Leaders", [board]).rows[0]
    assert line[:5] == (
        ENV,
        "EASE 0.2500 (3.0 s)",
        "diffrec: DISTILL 0.2000 (3.0 s)",
        "diffrec: RACS 0.3000 (3.0 s)",
        "diffrec: RL 0.5000 (3.0 s)",
    )
    best, other = (COIN[0] + COIN[1]) / 4 + COIN[1] / 2, COIN[1]  # with and without RL
    assert line[5].startswith("+0.2") and line[6] == "-"
    assert line[7].startswith(f"{np.mean(best - other):+.4f} [-0.0") and "*" not in line[7]
    note = leaders_table("Leaders", [board]).note
    assert note == (
        "Environments: 1. First by its mean is a row of this project on 1, a baseline on 0. "
        "Ours less the best baseline: the interval over users excludes zero on 1 of 1. "
        "A row with RL is first on 1. There RL has no certain gain over its start on 1: ReFiT-ML1M-v0. "
        "There RL is above the best row of this project without RL, by an interval over users, on 0. "
        "A gain is certain if its interval over seeds is above zero."
    )
    one_side = rows((LOW, 0.25))  # no row of this project
    assert leaders_table("Leaders", [board, one_side]).note == note
    gain = {"ndcg@20": {"mean": 0.2, "low": 0.1, "high": 0.3, "excludes_zero": True}}
    sure = ranked([LOW, HIGH], [entry(LOW, 0.25), entry(HIGH, 0.5, difference=gain)], "test")
    weak = group("diffrec", "pretrained", COIN[0] * 0.0, make="pretrain")
    ahead = leaders_table("Leaders", [rows((LOW, 0.25), (HIGH, 0.5), (weak, 0.1))]).note
    assert "without RL, by an interval over users, on 1: ReFiT-ML1M-v0. " in ahead
    both = leaders_table("Leaders", [board, sure]).note
    assert "There RL has a certain gain over its start on 1: ReFiT-ML1M-v0. There RL has no certain" in both
    unknown = rows((LOW, 0.25), (group("diffrec", "rl", None), 0.5))
    assert "excludes zero on 0 of 1, no interval is known on 1. " in leaders_table("Leaders", [unknown]).note


def test_published_figures_are_beside_ours() -> None:
    ours = Runs(ENV, "", "ease", "EASE", "", ({"test": {"recall@20": 0.11, "ndcg@20": 0.2}},))
    figures = {"recall@20": 0.10, "ndcg@20": 0.2}
    one = Published("EASE", ENV, "ease", "they", figures=figures, why="more data")
    other = Published("SLIM", ENV, "slim", "they", figures=figures)
    table = published_table("Beside", "model", [one, other], [ours])
    assert table.rows == (
        ("EASE", "0.1100", "0.1000", "+10.0", "0.2000", "0.2000", "+0.0", "no", "they: more data"),
        ("SLIM", "-", "0.1000", "-", "-", "0.2000", "-", "not measured yet", "they"),
    )


def test_a_published_figure_names_what_it_is_beside(tmp_path: Path) -> None:
    text = study_path("published").read_text(encoding="utf-8")
    path = tmp_path / "study.yml"
    path.write_text(text.replace("variant: item-knn-refit", "varant: item-knn-refit"), encoding="utf-8")
    with pytest.raises(DataError, match=r"published, 1: .*'varant'"):
        read_study(path)
    path.write_text(text.replace("ndcg@20: 0.1214", "ndgc@20: 0.1214"), encoding="utf-8")
    with pytest.raises(DataError, match=r"published, 1, figures: .*'ndgc@20'"):
        read_study(path)
