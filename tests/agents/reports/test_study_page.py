from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.cli import main
from agents.experiments.per_user import pack
from agents.reports.study_page import (
    KINDS,
    fronts,
    gains,
    grouped,
    levels,
    read_study_files,
    result_of,
    study_page,
    study_records,
)
from agents.runs.files import RunError
from refit_env.errors import DataError

EVIL = "</script><b>study"


def record(variant: str, seed: int, level: float, gain: float = 0.0, **more: Any) -> dict[str, Any]:
    values = np.clip(np.linspace(0, 0.5, 40) + gain * (np.arange(40) % 2), 0, 1)
    parent = {} if variant == "pretrained" else {variant: {"parent": "pretrained"}}
    return {
        "key": f"E_{variant}_seed{seed}",
        "settings": parent,
        "env": "E",
        "model": "diffrec",
        "variant": variant,
        "seed": seed,
        "split": "test",
        "test": {"ndcg@20": level},
        "curve": {"steps": [0.0, 10.0], "valid/ndcg@20": [0.1, level]},
        "per_user": {"ndcg@20": pack(values)},
    } | more


@pytest.fixture
def records() -> list[dict[str, Any]]:
    runs = [record("pretrained", seed, 0.2 + seed / 100) for seed in range(3)]
    return runs + [record("reinforce", seed, 0.3 + seed / 100, 0.25) for seed in range(3)]


def write(folder: Path, records: list[dict[str, Any]], report: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    if report is not None:
        (folder / "mine.json").write_text(json.dumps(report))
    return path


def test_levels_curves_and_gains_are_of_the_records(records: list[dict[str, Any]]) -> None:
    groups = grouped(records)
    assert result_of(groups) == "Highest mean NDCG@20: reinforce on E (0.3100, 3 seeds)."
    [chart] = levels(groups)
    assert "reinforce: 0.31 (" in chart.svg and chart.svg.index("reinforce") < chart.svg.index("pretrained")
    [gain] = gains(groups)
    assert gain.title == "E: reinforce over pretrained"
    counts = [float(text) for text in re.findall(r"users: ([0-9.]+)</title>", gain.svg)]
    assert sum(counts) == 20  # every second user gains


def test_points_of_a_study_of_fronts_are_drawn() -> None:
    point = {"method": "mmr", "name": "mmr 0.3", "test": {"ndcg@20": 0.5, "coverage@20": 0.6}}
    start = point | {"method": "start", "name": "start"}
    far = point | {"name": "mmr 9", "test": {"ndcg@20": 0.44, "coverage@20": 0.9}}
    run = [point | {"method": method} for method in ("coverage", "coverage + mmr")]
    cells = [
        record("post-hoc", 0, 0.5, points=[start, point, far]),
        record("tuned", 0, 0.5, points=[point]),
        record("coverage", 0, 0.5, points=run),
        record("rwr-exp", 0, 0.5, points=[point | {"method": "rwr-exp"}]),
        record("fronts", 0, 0.5, goals={"coverage@20": {}}) | {"settings": {"supervised": ["rwr-exp"]}},
    ]
    [chart] = fronts([*cells, record("tuned", 1, 0.5, points=[point])])
    assert tuple(label for _, label in chart.legend) == KINDS
    assert chart.svg.count("<circle") == 6 and "re-ranking, tuned mmr 0.3:" in chart.svg
    assert "mmr 9" not in chart.svg  # below nine tenths of the start
    assert grouped(cells) == {}
    assert fronts([record("reinforce", 0, 0.5)]) == []


def test_the_page_holds_the_tables_and_says_when_there_are_none(
    records: list[dict[str, Any]], tmp_path: Path
) -> None:
    table = {"title": EVIL, "columns": ["model", EVIL], "rows": [[EVIL, "0.3"]]}
    report = {"title": EVIL, "note": EVIL, "command": "refit compare mine", "tables": [table]}
    page, sentence = study_page(read_study_files(write(tmp_path / "a", records, report)))
    assert EVIL not in page and page.count("&lt;/script&gt;&lt;b&gt;study") >= 5 and sentence in page
    assert "not finished" not in page and 'id="levels"' in page and 'id="users"' in page
    page, _ = study_page(read_study_files(write(tmp_path / "b", records)))
    assert "There is no mine.json: the study is not finished" in page


def test_a_study_is_found_by_its_folder_its_file_or_its_name(
    records: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "one", records, {"tables": []})
    for given in (path, path.with_suffix(".json"), path.parent):
        assert study_records(given) == path
    monkeypatch.chdir(tmp_path)
    named = write(tmp_path / "runs" / "compare-algorithms", records)
    assert study_records(Path("algorithms")) == named.relative_to(tmp_path)
    with pytest.raises(RunError, match="study 'racs' has no records: 'refit compare racs' writes them"):
        study_records(Path("racs"))
    assert study_records(tmp_path) is None and study_records(tmp_path / "nowhere") is None
    (path.parent / "row_groups.jsonl").write_text("")  # whose the rows are: no study
    assert study_records(path.parent) == path
    (path.parent / "other.jsonl").write_text("")
    with pytest.raises(RunError, match=r"2 studies; name one: .*mine\.jsonl, .*other\.jsonl"):
        study_records(path.parent)
    with pytest.raises(DataError, match="no finished cell"):
        read_study_files(path.parent / "other.jsonl")


def test_the_command_reports_a_study(
    records: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "study", records)
    assert main(["report", str(path.parent), "--out", str(tmp_path / "page"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["study"] == str(path) and found["result"].startswith("Highest mean NDCG@20: reinforce")
    assert Path(found["report"]).stat().st_size == found["bytes"]
    assert main(["report", str(path), str(tmp_path), "--out", str(tmp_path / "two")]) == 2
    assert "is a study, which is reported alone" in capsys.readouterr().err
    path.with_suffix(".json").write_text("[]")
    assert main(["report", str(path), "--out", str(tmp_path / "three")]) == 2
    assert f"{path.with_suffix('.json')}: is no report of a study" in capsys.readouterr().err
