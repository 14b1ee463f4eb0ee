"""``refit demo``: the main job, end to end, on the embedded data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agents.commands.common import REPORTED, Target, parse, plain
from agents.commands.finetune import finetune_run
from agents.commands.pretrain import pretrain_run
from agents.plots import Series, column, mean_line, plot_curves
from agents.pretrain import PretrainConfig
from agents.reinforce import ReinforceConfig
from agents.resources import measure
from agents.runlog import read_log
from agents.runs import RunFolder
from agents.stats import mean_interval
from refit_env.files import write_json
from refit_env.policy import DiffusionPolicy

ENV_ID = "ReFiT-Synthetic-v0"


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Pretrain a diffusion recommender, fine-tune it with REINFORCE, compare on test items; several seeds.

    Needs no data and no network, and takes less than three minutes on two cores.
    """

    out: Path = Path("runs/demo")
    """Folder for the runs; a demo that stands there is replaced."""
    seeds: int = 3
    """How many times, each from the beginning with another seed."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """Settings of pretraining."""
    agent: ReinforceConfig = field(default_factory=ReinforceConfig)
    """Settings of REINFORCE."""
    device: str = "cpu"
    """``auto``, ``cpu``, ``cuda`` ...; the model is so small that the CPU serves best."""

    def run(self) -> int:
        """Run all seeds, print the table, draw the curve."""
        if self.seeds < 1:
            raise ValueError(f"--seeds {self.seeds}: at least 1")
        console = Console()
        with measure() as usage:
            reports = []
            for seed in range(self.seeds):
                console.print(f"seed {seed}: pretraining, then fine-tuning ...")
                report = self._run_seed(seed)
                if report is None:
                    return 130
                reports.append(report)
        curve = draw_demo_curve(self.out, self.seeds)
        summary = summarise(reports) | {"cost": {"demo": usage.to_json()}}
        write_json(self.out / "metrics.json", summary)
        console.print(demo_table(reports, summary))
        console.print(f"{usage.seconds:.0f} s, peak memory {usage.peak_memory_mib:.0f} MiB. Curve: {curve}")
        console.print(f"TensorBoard: tensorboard --logdir {self.out}. Numbers: {self.out / 'metrics.json'}")
        return 0

    def _run_seed(self, seed: int) -> dict[str, Any] | None:
        """Pretrain and fine-tune once; None where Ctrl-C ended it."""
        target = Target(ENV_ID, None)
        elbo = RunFolder.create(
            self.out / f"seed-{seed}" / "pretrain",
            "pretrain",
            {"env": ENV_ID, "data": None, "seed": seed, "pretrain": plain(self.pretrain)},
            overwrite=True,
        )
        pretrained = pretrain_run(target, elbo, self.pretrain, seed=seed, device=self.device)
        tuned = RunFolder.create(
            self.out / f"seed-{seed}" / "finetune",
            "finetune",
            {"env": ENV_ID, "data": None, "seed": seed, "init": str(elbo.path), "agent": plain(self.agent)},
            overwrite=True,
        )
        return finetune_run(
            DiffusionPolicy.load(elbo.path),
            target,
            tuned,
            self.agent,
            env_kwargs={},
            seed=seed,
            device=self.device,
            pretraining=pretrained["cost"]["pretraining"],
        )


def summarise(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and Student's interval of the gain over seeds."""
    out: dict[str, Any] = {"seeds": list(reports)}
    for when in ("before", "after"):
        out[when] = {m: sum(r[when][m] for r in reports) / len(reports) for m in REPORTED}
    gains = {m: [r["after"][m] - r["before"][m] for r in reports] for m in REPORTED}
    out["gain_over_seeds"] = {m: mean_interval(gains[m]).to_json() for m in REPORTED}
    return out


def demo_table(reports: Sequence[dict[str, Any]], summary: dict[str, Any]) -> Table:
    """Before and after for every seed, and the means over seeds with their interval."""
    table = Table(title=f"{ENV_ID}: test metrics before and after fine-tuning ({reports[0]['users']} users)")
    table.add_column("seed")
    for metric in ("NDCG@20", "Recall@20"):
        for name in (f"{metric} before", "after", "difference [95 %]"):
            table.add_column(name, justify="right")
    for seed, report in enumerate(reports):
        cells = [str(seed)]
        for metric in ("ndcg@20", "recall@20"):
            spread = report["paired_bootstrap"][metric]
            cells += _cells(
                report["before"][metric],
                report["after"][metric],
                (spread["mean_difference"], spread["low"], spread["high"]),
            )
        table.add_row(*cells)
    cells = ["mean"]
    for metric in ("ndcg@20", "recall@20"):
        gain = summary["gain_over_seeds"][metric]
        cells += _cells(
            summary["before"][metric], summary["after"][metric], (gain["mean"], gain["low"], gain["high"])
        )
    table.add_section()
    table.add_row(*cells, style="bold")
    table.caption = "Intervals: of a seed, paired bootstrap over users; of the mean, Student's t over seeds."
    return table


def draw_demo_curve(out: Path, seeds: int) -> Path:
    """Draw ``curve.png``: each seed faintly, their mean strongly."""
    logs = [read_log(out / f"seed-{seed}" / "finetune") for seed in range(seeds)]
    panels: dict[str, dict[str, Series]] = {}
    for title, name in (("reward (train)", "reward/mean"), ("validation NDCG@20", "valid/ndcg@20")):
        lines = [column(log, name) for log in logs]
        panels[title] = {f"_seed {seed}": line for seed, line in enumerate(lines)}
        panels[title]["mean over seeds"] = mean_line(lines)
    return plot_curves(panels, out / "curve.png", title=f"{ENV_ID}: REINFORCE fine-tuning")


def _cells(before: float, after: float, gain: tuple[float, float, float]) -> list[str]:
    mean, low, high = gain
    return [f"{before:.4f}", f"{after:.4f}", f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"]


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    default: Demo = Demo()
    return parse(Demo, words, default).run()
