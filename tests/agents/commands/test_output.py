"""What the commands print: JSON under ``--json``, and bars and colours on terminals alone."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from agents.cli import COMMANDS, main
from agents.commands.demo_run import sentence
from agents.commands.finetune_run import outcome_of
from agents.commands.options import Command
from agents.console import console, shows_progress
from agents.runs.folder import RunFolder
from refit_env.settings import field_types

SYNTHETIC = ["--env", "ReFiT-Synthetic-v0"]
SMALL = ["--device", "cpu", "--epochs", "2", "--backbone-options", "hidden=[8]", "num_steps=5"]
SHORT = ["--device", "cpu", "--iterations", "2", "--eval-every", "1", "--users-per-batch", "8"]


def parsed(words: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    """The one JSON document on the standard output; NaN is none."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(capsys.readouterr().out, parse_constant=refuse)


def test_pretrain_finetune_and_evaluate_print_their_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    report = parsed(["pretrain", *SYNTHETIC, "--out", str(base), *SMALL], capsys)
    assert report["run"] == str(base) and report["env"] == "ReFiT-Synthetic-v0"
    written = json.loads((base / "metrics.json").read_text())
    assert {name: report[name] for name in written} == written
    report = parsed(["finetune", "--init", str(base), "--out", str(tuned), *SHORT], capsys)
    written = json.loads((tuned / "metrics.json").read_text())
    assert {name: report[name] for name in written} == written
    assert report["outcome"] == outcome_of(written["training"], "users", RunFolder(tuned).config)
    report = parsed(["evaluate", "--run", str(tuned)], capsys)
    assert report["metrics"]["ndcg@20"] == pytest.approx(written["after"]["ndcg@20"])


def test_a_closed_form_prints_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["l2=50", "recency=none", "score_power=0", "oldest=0.5"]
    words = [
        "pretrain",
        *SYNTHETIC,
        "--backbone",
        "linear",
        "--device",
        "cpu",
        "--backbone-options",
        *settings,
    ]
    report = parsed([*words, "--out", str(tmp_path / "linear")], capsys)
    assert report["training"]["settings"]["l2"] == 50


def test_demo_prints_its_report_and_its_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [
        "--seeds",
        "1",
        "--pretrain.epochs",
        "1",
        "--agent.iterations",
        "1",
        "--agent.users-per-batch",
        "8",
    ]
    report = parsed(["demo", "--out", str(tmp_path), *few], capsys)
    assert len(report["seeds"]) == 1 and report["sentence"] == sentence(report["seeds"])
    assert main(["demo", "--out", str(tmp_path), *few]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == report["sentence"] and not err  # no progress bars: stderr is no terminal
    assert "control  diffrec, trained by its own loss on the information that the reward has" in out


def test_data_commands_print_their_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REFIT_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path / "cache"))
    size = ["--users", "30", "--items", "40", "--clusters", "4"]
    made = parsed(["data", "synthesize", "--out", str(tmp_path / "made"), *size], capsys)
    assert (made["users"], made["items"]) == (30, 40)
    (tmp_path / "log.csv").write_text(
        "user,item\n" + "".join(f"{u},{i}\n" for u in range(9) for i in range(9))
    )
    done = parsed(["data", "prepare", "shop", "--source", str(tmp_path / "log.csv")], capsys)
    assert done["dataset"] == "shop" and done["users"] == 9 and list(done["rows"].values())[-1] == 81
    listed = parsed(["data", "list"], capsys)
    assert listed["data_homes"][0] == str(tmp_path / "home")
    rows = {row["name"]: row for row in listed["datasets"]}
    assert rows["shop"]["here"] == "yes" and rows["shop"]["interactions"] == 81
    assert rows["ml-1m"]["here"] == "no" and rows["ml-1m"]["page"].startswith("http")
    info = parsed(["data", "info", "shop"], capsys)
    assert info["train"] == done["train"] and "density" in info["facts"]
    assert parsed(["data", "info", "anime"], capsys)["facts"]["here"] == "no"
    assert any(row["recipe"] == "diff-poi" for row in parsed(["data", "list", "--recipes"], capsys))


def test_a_fine_tuning_that_never_rose_says_so_with_advice(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "--init", str(pretrained), "--out", str(tmp_path / "still"), *SHORT]
    assert main([*words, "--learning-rate", "0"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(
        "Validation never rose: in 2 iterations valid ndcg@20 was never better than the start's"
    )
    assert "--learning-rate" in last and "--relevance" in last


def test_progress_bars_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not shows_progress(quiet=False)  # pytest's stderr is none
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert shows_progress(quiet=False) and not shows_progress(quiet=True)
    monkeypatch.setenv("TERM", "dumb")
    assert not shows_progress(quiet=False)


def test_colours_follow_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.text import Text

    def printed(**variables: str) -> str:
        with monkeypatch.context() as patch:
            for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
                patch.delenv(name, raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            console().print(Text("gain", style="red"))
        return capsys.readouterr().out

    assert printed(TERM="xterm") == "gain\n"  # no terminal
    assert "\x1b[31m" in printed(TERM="xterm", FORCE_COLOR="1")
    assert printed(TERM="xterm", FORCE_COLOR="1", NO_COLOR="1") == "gain\n"
    assert printed(TERM="dumb", FORCE_COLOR="1") == "gain\n"


def test_help_has_no_colours_where_they_are_not_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert main(["evaluate", "--help"]) == 0
    assert "\x1b[" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["evaluate", "--help"]) == 0
    assert "\x1b[" not in capsys.readouterr().out


def test_every_command_has_the_option() -> None:
    for module, _ in COMMANDS.values():
        import_module(module)
    commands = Command.__subclasses__()
    assert len(commands) >= len(COMMANDS)
    without = {command.__name__ for command in commands if "json" not in field_types(command)}
    assert without == {"Serve"}, "a service answers in JSON over HTTP"
