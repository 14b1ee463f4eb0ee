"""Write docs/rewards, docs/algorithms, docs/backbones and docs/baselines: one page for each registered name.

The pages come from the registries, the docstrings and the settings; an index lists each group. Run it with
``make docs``; ``--check`` changes nothing and fails where a page is out of date.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from docstrings import first_sentence, google, settings_table, table
from written_pages import write_pages

from agents.algorithms.registry import ALGORITHMS, algorithm
from agents.baselines import baseline, names
from refit_env.backbones import backbone_class, backbone_names
from refit_env.rewards import ListReward, reward_class, reward_names
from refit_env.rewards.class_settings import settings_of

ROOT = Path(__file__).resolve().parent
NOTE = "<!-- Made by docs/make_registry_pages.py from the docstrings; edit those. -->"


def pages() -> dict[str, str]:
    """Every page by its path below docs."""
    out = {}
    groups: dict[str, tuple[Callable[[], dict[str, str]], Callable[[str], str]]] = {
        "rewards": (rewards, reward_page),
        "algorithms": (algorithms, algorithm_page),
        "backbones": (backbones, backbone_page),
        "baselines": (baselines, baseline_page),
    }
    for group, (summaries, page) in groups.items():
        found = summaries()
        out[f"{group}/index.md"] = index_page(group, found)
        out |= {f"{group}/{name}.md": page(name) for name in found}
    return out


EXAMPLE = """```python
import gymnasium as gym

import refit_env

env = gym.make("{env}", reward="{reward}")
```"""
HEADS = {
    "rewards": (
        "Rewards",
        '`gym.make(id, reward="NAME", reward_kwargs={...})`. A mix: `reward={"racs": 1, "coverage": 0.1}`;\n'
        "your own is a function of (scores, users) or a registered class ([how](../howto/own-reward.md)).\n"
        "The reward is paid once, at the end of an episode.\n"
        "[Reward models](../concepts/reward-models.md) says when a model as the reward helps.",
    ),
    "algorithms": (
        "Algorithms",
        "`refit finetune --algorithm NAME`, or the class in Python. All have one surface: `learn`, `save`,\n"
        "`load`, `evaluate`; your own is a subclass of `FineTuner` ([how](../howto/own-algorithm.md)).\n"
        "[Results](../results.md) compares them; PPO, A2C, TRPO, SAC and others of\n"
        "Stable-Baselines3 run on the same environments ([how](../howto/stable-baselines3.md)).",
    ),
    "backbones": (
        "Backbones",
        "`refit pretrain --backbone NAME`, `gym.make(id, backbone=NAME)`.\n"
        "[Recommenders](../concepts/recommenders.md) compares what they diffuse and where chains start.\n"
        "[Your own backbone](../howto/own-backbone.md) is a registered class.",
    ),
    "baselines": (
        "Baselines",
        "Recommenders that a team would take instead of a diffusion model. `refit baseline NAME --env ID`\n"
        "fits one to the train items and measures it by the evaluation of policies: full ranking,\n"
        "seen items masked. `--refit` fits it again to train and validation items, as LightGCN's tables do.\n"
        "In Python: "
        "`agents.baselines.baseline(NAME)`, `names(task)`, `evaluate_baseline(DATA_OR_ID, NAME)`.\n"
        "[Leaderboards](../leaderboards/index.md) have their figures; "
        "[your own baseline](../howto/own-baseline.md) is one class.\n"
        "`nicf` and `fcpo` are RL policies of other protocols (a session whose ratings are shown one at a\n"
        "time; a time line under a limit on popular items), adapted to this one: they learn in sessions on\n"
        "a user's own train items, and at test their Q or their mean action ranks all items. Their pages\n"
        "list what differs.",
    ),
}


def index_page(group: str, found: dict[str, str]) -> str:
    """The list of a group: each name with what it is."""
    title, text = HEADS[group]
    rows = [[f"[{name}]({name}.md)", what] for name, what in found.items()]
    toc = "\n".join(["```{toctree}", ":hidden:", "", *found, "```"])
    return "\n\n".join([NOTE, f"# {title}", text, table(["name", "what it is"], rows), toc]) + "\n"


def rewards() -> dict[str, str]:
    """Every reward's first sentence."""
    return {name: first_sentence(reward_class(name).__doc__) for name in reward_names()}


def reward_page(name: str) -> str:
    """A reward: its class, what it needs, its settings, the module's equations."""
    cls = reward_class(name)
    facts = [
        ["class", f"`{cls.__module__}.{cls.__qualname__}`"],
        ["counts relevant items", _yes(cls.counts_relevant)],
        ["needs rows in order of time", _yes(cls.needs_rows)],
        ["needs dislikes", _yes(cls.needs_dislikes)],
        ["is a sum over the list", _yes(issubclass(cls, ListReward))],
        ["settings", ", ".join(f"`{key}={value!r}`" for key, value in keywords(cls).items()) or "none"],
    ]
    parts = [table(["", ""], facts), google(cls.__doc__ or ""), arguments(cls), module_text(cls)]
    example = EXAMPLE.format(env="ReFiT-Synthetic-v0", reward=name)
    if cls.needs_rows is True:
        example = skipped("needs check-ins in order of time", EXAMPLE.format(env="ReFiT-NYC-v0", reward=name))
    elif cls.needs_dislikes is True:
        example = skipped("needs data with dislikes", EXAMPLE.format(env="ReFiT-Synthetic-v0", reward=name))
    elif cls.outside is True:
        example = skipped("needs an endpoint", EXAMPLE.format(env="ReFiT-Synthetic-v0", reward=name))
    elif name == "recommender":
        example = skipped("needs a pretrained run", EXAMPLE.format(env="ReFiT-Zhihu-v0", reward=name))
    return page(name, [parts[0], example, *parts[1:]])


def keywords(cls: type) -> dict[str, Any]:
    """The settings of a reward with their defaults."""
    return {name: setting.default for name, setting in settings_of(cls).items()}


def arguments(cls: type) -> str:
    """What the constructors with a reward's settings say of them: its own, then those that it extends."""
    owners = dict.fromkeys(setting.of for setting in settings_of(cls).values())
    texts = [google(vars(owner)["__init__"].__doc__ or "") for owner in owners]
    return "\n\n".join(["## Settings", *texts]) if texts else ""


def algorithms() -> dict[str, str]:
    """Every algorithm's first sentence."""
    return {name: first_sentence(algorithm(name).__doc__) for name in sorted(ALGORITHMS)}


def algorithm_page(name: str) -> str:
    """An algorithm: its class, its equation, its settings and presets."""
    cls = algorithm(name)
    config = cls.config_class
    changed = [
        [f"`{label}`", ", ".join(changes(preset, config())) or "the defaults"]
        for label, preset in config.presets().items()
    ]
    return page(
        name,
        [
            f"`{cls.__module__}.{cls.__qualname__}`",
            f"```\nrefit finetune --init runs/elbo --algorithm {name} --out runs/{name}\n```",
            google(cls.__doc__ or ""),
            module_text(cls),
            "## Settings",
            settings_table(config),
            "## Presets",
            table(["`--preset`", "what it changes"], changed),
        ],
    )


def changes(preset: Any, base: Any) -> list[str]:
    """The fields of a preset that are not the defaults."""
    pairs = [(field.name, getattr(preset, field.name)) for field in fields(base)]
    return [f"`{name}={value!r}`" for name, value in pairs if value != getattr(base, name)]


def backbones() -> dict[str, str]:
    """Every backbone's first sentence."""
    return {name: first_sentence(backbone_class(name).__doc__) for name in backbone_names()}


def backbone_page(name: str) -> str:
    """A backbone: its class, what its chain is, its settings."""
    cls = backbone_class(name)
    facts = [
        ["class", f"`{cls.__module__}.{cls.__qualname__}`"],
        ["tasks", ", ".join(cls.tasks)],
        ["u is", "an embedding; a trained model scores it" if cls.embedding else "one number an item"],
        ["chains start from", cls.start],
        [
            "the network also sees",
            "a context" if cls.conditional or cls.shows_rows else "nothing but u and t",
        ],
    ]
    return page(
        name,
        [
            table(["", ""], facts),
            google(cls.__doc__ or ""),
            module_text(cls),
            "## Configuration",
            "The defaults; the sets that the authors treated have their published values.",
            settings_table(cls.config_class, "field"),
        ],
    )


def baselines() -> dict[str, str]:
    """Every baseline's first sentence."""
    return {name: first_sentence(baseline(name).__doc__) for name in names()}


def baseline_page(name: str) -> str:
    """A baseline: its class, what it is for, its settings."""
    cls = baseline(name)
    tasks = [task for task in ("cf", "sequential", "social", "poi") if name in names(task)]
    facts = [
        ["class", f"`{cls.__module__}.{cls.__qualname__}`"],
        ["tasks", ", ".join(tasks)],
        ["works on", " and ".join(cls.forms) + (" in order of time" if cls.ordered else "")],
        ["needs", cls.needs or "nothing else"],
        ["its fit is random", _yes(cls.seeded)],
    ]
    own = "## Settings\n\n" + settings_table(cls.config_class) if fields(cls.config_class) else ""
    return page(name, [table(["", ""], facts), google(cls.__doc__ or ""), module_text(cls), own])


def module_text(cls: type) -> str:
    """The docstring of the file, with equations and departures from the reference code."""
    module = inspect.getmodule(cls)
    text = google((module.__doc__ if module else None) or "")
    return f"## Method\n\n{text}" if text else ""


def page(title: str, parts: list[str]) -> str:
    """A page of its parts."""
    return "\n\n".join([NOTE, f"# {title}", *(part for part in parts if part)]) + "\n"


def skipped(reason: str, block: str) -> str:
    """A code block that the tests compile and do not run."""
    return f"<!-- not run: {reason} -->\n{block}"


def _yes(value: object) -> str:
    return "depends on its settings" if not isinstance(value, bool) else "yes" if value else "no"


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with ``--check`` compare them."""
    wanted = {ROOT / name: text for name, text in pages().items()}
    return write_pages(wanted, {path.parent for path in wanted}, arguments, "no such name")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
