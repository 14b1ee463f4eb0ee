"""What the parser refuses is one line, with what would be right, however narrow the terminal is."""

from __future__ import annotations

import os

import pytest

from agents.cli import main


@pytest.mark.parametrize("columns", ["30", "200"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("tune --out x --minuts 5", "unknown option '--minuts'. Did you mean '--minutes'?"),
        ("tune --out x --zzzz", "unknown option '--zzzz'. `refit tune --help`"),
        ("finetune --out x --std 1", "unknown option '--std'. Did you mean '--exploration-std'?"),
        ("pretrain --out x --learning-rat 3 --epoch 4", "'--learning-rat'. Did you mean '--learning-rate'?"),
        ("tune --out x y", "no option accepts 'y';"),
        ("tune", "--out PATH is missing: Run folder to write, or to continue;"),
        ("export", "--run PATH and --out PATH are missing;"),
        ("data info", "an argument is missing: A name of"),
        ("tune --out", "--out needs a value;"),
        ("pretrain --env", "--env needs a value;"),
        ("pretrain --out x --settings", "--settings needs a value;"),
        ("finetune --out x --init", "--init needs a value;"),
        ("finetune --algorithm --out x", "--algorithm needs a value;"),
        ("finetune --out x --iterations abc", "--iterations: 'abc' is no whole number;"),
        ("compare frontier --steps abc", "--steps: 'abc' is no whole number;"),
        ("tune --out x --minutes five", "--minutes: 'five' is no number;"),
        ("data", "a subcommand is missing, one of list, info, prepare"),
        ("data prepar x", "unknown subcommand 'prepar'. Did you mean 'prepare'? Known: list, info, prepare"),
        ("data prepare s --source x --split tim", "--split 'tim' is none of published, random, time"),
        ("data prepare s --source x --split tim", "Did you mean 'time'? `refit data prepare --help`"),
    ],
)
def test_one_line_says_what_would_be_right(
    words: str,
    message: str,
    columns: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith("refit: error: "), err
    assert message in err and "--help` shows all" in err
    assert os.environ["COLUMNS"] == columns


@pytest.mark.parametrize("drawn", [True, False], ids=["lines", "blanks"])
def test_a_box_of_either_kind_is_read(
    drawn: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tyro._fmtlib._FORCE_UTF8_BOXES", drawn, raising=False)
    assert main(["pretrain", "--out", "x", "--epoch", "4"]) == 2
    assert "unknown option '--epoch'. Did you mean '--epochs'?" in capsys.readouterr().err


def test_help_is_printed_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--help"]) == 0
    out, err = capsys.readouterr()
    assert "--minutes FLOAT" in out and not err
