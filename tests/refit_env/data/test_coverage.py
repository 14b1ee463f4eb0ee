"""Tests of the data sets behind the published tables."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from refit_env.data import load_dataset, synthesize
from refit_env.data.catalog import CATALOG
from refit_env.data.coverage import PUBLISHED, differs, mark, measured, share

SCRIPT = Path(__file__).resolve().parents[3] / "docs" / "make_data_coverage.py"


def test_every_known_data_set_is_described() -> None:
    assert PUBLISHED.keys() == CATALOG.keys()
    assert measured().keys() == {*CATALOG, "synthetic"}
    for name, known in PUBLISHED.items():
        here = measured()[name]
        assert len(here.fingerprint) == 64 and share(name)
        same = (here.users, here.items, here.interactions) == (
            known.counts.users,
            known.counts.items,
            known.counts.interactions,
        )
        assert same == (known.completeness == "whole") == (not known.note) == (mark(name) == "")
        stated = CATALOG[name].counts
        assert stated is None or stated == tuple(vars(known.counts).values())


def test_a_partial_set_is_marked_as_partial() -> None:
    assert mark("yelp2018") == " (partial)" and mark("anime") == " (sample)"
    assert share("yelp2018") == "49.8 %, partial: the first 13,455 users, each whole"
    assert share("epinions").startswith("other filter: ") and share("synthetic") == "made, not published"


def test_another_data_set_with_a_measured_name_is_detected() -> None:
    here = load_dataset("synthetic")
    assert differs(here) is None and differs(replace(here, name="mine")) is None
    other = synthesize(seed=1, num_users=30, num_items=40)
    line = differs(other)
    assert line is not None and line.startswith(
        "The published tables were measured on another synthetic: 800"
    )
    assert other.fingerprint[:12] in line and measured()["synthetic"].fingerprint[:12] in line
    rows = replace(load_dataset("synthetic"), name="yelp2018")
    assert "another yelp2018 (partial): 13,455 users" in str(differs(rows))


def test_the_data_home_holds_the_measured_sets(data_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runpy.run_path(str(SCRIPT))["main"](["--check"]) == 0, capsys.readouterr().err


def test_the_check_names_what_differs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = runpy.run_path(str(SCRIPT))
    stale = replace(measured()["synthetic"], users=1)
    monkeypatch.setitem(script["main"].__globals__, "measured", lambda: {"synthetic": stale})
    monkeypatch.setitem(script["main"].__globals__, "list_datasets", lambda: {"synthetic": None})
    assert script["main"](["--check"]) == 1
    assert "synthetic is Measured(users=1, " in capsys.readouterr().err
