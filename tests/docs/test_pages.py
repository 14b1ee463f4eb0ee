from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]


@pytest.fixture(scope="module")
def results() -> Any:
    return SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "make_results.py")))


@pytest.mark.parametrize("script", ["make_env_pages.py", "make_results.py"])
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


def test_commands_in_the_documentation_exist() -> None:
    from agents.cli import COMMANDS

    makefile = (ROOT / "Makefile").read_text()
    for page in DOCS:
        text = page.read_text()
        for command in re.findall(r"^refit (\w+)", text, flags=re.MULTILINE):
            assert command in COMMANDS, f"{page.relative_to(ROOT)}: refit {command}"
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{page}: make {target}"


def test_the_readme_examples_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 1
    first = next(block for block in blocks if "gym.make(" in block)
    assert len([line for line in first.splitlines() if line.strip()]) <= 12
    subprocess.run([sys.executable, "-W", "error", "-c", first], check=True, capture_output=True)


@pytest.mark.slow
def test_the_other_readme_examples_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    for block in blocks:
        compile(block, "README.md", "exec")
        if "runs/elbo" not in block:  # those need a run of yours; examples/sb3_ppo.py is tested
            subprocess.run([sys.executable, "-c", block], check=True, capture_output=True)


def test_results_become_tables(results: Any, tmp_path: Path) -> None:
    result = {
        "title": "Speed",
        "command": "python -m benchmarks.speed",
        "note": "Two cores.",
        "table": {"columns": ["what", "figure"], "rows": [["ours", 2.0], ["theirs", 1.0]]},
    }
    (tmp_path / "b.json").write_text(json.dumps(result))
    (tmp_path / "a.json").write_text(json.dumps({"raw": [1, 2]}))  # raw figures: no table, no section
    found = results.load_results(tmp_path)
    page = results.fill(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n", found)
    assert "### Speed\n\n| what | figure |\n| --- | ---: |\n| ours | 2.0 |\n| theirs | 1.0 |\n" in page
    assert "Made by `python -m benchmarks.speed`. Two cores." in page
    assert page.startswith("before\n") and page.endswith("\nafter\n") and "old" not in page
    assert results.fill(page, found) == page
    assert results.NOTHING_YET in results.fill(page, [])


def test_comparisons_have_several_tables_and_a_figure(results: Any, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "compare_algorithms"
    folder.mkdir(parents=True)
    result = {
        "title": "Algorithms",
        "command": "refit compare algorithms",
        "tables": [
            {"title": "On A", "columns": ["who", "figure"], "rows": [["ours", 2.0]]},
            {"title": "On B", "columns": ["who", "figure"], "rows": [["ours", 3.0]]},
        ],
        "figure": "curves.png",
    }
    (folder / "comparison.json").write_text(json.dumps(result))
    (folder / "other.json").write_text(json.dumps(result))  # a cell, say
    found = results.load_results(tmp_path / "results")
    assert len(found) == 1
    text = results.section(found[0], tmp_path / "docs" / "results.md")
    assert "**On A**\n\n| who | figure |\n| --- | ---: |\n| ours | 2.0 |\n\n**On B**" in text
    assert "![Algorithms](../results/compare_algorithms/curves.png)" in text
    assert text.endswith("Made by `refit compare algorithms`.")


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
    assert "### Fine-tuning on ReFiT-Anime-v0 (sample) (test)" in text
    for name in ("Yelp2018 (partial), diffrec", "Yelp (other filter), recdiff", "ML1M, diffrec", "x"):
        assert f"\n| {name} | " in text
    below = text.split("Measured on:")[1]
    rows = [line.split(" | ") for line in below.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == [
        "| ml-1m", "| yelp2018 (partial)", "| anime (sample)", "| yelp (other filter)",
    ]  # fmt: skip
    assert rows[1][1:4] == ["13,455", "37,878", "776,821"] and rows[1][4].startswith("49.8 %, partial: ")
    assert "LightGCN (arXiv 2002.02126): 31,668 users, 38,048 items, 1,561,406 interactions" in rows[1]
    assert text.endswith("Made by `refit compare --env ReFiT-Yelp2018-v0`.")
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
        results.fill("no markers", [])


def test_every_reward_is_described() -> None:
    from refit_env.rewards import reward_names

    told = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "rewards.md").read_text()))
    assert set(reward_names()) <= told
