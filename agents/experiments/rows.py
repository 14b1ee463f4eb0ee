"""The rows of the comparison: what each is called, how it comes about, what its settings are.

Another algorithm is another entry of ``ROWS``; its settings are its class's own (or a preset of them).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from agents.algorithms.registry import presets
from agents.hyperparams.algorithms import EnvSettings
from agents.hyperparams.sb3 import SB3_SETTINGS, SB3Settings
from agents.training.config import TrainerConfig
from refit_env.errors import unknown_name

BASE, RIVAL = "none", "reinforce"
"""The row that gains are over, and the one that others are to improve on."""


@dataclass(frozen=True)
class Row:
    """One line of each environment's table.

    Attributes:
        key: what ``--algorithms`` calls it.
        title: what the table calls it.
        kind: ``"none"``, ``"elbo"``, ``"native"`` (a name of ``agents.algorithms.registry``) or ``"sb3"``.
        algorithm: the name in its registry.
        preset: which of its named settings the row starts from.
        needs: rows that must be measured before it, besides ``BASE``.
        usual: whether it is run where no rows are named.
    """

    key: str
    title: str
    kind: str = "native"
    algorithm: str = ""
    preset: str = "default"
    needs: tuple[str, ...] = ()
    usual: bool = True


ROWS: dict[str, Row] = {
    row.key: row
    for row in (
        Row("none", "no training", "none"),
        Row("reinforce", "REINFORCE", algorithm="reinforce"),
        Row("elbo", "more ELBO", "elbo", needs=("reinforce",)),
        Row("ppo", "PPO", algorithm="ppo"),
        Row("grpo", "GRPO", algorithm="grpo"),
        Row("rwr", "RWR", algorithm="rwr"),
        Row("dpo", "DPO", algorithm="dpo"),
        Row("es", "evolution strategy", algorithm="es"),
        Row("sb3-ppo", "SB3 PPO", "sb3", algorithm="ppo"),
        Row("sb3-a2c", "SB3 A2C", "sb3", algorithm="a2c"),
        Row("trpo", "TRPO (sb3-contrib)", "sb3", algorithm="trpo"),
        Row("sac", "SB3 SAC, low-rank actions", "sb3", algorithm="sac"),
        Row("ppo-ddpo", "PPO, DDPO's form", algorithm="ppo", preset="ddpo", usual=False),
        Row(
            "reinforce-score", "REINFORCE, score function", algorithm="reinforce", preset="score", usual=False
        ),
        Row("reinforce-paper", "REINFORCE, literal", algorithm="reinforce", preset="paper", usual=False),
    )
}
"""By key, in the order of the tables."""


def choose_rows(names: str) -> list[Row]:
    """The rows named and those that they need, in the table's order.

    Args:
        names: comma-separated keys; empty takes the usual ones.

    Raises:
        ValueError: for a key that is not in the table, with a did-you-mean.

    Example:
        >>> [row.key for row in choose_rows("elbo")]
        ['none', 'reinforce', 'elbo']
    """
    wanted = (
        [name.strip() for name in names.split(",")] if names else [r.key for r in ROWS.values() if r.usual]
    )
    for name in wanted:
        if name not in ROWS:
            raise unknown_name("algorithm", name, ROWS)
    chosen = {BASE, *wanted, *(need for name in wanted for need in ROWS[name].needs)}
    return [row for row in ROWS.values() if row.key in chosen]


def row_config(row: Row, settings: EnvSettings) -> TrainerConfig | SB3Settings | None:
    """A row's settings in an environment: its defaults, changed by what was tuned.

    Raises:
        ValueError: if a tuned setting is none of the row's, with a did-you-mean.
    """
    config = _default_config(row)
    changes = dict(settings.tuned.get(row.key, {}))
    if config is None:
        return None
    known = [field.name for field in fields(config)]
    for name in changes:
        if name not in known:
            raise unknown_name(f"setting of {row.key}", name, known)
    return replace(config, **changes)


def _default_config(row: Row) -> TrainerConfig | SB3Settings | None:
    if row.kind == "native":
        return presets(row.algorithm)[row.preset]
    return SB3_SETTINGS[row.algorithm] if row.kind == "sb3" else None
