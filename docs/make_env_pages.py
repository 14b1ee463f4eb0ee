"""Write docs/environments: one page per id, from the registration table, the catalogue and the docstrings.

Run it with ``make docs``; ``--check`` changes nothing and fails where a page is out of date.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

from docstrings import markdown
from written_pages import write_pages

from refit_env import EnvEntry, entry, env_ids
from refit_env.backbones import backbone_class
from refit_env.data import load_dataset
from refit_env.data.catalog import CATALOG
from refit_env.data.coverage import PUBLISHED, measured, share
from refit_env.envs.denoising import DenoisingEnv
from refit_env.envs.vector import DenoisingVectorEnv

FOLDER = Path(__file__).resolve().parent / "environments"
NOTE = "<!-- Made by docs/make_env_pages.py from the docstrings; edit those. -->"

NOT_RUN = "<!-- not run: needs the data set -->\n"
"""Above a block, for the test that runs all others."""


def pages() -> dict[str, str]:
    """Every page by file name."""
    out = {f"{env_id}.md": env_page(entry(env_id)) for env_id in env_ids()}
    return {"index.md": index_page()} | out


def index_page() -> str:
    """The table of ids."""
    rows = [
        f"| [{row.env_id}]({row.env_id}.md) | {row.dataset or 'yours'} | {row.task} | {row.backbone} "
        f"| {row.num_steps} | {row.relevance or 'as the data allow'} |"
        for row in map(entry, env_ids())
    ]
    head = ["| id | data set | task | backbone | T | relevance |", "| --- | --- | --- | --- | ---: | --- |"]
    text = (
        "Gymnasium >= 1.0 loads no plug-ins: `import refit_env` before `gym.make(id)`, or write\n"
        '`gym.make("refit_env:ID")`. The ids share one class; they differ in their data and defaults.'
    )
    toc = "\n".join(["```{toctree}", ":hidden:", "", *env_ids(), "```"])
    return "\n\n".join([NOTE, "# Environments", text, "\n".join(head + rows), toc]) + "\n"


def env_page(row: EnvEntry) -> str:
    """The page of one id: its facts, an example, the docstrings."""
    parts = [
        NOTE,
        f"# {row.env_id}",
        facts(row),
        example(row),
        markdown(inspect.getdoc(DenoisingEnv) or ""),
        "## Batched",
        markdown(inspect.getdoc(DenoisingVectorEnv) or "").replace("\n## ", "\n### "),
    ]
    return "\n\n".join(parts) + "\n"


def facts(row: EnvEntry) -> str:
    """What the id means, as a table."""
    lines = [*origin(row), ("backbone", row.backbone), ("task", row.task), ("T", str(row.num_steps))]
    lines.append(("reward", f"{row.reward}, list length K = {row.k}"))
    lines.append(("relevance", row.relevance or "`recent` where rows are in order of time, else `holdout`"))
    board = f"leaderboards/{row.env_id}.md"
    if (FOLDER.parent / board).exists():
        lines.append(("leaderboard", f"[all recommenders, best first](../{board})"))
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in lines)])


def origin(row: EnvEntry) -> list[tuple[str, str]]:
    """Return the source of the data and its sizes."""
    if row.dataset is None:
        return [("data set", "yours: `data=FOLDER`, a folder in canonical form (`refit data prepare`)")]
    if row.dataset not in CATALOG:
        dataset = load_dataset(row.dataset)
        made = f"{row.dataset}, made by `refit_env.data.synthesize`; no file needed"
        counts = f"{dataset.num_users:,}, {dataset.num_items:,}"
        return [("data set", made), ("users, items (D)", counts), ("fingerprint", f"`{dataset.fingerprint}`")]
    source, whole, here = CATALOG[row.dataset], PUBLISHED[row.dataset], measured()[row.dataset]
    size = "" if backbone_class(row.backbone).embedding else "; D is the number of items"
    return [
        ("data set", f"{row.dataset}, from {source.page}"),
        ("licence", source.licence),
        ("as published", whole.in_words() + size),
        ("tables measured on", f"{here.in_words(whole.who)}: {share(row.dataset)}"),
        ("their fingerprint", f"`{here.fingerprint}`"),
    ]


def example(row: EnvEntry) -> str:
    """How to make the environment."""
    data = ', data="my-data"' if row.dataset is None else ""
    if backbone_class(row.backbone).embedding:  # a trained model scores its vectors
        data += ', checkpoint="runs/pretrained"'
    mark = "" if row.dataset and row.dataset not in CATALOG else NOT_RUN
    return f"""{mark}```python
import gymnasium as gym
import refit_env

env = gym.make("{row.env_id}"{data})
envs = gym.make_vec("{row.env_id}"{data}, num_envs=64)
```"""


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with ``--check`` compare them."""
    wanted = {FOLDER / name: text for name, text in pages().items()}
    return write_pages(wanted, [FOLDER], arguments, "no such id")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
