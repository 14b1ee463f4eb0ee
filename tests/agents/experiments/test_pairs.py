"""Pairs of variants: differences over users and seeds, and the file's errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.experiments.pairs import pairs_table
from agents.experiments.per_user import pack
from agents.experiments.study import read_study
from agents.experiments.summary import Runs
from refit_env.errors import DataError

ENV = "ReFiT-ML100K-v0"


def runs(variant: str, values: dict[int, list[float]]) -> Runs:
    records: list[dict[str, Any]] = [
        {"key": f"{variant}{seed}", "seed": seed, "per_user": {"ndcg@20": pack(np.array(users))}}
        for seed, users in values.items()
    ]
    return Runs(ENV, "linear", variant, f"+ {variant}", "pretrained", tuple(records))


def test_a_pair_is_compared_over_the_seeds_that_both_have() -> None:
    ndcg = runs("ndcg", {0: [0.5, 0.7, 0.6], 1: [0.6, 0.8, 0.7], 2: [0.0, 0.0, 0.0]})
    racs = runs("racs", {0: [0.4, 0.5, 0.3], 1: [0.5, 0.6, 0.4]})
    table = pairs_table("Pairs", "start", [("ndcg", "racs"), ("racs", "ndcg"), ("racs", "rwr")], [ndcg, racs])
    assert table is not None
    assert table.columns == ("start", "ndcg less racs", "racs less ndcg")
    place, better, worse = table.rows[0]
    assert place == "ML100K, linear"
    assert better.startswith("+0.2000 [+0.1") and better.endswith("* (2 seeds)")
    assert worse.startswith("-0.2000 [-0.2") and worse.endswith("* (2 seeds)")
    assert "ndcg less racs: above zero on 1 of 1 start, below on 0" in table.note
    assert "racs less ndcg: above zero on 0 of 1 start, below on 1" in table.note


def test_a_single_user_has_no_interval() -> None:
    one, other = runs("ndcg", {0: [0.5], 1: [0.5]}), runs("racs", {0: [0.25], 1: [0.25]})
    table = pairs_table("Pairs", "start", [("ndcg", "racs")], [one, other])
    assert table is not None and table.rows[0][1] == "+0.2500 [-] (2 seeds)"
    assert "above zero on 0 of 1 start, below on 0" in table.note


def test_without_seeds_or_users_in_common_there_is_no_table() -> None:
    ndcg = runs("ndcg", {0: [0.5, 0.7]})
    for other in (runs("racs", {1: [0.4, 0.5]}), runs("racs", {0: [0.4, 0.5, 0.6]})):
        assert pairs_table("Pairs", "start", [("ndcg", "racs")], [ndcg, other]) is None


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("[[a, pretraind]]", "tables, 1, pairs: unknown variant 'pretraind'. Did you mean 'pretrained'"),
        ("[[a]]", "tables, 1, pairs, 1: must be a list of two variants"),
        ("[a]", "tables, 1, pairs, 1: must be a list"),
    ],
)
def test_mistakes_in_a_file(pairs: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(
        "title: Mine\nvariants:\n  pretrained: {make: pretrain}\n  a: {make: pretrain}\n"
        f"environments: {{{ENV}: {{}}}}\ntables:\n  - {{kind: pairs, title: P, pairs: {pairs}}}\n"
    )
    with pytest.raises(DataError, match=message):
        read_study(path)
