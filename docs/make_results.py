"""Write the tables of measured results into docs/results.md, and a choice of their rows into README.md.

Every JSON file of benchmarks/results that has a ``table`` or ``tables`` becomes one section of
docs/results.md, in the part and at the place that ``PARTS`` states; README.md shows the rows that
``HEADLINE`` names. ``refit compare STUDY --finished --out benchmarks/results`` writes the file of a study
from its records. The form of such a file:

    {"title": "...", "command": "python -m benchmarks...", "note": "...",  # a remark a line
     "table": {"columns": ["model", ...], "rows": [["DiffRec", ...], ...]}, ...}

``"tables"`` is a list of such tables, each with a ``title`` of its own; ``"figure"`` names a picture that
is beside the file. Below the tables is what they were measured on (``refit_env.data.coverage``), of
each environment that a title or the first cell of a row names; the name of a set that is not the whole
published one says so.

Run it with ``make docs``; ``--check`` changes nothing and fails where a page is out of date.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refit_env.data.coverage import PUBLISHED, SHORT, mark, measured, share
from refit_env.registration import TABLE

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
DATA = {row.env_id: row.dataset for row in TABLE if row.dataset is not None}
"""Environment id -> data set."""
SHORT_NAMES = {env_id.removeprefix("ReFiT-").removesuffix("-v0"): env_id for env_id in DATA}
"""As the first cells of rows name environments."""
HEADLINE: Mapping[str, tuple[str, Sequence[str]]] = {
    "Histories in order and fine-tuning (test)": (
        "",
        (
            "ML1M, causal-dreamrec",
            "ML1M, causal-dreamrec + REINFORCE",
            "ML1M, causal-dreamrec + cross-entropy, same work",
        ),
    ),
    "Closed forms and fine-tuning (test)": (
        "",
        (
            "Yelp, closed-form",
            "Yelp, closed-form + REINFORCE",
            "Yelp, closed-form + cross-entropy, same work",
        ),
    ),
    "Recommenders, pretrained and fine-tuned (test)": (
        "",
        (
            "Foursquare, diffrec",
            "Foursquare, diffrec + REINFORCE",
            "Foursquare, diffrec: the reward model alone",
            "Ciao, recdiff",
            "Ciao, recdiff + REINFORCE",
            "Ciao, recdiff: the reward model alone",
        ),
    ),
}
"""README's rows: title of the table -> the environment that its rows belong to, where they do not name it,
and their first cells. A gain is never shown without its controls."""
HEADLINE_COLUMNS = ("environment, model", "NDCG@20", "Recall@20", "NDCG@20 gain, %")
ELSEWHERE = ("leaderboards", "published")
"""Results that ``docs/make_leaderboards.py`` writes pages of."""
PARTS: Mapping[str, Sequence[str]] = {
    "Does fine-tuning pay?": (
        *("fine-tuning", "ordered", "closed-forms", "stacked", "backbones", "steps", "algorithms"),
        "leave_one_set_out",
    ),
    "Which reward?": (
        *("rewards", "racs", "frontier", "over_optimisation", "alarms", "likelihood"),
        "reward_alignment",
    ),
    "What does it cost?": (
        *("bench", "before", "compiled"),
        *("fine_tuning_cost", "scaling", "projection", "processes", "serving", "levers"),
        *("reinforce_iteration", "env_throughput", "sb3_adapter", "gradient_noise"),
    ),
}
"""The parts of docs/results.md, and the stems of their files in order."""
READING: Mapping[str, str] = {
    "rewards": (
        "Each table is one data set. All its rows begin from the same start and have the same number of "
        "environment steps; only the reward (or, in the last rows, the training) differs. Read the column"
        " 'NDCG@20 gain, %': what a row adds to the start. The number after ± is half of a 95 % interval "
        "over seeds; `-` means that there is one seed, and * that the interval excludes zero. 'Steps to "
        "95 %' is how many steps made 95 % of the gain on validation. 'Std within a user' is how much the"
        " reward differs between several lists of one user, and which share of its whole variance that "
        "is: where it is 0, nothing can be learnt. 'Users sure' is in how many of the seeds a bootstrap "
        "over users finds a gain. What these tables support is said in [RACS](concepts/racs.md)."
    ),
    "racs": (
        "Each row is RACS with one setting changed, on the same start and with the same work. alpha is "
        "the weight of the user's own hits (1: those alone; 0: those of similar users alone), M the "
        "number of similar users, K the length of the list. Compare a row with 'racs (alpha .5, M 10, K "
        "20)' and with `ndcg`; differences below .002 between rows of one seed are within the noise of "
        "seeds."
    ),
    "frontier": (
        "Can training reach a goal beyond accuracy better than re-ranking, which needs no training? Each "
        "row is a goal. A front is the set of the best compromises between NDCG@20 and that goal, and its"
        " area is one number for it: larger is better. Read the columns 'runs less ...': the area of the "
        "trained models less that of the re-rankers. Above zero, with *, training is better for sure; an "
        "interval wholly below zero means that re-ranking is."
    ),
    "over_optimisation": (
        "The proxy is the reward that training maximises; gold is the true taste, which only the "
        "synthetic data knows. Read the four columns of gold from left to right: the start, the best "
        "point of the run, the point that validation would keep, and the end. Where the end is below the "
        "best, the run went too far: the proxy still rose while gold fell."
    ),
    "alarms": (
        "A hit is an alarm in a run that lost more than 2 % of its best test NDCG@20 for good; a false "
        "alarm is one in another run. 'Before the fall' counts the hits that came before that loss. A "
        "negative lead means that the alarm came after the loss: the alarms say that a run went too far, "
        "and do not warn in advance."
    ),
    "likelihood": (
        "Log-densities, in nats a dimension: higher is more likely. Compare each row with 'pretrained' "
        "above it, in the three columns 'less pretrained'. If fine-tuning made held-out items more "
        "likely, 'with test items, less pretrained' would be above zero; for REINFORCE it is below, while"
        " NDCG@20 rises. What this means is in [Over-optimisation](concepts/over-optimisation.md)."
    ),
}
"""Stem of a file -> how to read its tables; shown above them."""
OTHERS = "Other measurements"
"""The part of files that ``PARTS`` does not name."""
NOTHING_YET = "_No results yet: run a benchmark, then `make docs`._"


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Read the result files with tables, in the order of ``PARTS``; each has its ``folder`` and ``part``."""
    stems = [(part, stem) for part, stems in PARTS.items() for stem in stems]
    places = {stem: (number, part) for number, (part, stem) in enumerate(stems)}
    paths = [path for path in sorted(folder.glob("*.json")) if path.stem not in ELSEWHERE]
    paths.sort(key=lambda path: places.get(path.stem, (len(places), OTHERS))[0])
    results = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    return [
        result
        | {"folder": path.parent, "part": places.get(path.stem, (len(places), OTHERS))[1]}
        | ({"reading": READING[path.stem]} if path.stem in READING else {})
        for path, result in results
        if isinstance(result, dict) and ("table" in result or "tables" in result)
    ]


def headline(results: Sequence[Mapping[str, Any]]) -> str:
    """README's table: the rows that ``HEADLINE`` names.

    Raises:
        ValueError: if a table or a row is not there.
    """
    titled = {table["title"]: table for result in results for table in result.get("tables", [])}
    rows = []
    for title, (environment, names) in HEADLINE.items():
        if title not in titled:
            raise ValueError(f"README shows rows of {title!r}, which no file of benchmarks/results has")
        table = titled[title]
        places = headline_places(table["columns"])
        found = {row[0]: [row[place] for place in places] for row in table["rows"]}
        for name in names:
            if name not in found:
                raise ValueError(
                    f"README shows the row {name!r}, which {title!r} has not: {', '.join(found)}"
                )
            cell = f"{environment}, {name}" if environment else name
            rows.append([marked_cell(cell), *found[name]])
    return markdown_table(HEADLINE_COLUMNS, rows)


def headline_places(columns: Sequence[str]) -> list[int]:
    """Return the places of NDCG@20, Recall@20 and NDCG's gain among the columns."""
    return [columns.index(name) for name in HEADLINE_COLUMNS[1:]]


def section(result: Mapping[str, Any], page: Path = ROOT / "docs" / "results.md") -> str:
    """One result as Markdown: title, how to read it, tables, figure, the command that made it, what to know.

    Args:
        result: of ``load_results``.
        page: the page that it is for; the figure's link starts there.
    """
    parts = [f"### {marked(result['title'])}"]
    parts += [result["reading"]] if "reading" in result else []
    tables = [result["table"]] if "table" in result else result["tables"]
    for table in tables:
        parts += [f"**{marked(table['title'])}**"] if "title" in table else []
        rows = [[marked_cell(str(row[0])), *row[1:]] for row in table["rows"]]
        parts.append(markdown_table(table["columns"], rows))
        parts += [table["note"]] if table.get("note") else []
    if result.get("figure"):
        link = Path(os.path.relpath(result["folder"] / result["figure"], page.parent)).as_posix()
        parts.append(f"![{result['title']}]({link})")
    names = measured_in(result["title"], tables)
    parts += ["Measured on:", data_table(names, result)] if names else []
    parts += source(result)
    return "\n\n".join(parts)


def sections(results: Sequence[Mapping[str, Any]], page: Path = ROOT / "docs" / "results.md") -> str:
    """The parts with their sections as Markdown, below a list of links to them."""
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        parts.setdefault(result["part"], []).append(result)
    links = [
        f"- **{part}** "
        + " · ".join(f"[{marked(r['title'])}](#{anchor(marked(r['title']))})" for r in within)
        for part, within in parts.items()
    ]
    body = [
        "\n\n".join([f"## {part}", *(section(result, page) for result in within)])
        for part, within in parts.items()
    ]
    return "\n\n".join(["\n".join(links), *body]) if results else NOTHING_YET


def anchor(title: str) -> str:
    """The name that GitHub and MyST give to a heading.

    Example:
        >>> anchor("What does it cost? (ML-1M, T = 4)")
        'what-does-it-cost-ml-1m-t--4'
    """
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def source(result: Mapping[str, Any]) -> list[str]:
    """The command that made a result, how a clone shows it, and its remarks (``note``, one a line)."""
    remarks = [f"- {line}" for line in str(result.get("note", "")).splitlines()]
    made = f"Made by `{result['command']}`."
    if str(result["command"]).startswith("refit compare"):
        made += (
            " With `--finished --out benchmarks/results` a clone shows it from its records, and runs nothing."
        )
    return [made, *(["\n".join(remarks)] if remarks else [])]


def marked(title: str) -> str:
    """A title with what its data set lacks behind an environment's id, such as ``(partial)``."""
    return re.sub("|".join(map(re.escape, DATA)), lambda found: found[0] + mark(DATA[found[0]]), title)


def marked_cell(cell: str) -> str:
    """The first cell of a row, likewise; it begins with an environment's short name, or its id."""
    name = re.split("[, ]", cell)[0]
    env_id = SHORT_NAMES.get(name, name)
    return name + mark(DATA[env_id]) + cell[len(name) :] if env_id in DATA else cell


def measured_in(title: str, tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """The data sets of the environments that the titles and the rows name, in the order of the ids' table."""
    text = " ".join([title, *(str(table.get("title", "")) for table in tables)])
    cells = {re.split("[, ]", str(row[0]))[0] for table in tables for row in table["rows"]}
    return [
        data
        for name, env_id in SHORT_NAMES.items()
        if (env_id in text or {name, env_id} & cells)
        for data in [DATA[env_id]]
    ]


def data_table(names: Sequence[str], result: Mapping[str, Any]) -> str:
    """What was measured: a row for each data set.

    Args:
        names: of the data sets.
        result: whose cells may have recorded fingerprints (``provenance.data``).

    Raises:
        ValueError: if one of them is not the fingerprint in ``refit_env/data/measured.json``.
    """
    recorded = result.get("provenance", {}).get("data", {})
    rows = []
    for name in names:
        here, known = measured()[name], PUBLISHED.get(name)
        for fingerprint in recorded.get(name, []):
            if fingerprint != here.fingerprint:
                raise ValueError(
                    f"{result['title']}: measured on {name} {fingerprint[:SHORT]}, measured.json states "
                    f"{here.fingerprint[:SHORT]}; measure again, or run docs/make_data_coverage.py"
                )
        counts = [f"{n:,}" for n in (here.users, here.items, here.interactions)]
        whole = "" if known is None else known.in_words()
        rows.append([name + mark(name), *counts, share(name), whole, f"`{here.fingerprint[:SHORT]}`"])
    columns = ("data set", "users", "items", "interactions", "share", "as published", "fingerprint")
    return markdown_table(columns, rows)


def markdown_table(columns: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others numbers.

    Raises:
        ValueError: if a row has not one cell per column.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"row {list(row)} has {len(row)} cells, the table has {len(columns)} columns")
    lines = [list(columns), ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def fill(page: str, body: str) -> str:
    """Put text between the markers of a page.

    Raises:
        ValueError: if the page has not exactly one pair of markers.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs {BEGIN} and {END} once each")
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n\n{body}\n\n{END}{rest.split(END)[1]}"


def pages(root: Path = ROOT) -> dict[Path, str]:
    """The two pages as they should be."""
    results = load_results(root / "benchmarks" / "results")
    readme, page = root / "README.md", root / "docs" / "results.md"
    bodies = {readme: headline(results), page: sections(results, page)}
    return {path: fill(path.read_text(encoding="utf-8"), body) for path, body in bodies.items()}


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with ``--check`` compare them."""
    stale = {path: text for path, text in pages().items() if path.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        if "--check" in arguments:
            print(f"out of date: {path.relative_to(ROOT)} (run `make docs`)", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
