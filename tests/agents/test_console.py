from __future__ import annotations

import pytest
from rich.table import Table

from agents.console import complain, console, say

HOSTILE = "runs/[/bold] [red]x[/red] :smile: \x1b[2J\x07\x9b31m\u202e \udcff"
SHOWN = r"runs/[/bold] [red]x[/red] :smile: \x1b[2J\x07\x9b31m\u202e \udcff"


def test_tables_show_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(HOSTILE, title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE)
    console(width=200).print(table)
    console(width=200).print(HOSTILE)
    assert capsys.readouterr().out.count(SHOWN) == 5


def test_lines_and_errors_too(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    say(HOSTILE, stderr=True)
    complain(f"{HOSTILE}\nsecond")
    out, err = capsys.readouterr()
    assert out == f"{SHOWN}\n"
    assert err == f"{SHOWN}\nrefit: error: {SHOWN}\n  second\n"


def test_nothing_else_prints_to_a_terminal() -> None:
    from pathlib import Path

    import agents

    folder = Path(agents.__file__).parent
    for path in folder.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path != folder / "console.py":
            assert "rich.console" not in text, path
