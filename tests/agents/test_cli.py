from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agents import cli
from agents.cli import main


def refit(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "agents.cli", *words], capture_output=True, text=True)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)
    assert cli.main([]) == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("refit-env 0.")


def test_a_wrong_command_gets_a_did_you_mean_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["finetun"]) == 2
    err = capsys.readouterr().err
    assert "Did you mean 'finetune'?" in err and "Traceback" not in err


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from agents.cli import main; main(['--help']);"
        "assert not {'torch', 'pandas', 'tyro', 'gymnasium'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), FileNotFoundError("gone"), PermissionError("not yours")]
)
def test_mistakes_are_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str, words: object) -> int:
        raise error

    monkeypatch.setattr(cli, "run_command", fail)
    monkeypatch.delenv("REFIT_DEBUG", raising=False)
    assert cli.main(["demo"]) == 2
    assert capsys.readouterr().err == f"refit: error: {error}\n"
    monkeypatch.setenv("REFIT_DEBUG", "1")
    with pytest.raises(type(error)):
        cli.main(["demo"])


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, words: object) -> int:
        raise KeyError("bug")

    monkeypatch.setattr(cli, "run_command", fail)
    with pytest.raises(KeyError):
        cli.main(["demo"])


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(name: str, words: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_command", stop)
    assert cli.main(["demo"]) == 130
    assert capsys.readouterr().err == "refit: interrupted\n"


def test_a_thread_that_finds_the_disk_full_prints_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (OSError(28, "No space left on device"), KeyError("bug")):
        failure = threading.ExceptHookArgs((type(error), error, None, None))
        cli._failed_thread(failure)
        assert ("KeyError" in capsys.readouterr().err) is isinstance(error, KeyError)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(2, "No such file or directory", "/proc/x"),
            "/proc/x: No such file or directory; choose a path that is there, or",
        ),
        (
            OSError(13, "Permission denied", "/root/x"),
            "/root/x: Permission denied; choose a",
        ),
        (OSError(5, "Input/output error", "x"), "x: Input/output error\n"),
        (OSError("no number"), "no number\n"),
    ],
)
def test_what_the_system_refuses_is_one_line_without_its_number(
    error: OSError, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(name: str, words: object) -> int:
        raise error

    monkeypatch.setattr(cli, "run_command", refuse)
    assert cli.main(["demo"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"refit: error: {message}") and err.count("\n") == 1


def test_commands_that_are_not_divided_refuse_several_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert cli.main(["evaluate", "--run", "nowhere"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        "refit: error: refit evaluate is not divided among processes, pretrain, finetune are"
    )


@pytest.mark.parametrize("words", [["--out", ""], ["--out="]])
def test_an_empty_folder_is_not_the_current_one(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "--env", "ReFiT-Synthetic-v0", "--backbone", "linear", *words]) == 2
    assert "--out is empty: name a file or a folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_error_for_a_file_as_data_states_how_it_becomes_a_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "shop.csv"
    table.write_text("user,item\n1,2\n")
    assert main(["pretrain", "--data", str(table), "--out", str(tmp_path / "run")]) == 2
    assert f"--data {table} is a file: `refit data prepare NAME --source" in capsys.readouterr().err
