"""``refit report``: the page of runs, what it holds, and what it refuses."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from agents.cli import main
from agents.reports.facts import Facts, command_of
from agents.runs.folder import RunFolder
from refit_env.data import save_dataset, synthesize

EVIL = "</script><img src=x onerror=alert(1)>'\"&"
QUICK = ["--quiet", "--device", "cpu", "--iterations", "4", "--eval-every", "2"]
QUICK += ["--learning-rate", "1e-2"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose ids and names hold HTML."""
    folder = tmp_path_factory.mktemp("data") / "shop"
    data = synthesize(num_users=60, num_items=50)
    users = np.array([f"{EVIL}{n}" for n in range(60)], dtype=object)
    names = np.array([f"{EVIL} item {n}" for n in range(50)], dtype=object)
    save_dataset(replace(data, name="shop", user_ids=users, item_features={"title": names}), folder)
    return folder


@pytest.fixture(scope="module")
def run(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning run on it."""
    folder = tmp_path_factory.mktemp("runs")
    small = ["--epochs", "2", "--backbone-options", "hidden=[16]", "num_steps=6"]
    start = ["pretrain", "--data", str(shop), "--out", str(folder / "elbo"), "--quiet", "--device", "cpu"]
    assert main([*start, *small]) == 0
    tuned = ["finetune", "--init", str(folder / "elbo"), "--reward", "ndcg", "--out", str(folder / "rl")]
    assert main([*tuned, *QUICK, "--relevance", "holdout"]) == 0
    return folder / "rl"


class Page(HTMLParser):
    """The tags, the texts and the data of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.data, self._in = "", "", ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = f"{tag} {dict(attrs).get('type')}" if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script application/json":
            self.data += data
        elif not self._in:
            self.text += data


def report(*words: str | Path) -> int:
    return main(["report", *map(str, words)])


def test_the_page_holds_every_part_and_nothing_from_elsewhere(run: Path, tmp_path: Path) -> None:
    assert report(run, "--out", tmp_path / "page", "--device", "cpu") == 0
    page = Page(tmp_path / "page" / "report.html")
    ids = {attrs.get("id") for _, attrs in page.tags}
    for part in ("result", "curves", "users", "shift", "monitors", "explorer", "settings"):
        assert f"run-1-{part}" in ids, part
    metrics = json.loads((run / "metrics.json").read_text())
    for when in ("before", "after"):
        assert f"{metrics[when]['ndcg@20']:.4f}" in page.text
    gain = metrics["training"]["valid_gain"]
    chosen = f"Validation chose iteration {metrics['training']['best_iteration']} by NDCG@20."
    assert f"{chosen} Its gain over the start is {gain['mean_difference']:+.4f}" in page.text
    assert "Validation gain over the start" in page.text and "two standard errors" in page.text
    fingerprint = json.loads((run / "config.json").read_text())["dataset"]["fingerprint"]
    assert fingerprint in page.text and "refit finetune --data" in page.text
    addresses = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href")]
    assert all(address is not None and address.startswith(("#", "data:")) for address in addresses)
    links = {address.removeprefix("#") for address in addresses if address and address.startswith("#")}
    assert links <= {str(name) for name in ids}
    pictures = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("aria-hidden") != "true"]
    assert len(pictures) > 6 and all(len(str(one.get("aria-label"))) > 20 for one in pictures)


def test_ids_and_names_that_hold_html_are_harmless(run: Path, tmp_path: Path) -> None:
    named = f"{EVIL}7"
    assert report(run, "--out", tmp_path, "--device", "cpu", "--users", named, "--explore", "3") == 0
    page = Page(tmp_path / "report.html")
    assert not [tag for tag, attrs in page.tags if tag == "img" or "onerror" in attrs]
    assert (tmp_path / "report.html").read_text().count("</script>") == 2  # its own
    data = json.loads(page.data)
    assert data["users"][0]["id"] == named and data["users"][0]["group"] == "chosen by --users"
    assert len(data["users"]) == 4
    assert all(name.startswith(EVIL) for name in data["items"])
    assert EVIL in page.text  # in the table of items, as text


def test_the_sentence_begins_with_the_metric_that_selects(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["training"] |= {
        "selected_on": "valid coverage@20 where ndcg@20 >= 0.9 * start",
        "best_iteration": 2,
    }
    metrics["before"]["coverage@20"], metrics["after"]["coverage@20"] = 0.5, 0.6
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics))
    first, ndcg = Facts.read(tmp_path / "run").sentence().split(". ", 1)
    assert first == "Test coverage@20 rose from 0.5000 to 0.6000 (+20.0 %; of all lists together)"
    assert ndcg == Facts.read(run).sentence() and ndcg.startswith("Test NDCG@20")


def test_json_says_what_was_written(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(run, "--out", tmp_path, "--device", "cpu", "--explore", "5", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    file = Path(found["report"])
    assert file == tmp_path / "report.html" and found["bytes"] == file.stat().st_size < 1_000_000
    [one] = found["runs"]
    assert one["finished"] and len(one["explored_users"]) == 5 and "NDCG@20" in one["result"]


def test_runs_are_shown_side_by_side(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = run.with_name("elbo")
    assert report(run, other, "--out", tmp_path, "--device", "cpu") == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert f"{run}: " in said and f"{other}: Test NDCG@20 is" in said
    page = Page(tmp_path / "report.html")
    ids = {attrs.get("id") for _, attrs in page.tags}
    assert {"overview", "run-1", "run-2", "run-1-explorer", "run-2-explorer"} <= ids
    assert "run-2-users" not in ids  # a pretrained model has no start


def test_an_unfinished_run_is_reported_as_such(run: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(run, half)
    for name in ("metrics.json", "policy.safetensors", "policy.json"):
        (half / name).unlink()
    assert report(half, "--out", tmp_path / "page") == 0
    text = Page(tmp_path / "page" / "report.html").text
    assert "This run is not finished: its log ends at iteration 4 of 4" in text
    assert "policy.safetensors yet" in text and "Denoising explorer" not in text
    (half / "log.csv").unlink()
    assert report(half, "--out", tmp_path / "page", "--overwrite") == 0
    assert "not finished: it has no log yet" in Page(tmp_path / "page" / "report.html").text


def test_a_start_that_is_gone_is_named_on_the_page(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    config = json.loads((moved / "config.json").read_text())
    config["init"] = str(tmp_path / "nowhere")
    (moved / "config.json").write_text(json.dumps(config))
    assert report(moved, "--out", tmp_path / "page", "--device", "cpu") == 0
    page = Page(tmp_path / "page" / "report.html")
    assert "The start of this run is gone" in page.text
    assert "before" not in json.loads(page.data)["users"][0]


def break_data(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["data"] = str(run / "gone")
    (run / "config.json").write_text(json.dumps(config))


def other_data(run: Path) -> None:
    folder = run.parent / "other"
    save_dataset(synthesize(num_users=60, num_items=50, seed=5), folder)
    config = json.loads((run / "config.json").read_text())
    config["data"] = str(folder)
    (run / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (break_data, r"gone.*--without-data for a report from the run folder alone"),
        (other_data, r"was trained on 'shop'.*--without-data"),
        (
            lambda run: (run / "config.json").unlink(),
            r"neither the folder of a run \(config.json is missing\) nor that of a study",
        ),
        (lambda run: (run / "config.json").write_text("{"), r"config.json"),
        (lambda run: (run / "metrics.json").write_text("[]"), r"metrics.json"),
    ],
    ids=["data-gone", "other-data", "no-run", "config", "metrics"],
)
def test_what_cannot_be_reported_is_refused_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], said: str
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(run, bad)
    spoil(bad)
    assert report(bad, "--out", tmp_path / "page", "--device", "cpu") == 2
    error = capsys.readouterr().err.strip()
    assert re.search(said, error) and "\n" not in error
    assert not (tmp_path / "page").exists()


def test_without_data_the_folder_alone_is_reported(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(run, alone)
    break_data(alone)
    assert report(alone, "--out", tmp_path / "page", "--without-data") == 0
    text = Page(tmp_path / "page" / "report.html").text
    assert "Left out by --without-data" in text and "Before and after" in text


def test_out_is_never_replaced_by_accident(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(run, "--out", tmp_path, "--without-data") == 0
    before = (tmp_path / "report.html").read_bytes()
    assert report(run, "--out", tmp_path, "--device", "cpu") == 2
    assert "--out" in capsys.readouterr().err and (tmp_path / "report.html").read_bytes() == before
    (tmp_path / "file").write_text("mine")
    assert report(run, "--out", tmp_path / "file") == 2
    assert "is a file" in capsys.readouterr().err and (tmp_path / "file").read_text() == "mine"


def test_wrong_users_and_runs_on_other_data_are_named(
    run: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", tmp_path / "page", "--device", "cpu"]
    assert report(run, *out, "--users", "nobody") == 2
    assert re.search("--users: unknown user 'nobody'", capsys.readouterr().err)
    assert report(run, *out, "--users", "7", "--without-data") == 2
    assert "--users needs the data" in capsys.readouterr().err
    assert report(run, pretrained, *out) == 2
    error = capsys.readouterr().err
    assert "is on shop" in error and f"{pretrained} on synthetic" in error
    assert report(*out) == 2
    assert "what to report?" in capsys.readouterr().err
    assert report(tmp_path / "nowhere", *out) == 2
    assert "no run folder" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    "more",
    [
        [],
        "--no-share-first-step|--eta|0.5|--reward|ndcg=1,coverage=0.5".split("|"),
        "--constraint|ndcg@20 >= 0.9 * start|--relevance-options|fraction=0.3|--reward|racs|--reward-options|"
        "alpha=0.3|--select|coverage@20 where ndcg@20 >= 0.5 * start".split("|"),
    ],
)
def test_the_command_repeats_the_run(run: Path, tmp_path: Path, more: list[str]) -> None:
    again = tmp_path / "again"
    start = ["finetune", "--init", str(run.with_name("elbo")), "--out", str(again), "--relevance", "holdout"]
    assert main([*start, *QUICK, *more]) == 0
    words = shlex.split(command_of(RunFolder(again).config))
    assert words[:2] == ["refit", "finetune"] and words[words.index("--iterations") + 1] == "4"
    assert "--pairs" not in words  # as by default
    assert main([*words[1:], "--out", str(tmp_path / "twice"), "--quiet", "--device", "cpu"]) == 0
    first, second = RunFolder(again).config, RunFolder(tmp_path / "twice").config
    assert {n: v for n, v in first.items() if n != "out"} == {n: v for n, v in second.items() if n != "out"}


def test_the_command_repeats_a_pretraining(run: Path, tmp_path: Path) -> None:
    elbo = RunFolder(run.with_name("elbo")).config
    words = shlex.split(command_of(elbo))
    assert main([*words[1:], "--out", str(tmp_path / "twice"), "--quiet", "--device", "cpu"]) == 0
    assert RunFolder(tmp_path / "twice").config == elbo
