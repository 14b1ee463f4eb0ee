"""The repository's prose and names use plain words: the table below lists words to replace."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TABLE: dict[str, str] = {
    r"told|tells?|telling": "passed, states, reports",
    r"ask(?:s|ed|ing)?": "requests, needs, reads, queries",
    r"look(?:s|ed|ing)?": "reads, uses, lookup, validation",
    r"judg(?:e|es|ed|ing)": "scorer, evaluates",
    r"opinions?": "scores",
    r"by heart": "overfits",
    r"lets? go": "releases",
    r"go(?:es)? by": "uses",
    r"lies?|lay|lain": "is, is in",
    r"stands?|stood": "is, means, represents",
    r"takes": "accepts, needs, uses",
    r"dear(?:er)?": "expensive",
    r"rulers?": "reward, metric",
    r"rivals?": "baseline",
    r"shaken": "moved",
    r"worth": "gain, score, value",
}
"""Word, as a regular expression -> what to write instead."""

TERMS = (
    r"must lie",
    r"lies? (?:strictly )?(?:in|within|between) -?[\d{(]",
    r"takes (?:(?:about|at most|up to|only) )?\d",
    r"takes (?:seconds|minutes|hours|effect|part)",
    r"\.(?:ask|tell)\(",
    r"linear opinion\s+pool",
)
"""Allowed phrases: a number's range, a duration, methods of other packages, a term of statistics."""

WORDS = re.compile(
    rf"(?P<term>{'|'.join(TERMS)})|(?<![a-z])(?P<word>{'|'.join(TABLE)})(?![a-z])",
    re.IGNORECASE,
)
SUFFIXES = {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".sh", ""}
EXCLUDED = ("CHANGELOG.md", "tests/test_plain_words.py", "LICENSE", "benchmarks/results/")
"""The changelog's old entries are history; this file has the table."""


def files() -> list[str]:
    """Return the tracked text files of the repository."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = (ROOT / name for name in listed.stdout.splitlines())
    found = (str(path.relative_to(ROOT)) for path in names if path.suffix in SUFFIXES and path.is_file())
    return [name for name in found if not name.startswith(EXCLUDED)]


def findings(text: str) -> list[tuple[int, str]]:
    """Return line number and word of each word of the table in a text, in prose and in names.

    Example:
        >>> findings("x = told_by  # what it is told\\nmust lie in 1..2, takes 3 s, standard")
        [(1, 'told'), (1, 'told')]
    """
    matches = [match for match in WORDS.finditer(text) if match["word"]]
    return [(text.count("\n", 0, match.start()) + 1, match["word"]) for match in matches]


def test_words_are_found_in_prose_and_names_and_terms_are_not() -> None:
    assert findings("def _look(self):\n    '''Asks the judge.'''") == [(1, "look"), (2, "Asks"), (2, "judge")]
    assert findings("must lie in 1..3; lies between 0 and 1; takes about 3 s; study.ask(); standard") == []
    assert findings("a lookup, an understanding, mistakes, flask, retold") == []


def test_every_word_of_the_table_is_found() -> None:
    words = ("told", "asks", "looked", "judge", "opinion", "by heart", "lets go", "goes by", "lay", "stood")
    for word in (*words, "takes", "dear", "ruler", "rival", "shaken", "worth"):
        assert findings(f"It {word} x") == [(1, word)]


def test_the_repository_uses_plain_words() -> None:
    lines = []
    for name in files():
        for line, word in findings((ROOT / name).read_text(encoding="utf-8")):
            instead = next(
                plain for table, plain in TABLE.items() if re.fullmatch(table, word, re.IGNORECASE)
            )
            lines.append(f"{name}:{line}: {word!r}; write for example: {instead}")
    assert not lines, "\n".join(lines)
