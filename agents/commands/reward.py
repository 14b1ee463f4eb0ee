"""``refit reward``: lists the rewards, and measures one before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro
from msgspec import Meta

from agents.commands.options import Command, EnvOption, Flag, FolderOption, NameOption, parse
from refit_env.settings import Seed


@dataclass(frozen=True)
class RewardList(Command):
    """List the registered rewards: what each is, and what it needs."""

    work: ClassVar[str] = "agents.commands.reward_run:list_rewards"

    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""


@dataclass(frozen=True, kw_only=True)
class RewardCheck(Command):
    """Measure a reward before any training, on perturbed lists of a pretrained policy.

    Whether it is well formed (shapes, finite, deterministic, independent of the batch), what it costs, how it
    varies within a user, whether the lists that it prefers have a higher NDCG on validation items, which
    known rewards prefer the same lists; and a verdict. Exit code 1 says that it is not well formed.
    """

    work: ClassVar[str] = "agents.commands.reward_run:check"

    reward: tyro.conf.Positional[str]
    """A name, a mix ``racs=1,coverage=0.1``, or one's own: ``my_reward.py:FreshHits``,
    ``package.module:name``."""
    env: EnvOption = None
    """Environment id; if left out, that of ``--init``, else ReFiT-Synthetic-v0."""
    data: FolderOption = None
    """Own data instead of ``--env``: a folder in canonical form, or its name in ``refit data list``."""
    init: FolderOption = None
    """Run folder of the policy whose lists are perturbed; if left out, a closed form that is fitted now."""
    relevance: NameOption = None
    """Which items count as hits; if left out, the environment's."""
    k: Annotated[int, Meta(ge=1, le=10**6)] = 20
    """Length of the list that is rewarded."""
    reward_options: tuple[str, ...] = ()
    """Further settings of the reward, for example ``alpha=0.3 neighbors=20``."""
    against: str = ""
    """Comma-separated rewards to compare with; if left out, all that need no model."""
    users: Annotated[int, Meta(ge=2, le=100_000)] = 128
    """Users whose lists are perturbed."""
    samples: Annotated[int, Meta(ge=2, le=1000)] = 4
    """Lists of each user at each of four sizes of the noise."""
    exploration_std: Annotated[float, Meta(gt=0, le=1e6)] = 0.05
    """Standard deviation of the exploration; the sizes are 0.5, 1, 2 and 4 of it."""
    seed: Seed = 0
    """Seed of the users and the noise."""
    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` ..."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""


RewardCommand = (
    Annotated[RewardList, tyro.conf.subcommand("list")]
    | Annotated[RewardCheck, tyro.conf.subcommand("check")]
)


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    command: RewardList | RewardCheck = parse(RewardCommand, words, "refit reward")
    return command.run()
