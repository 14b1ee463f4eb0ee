from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILT = [ROOT / "docs" / "api", ROOT / "docs" / "_build"]
DOCS = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if not any(map(page.is_relative_to, BUILT))),
    ROOT / "CONTRIBUTING.md",
]


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / name)))


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> Any:
    return script("make_results.py", monkeypatch)


@pytest.mark.parametrize(
    "script", ["make_env_pages.py", "make_registry_pages.py", "make_results.py", "make_leaderboards.py"]
)
def test_generated_pages_are_up_to_date(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / script), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_id_has_a_page() -> None:
    from refit_env import env_ids

    for env_id in env_ids():
        page = (ROOT / "docs" / "environments" / f"{env_id}.md").read_text()
        for part in (
            "Description",
            "Action Space",
            "Observation Space",
            "Rewards",
            "Episode End",
            "Arguments",
        ):
            assert f"## {part}" in page, (env_id, part)


def test_links_between_pages_lead_somewhere() -> None:
    for page in DOCS:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_headings_go_one_level_deeper_at_a_time() -> None:
    for page in DOCS:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        levels = [len(found) for found in re.findall(r"^(#+) ", text, flags=re.MULTILINE)]
        steps = [after - before for before, after in pairwise(levels)]
        assert max(steps, default=0) <= 1, page


def test_make_targets_in_the_documentation_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in DOCS:
        text = page.read_text()
        blocks = "".join(re.findall(r"^```\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
        named = re.findall(r"^make ([a-z-]+)", blocks, flags=re.MULTILINE) + re.findall(
            r"`make ([a-z-]+)", text
        )
        for target in named:
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{page}: make {target}"


def test_the_readme_is_one_screen_that_begins_with_an_episode() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    first = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0]
    assert "gym.make(" in first and len([line for line in first.splitlines() if line.strip()]) <= 12
    picture = ROOT / "docs" / "images" / "chain.png"
    assert picture.stat().st_size < 200_000 and "](docs/images/chain.png)" in text


def test_results_become_tables(results: Any, tmp_path: Path) -> None:
    result = {
        "title": "Speed",
        "command": "python -m benchmarks.speed",
        "note": "Two cores.\nOne thread.",
        "table": {"columns": ["what", "figure"], "rows": [["ours", 2.0], ["theirs", 1.0]]},
    }
    (tmp_path / "b.json").write_text(json.dumps(result))
    (tmp_path / "a.json").write_text(json.dumps({"raw": [1, 2]}))  # raw figures: no table, no section
    found = results.load_results(tmp_path)
    [text] = map(results.section, found)
    page = results.fill(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n", text)
    assert "## Speed\n\n| what | figure |\n| --- | ---: |\n| ours | 2.0 |\n| theirs | 1.0 |\n" in page
    assert "Made by `python -m benchmarks.speed`.\n\n- Two cores.\n- One thread.\n" in page
    assert page.startswith("before\n") and page.endswith("\nafter\n") and "old" not in page
    assert results.fill(page, text) == page


def test_every_result_has_its_part_and_a_link_to_it(results: Any) -> None:
    found = results.load_results(ROOT / "benchmarks" / "results")
    assert {result["part"] for result in found} <= results.PARTS.keys()
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    headings = {results.anchor(title) for title in re.findall(r"^### (.*)$", page, flags=re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) == headings


def test_studies_have_several_tables_and_a_figure(results: Any, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir(parents=True)
    result = {
        "title": "Algorithms",
        "command": "refit compare algorithms",
        "tables": [
            {"title": "On A", "columns": ["who", "figure"], "rows": [["ours", 2.0]]},
            {"title": "On B", "columns": ["who", "figure"], "rows": [["ours", 3.0]]},
        ],
        "figure": "algorithms.png",
    }
    (folder / "algorithms.json").write_text(json.dumps(result))
    (folder / "algorithms.jsonl").write_text(json.dumps(result))  # records, say
    found = results.load_results(folder)
    assert len(found) == 1
    text = results.section(found[0], tmp_path / "docs" / "results.md")
    assert "**On A**\n\n| who | figure |\n| --- | ---: |\n| ours | 2.0 |\n\n**On B**" in text
    assert "![Algorithms](../results/algorithms.png)" in text
    assert text.endswith(
        "Made by `refit compare algorithms`. With `--finished --out benchmarks/results` a clone shows it "
        "from its records, and runs nothing."
    )


def test_tables_name_what_they_were_measured_on(results: Any) -> None:
    result: dict[str, Any] = {
        "title": "Fine-tuning on ReFiT-Anime-v0 (test)",
        "command": "refit compare --env ReFiT-Yelp2018-v0",
        "table": {
            "columns": ["environment, model", "figure"],
            "rows": [["Yelp2018, diffrec", 2.0], ["Yelp, recdiff", 1.0], ["ML1M, diffrec", 1.0], ["x", 0]],
        },
    }
    text = results.section(result)
    assert "## Fine-tuning on ReFiT-Anime-v0 (sample) (test)" in text
    for name in ("Yelp2018 (partial), diffrec", "Yelp (other filter), recdiff", "ML1M, diffrec", "x"):
        assert f"\n| {name} | " in text
    below = text.split("Measured on:")[1]
    rows = [line.split(" | ") for line in below.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == [
        "| ml-1m", "| yelp2018 (partial)", "| anime (sample)", "| yelp (other filter)",
    ]  # fmt: skip
    assert rows[1][1:4] == ["13,455", "37,878", "776,821"] and rows[1][4].startswith("49.8 %, partial: ")
    assert "LightGCN (arXiv 2002.02126): 31,668 users, 38,048 items, 1,561,406 interactions" in rows[1]
    assert "Made by `refit compare --env ReFiT-Yelp2018-v0`." in text.splitlines()[-1]
    known = results.measured()["yelp2018"].fingerprint
    assert results.section(result | {"provenance": {"data": {"yelp2018": [known]}}}) == text
    with pytest.raises(ValueError, match=r"measured on yelp2018 000000000000, measured\.json states"):
        results.section(result | {"provenance": {"data": {"yelp2018": ["0" * 64]}}})


def test_pages_of_environments_name_what_was_measured() -> None:
    page = (ROOT / "docs" / "environments" / "ReFiT-Yelp2018-v0.md").read_text()
    assert "| as published | LightGCN (arXiv 2002.02126): 31,668 users" in page
    assert "| tables measured on | 13,455 users, 37,878 items, 776,821 interactions: 49.8 %, partial" in page


def test_bad_results_are_refused(results: Any) -> None:
    with pytest.raises(ValueError, match="cells"):
        results.markdown_table(["a", "b"], [["x"]])
    with pytest.raises(ValueError, match="once each"):
        results.fill("no markers", "")


def test_the_readme_shows_a_choice_of_rows_with_their_controls(
    results: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sum(len(rows) for _, rows in results.HEADLINE.values()) <= 12
    made = {"title": "On A", "columns": ["model", "NDCG@20", "Recall@20", "NDCG@20 gain, %", "seconds"]}
    table = made | {"rows": [["start", 1, 2, "", 9], ["+ RL", 3, 4, "+5", 8]]}
    result = {"title": "Study", "tables": [table]}
    chosen = {"On A": ("ML1M", ["+ RL", "start"])}
    monkeypatch.setitem(results.headline.__globals__, "HEADLINE", chosen)
    assert results.headline([result]).splitlines()[2:] == [
        "| ML1M, + RL | 3 | 4 | +5 |", "| ML1M, start | 1 | 2 |  |",
    ]  # fmt: skip
    chosen["On A"] = ("", ["other"])
    with pytest.raises(ValueError, match=r"the row 'other', which 'On A' has not: start, \+ RL"):
        results.headline([result])
    with pytest.raises(ValueError, match="rows of 'On A', which no file"):
        results.headline([])


def test_every_registered_name_has_a_page() -> None:
    from agents.algorithms.registry import ALGORITHMS
    from refit_env.backbones import backbone_names
    from refit_env.rewards import reward_names

    groups = {"rewards": reward_names(), "backbones": backbone_names(), "algorithms": [*ALGORITHMS]}
    for group, names in groups.items():
        index = (ROOT / "docs" / group / "index.md").read_text()
        for name in names:
            assert f"[{name}]({name}.md)" in index, name
            assert f"# {name}\n" in (ROOT / "docs" / group / f"{name}.md").read_text(), name


def test_docstrings_become_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    docstrings = script("docstrings.py", monkeypatch)
    text = """Count ``hits``.

    The sum is::

        r = a * b

    Args:
        scores: (B, I) float,
            higher is better.
        k: list length.

    Returns:
        (B,) counts.

    Example:
        >>> 1 + 1
        2
    """
    assert docstrings.google(text) == (
        "Count `hits`.\n\nThe sum is:\n\n```text\nr = a * b\n```\n\n"
        "**Args**\n\n- `scores`: (B, I) float, higher is better.\n- `k`: list length.\n\n"
        "**Returns**\n\n(B,) counts.\n\n**Example**\n\n```python\n>>> 1 + 1\n2\n```"
    )
    assert docstrings.first_sentence("One ``x``\nhere. Two.") == "One `x` here."


def test_fields_have_their_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    from agents.algorithms.registry import algorithm
    from refit_env.backbones import backbone_class, backbone_names

    docstrings = script("docstrings.py", monkeypatch)
    for cls in [algorithm("ppo").config_class, *(backbone_class(n).config_class for n in backbone_names())]:
        table = docstrings.settings_table(cls)
        assert not re.findall(r"^\| `\w+` \| .* \|  \|$", table, flags=re.MULTILINE), (cls, table)


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("myst_parser", reason="the site needs the extra 'docs': make docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(ROOT / "docs")]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").is_file() and (tmp_path / "api" / "index.html").is_file()
