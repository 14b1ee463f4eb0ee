"""``refit demo``: the main job, end to end, on the embedded data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from agents.algorithms.configs import ReinforceConfig
from agents.commands.common import REPORTED, Target, plain, reported
from agents.commands.finetune import finetune_run, make_agent
from agents.commands.options import Flag, Repeats, of_group, parse
from agents.commands.pretrain import pretrain_run
from agents.console import console, say
from agents.runs.folder import RunFolder
from agents.runs.log import read_log
from agents.runs.plots import Series, column, mean_line, plot_curves
from agents.runs.profiling import measure
from agents.training.interrupt import INTERRUPTED
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer
from agents.training.tensors import resolve_device
from refit_env.backbones import backbone_for
from refit_env.data import Dataset, load_dataset
from refit_env.evaluation.ranking import Evaluation, evaluate, selecting_metric
from refit_env.evaluation.statistics import mean_interval, paired_bootstraps
from refit_env.policy import DiffusionPolicy
from refit_env.settings import Bounded
from refit_env.utils.atomic_io import write_json

TARGET = Target("ReFiT-Synthetic-v0", None)
MODELS = ("pretrained", "control", "reinforce")
"""The folders of a seed: ELBO as published; ELBO on the information that the reward has; REINFORCE."""
SHOWN = {"ndcg@20": "NDCG@20", "recall@20": "Recall@20"}


@dataclass(frozen=True, kw_only=True)
class Demo(Bounded):
    """Pretrain a diffusion recommender, fine-tune it with REINFORCE, compare on test items; several seeds.

    Beside it stands the control: the same network trained by its own loss on the information that the
    reward has (the earlier part of a history in, all of it out). Needs no data and no network, and takes
    less than three minutes on two cores.
    """

    out: Path = Path("runs/demo")
    """Folder for the runs; a demo that stands there is replaced."""
    seeds: Repeats = 3
    """How many times, each from the beginning with another seed."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """Settings of pretraining."""
    agent: ReinforceConfig = field(
        default_factory=lambda: ReinforceConfig(iterations=60, learning_rate=3e-5, eval_every=10)
    )
    """Settings of REINFORCE."""
    device: str = "cpu"
    """``auto``, ``cpu``, ``cuda`` ...; the model is so small that the CPU serves best."""
    quiet: Flag = False
    """No progress bars."""

    def run(self) -> int:
        """Run all seeds, print the table, draw the curve."""
        self._refuse()
        results = []
        with measure() as usage, one_thread():
            for seed in range(self.seeds):
                say(f"seed {seed}: pretraining, control, REINFORCE ...")
                tests = self._run_seed(seed)
                if tests is None:
                    return INTERRUPTED
                results.append(compare(tests))
        summary = {"seeds": results, "over_seeds": over_seeds(results), "cost": {"demo": usage.to_json()}}
        write_json(self.out / "metrics.json", summary)
        curve = draw_demo_curve(self.out, self.seeds)
        screen = console()
        screen = screen if screen.is_terminal else console(width=120)  # a log file has no width of its own
        screen.print(demo_table(results))
        say(f"{usage.seconds:.0f} s, peak memory {usage.peak_memory_mib:.0f} MiB")
        say(f"picture: {curve}; numbers: {self.out / 'metrics.json'}; tensorboard --logdir {self.out}")
        return 0

    def _refuse(self) -> None:
        """Refuse what does not fit before anything is made."""
        dataset = load_dataset(TARGET.dataset)
        backbone = backbone_for(dataset, TARGET.spec.backbone, seed=0)
        with of_group("pretrain"):
            selecting_metric(self.pretrain.select_on, dataset)
        resolve_device(self.device)
        with of_group("agent"):
            make_agent(
                DiffusionPolicy(backbone, TARGET.spec.num_steps), TARGET, self.agent, {}, 0, self.device
            )

    def _run_seed(self, seed: int) -> dict[str, Evaluation] | None:
        """Train the three models of a seed and evaluate them on test; None where Ctrl-C ended it."""
        dataset = load_dataset(TARGET.dataset)
        pretrained = self._pretrain("pretrained", self.pretrain, dataset, seed)
        self._pretrain("control", replace(self.pretrain, target="recent"), dataset, seed)
        policy = DiffusionPolicy.load(pretrained.path)
        settings = {"init": str(pretrained.path), "agent": plain(self.agent)}
        report = finetune_run(
            make_agent(policy, TARGET, self.agent, {}, seed, self.device),
            self._folder("reinforce", "finetune", settings, seed),
            progress=not self.quiet,
            pretraining=pretrained.metrics["cost"]["pretraining"],
        )
        if report is None:
            return None
        return {
            name: evaluate(DiffusionPolicy.load(self.out / f"seed-{seed}" / name).scorer(dataset), dataset)
            for name in MODELS
        }

    def _pretrain(self, name: str, config: PretrainConfig, dataset: Dataset, seed: int) -> RunFolder:
        backbone = backbone_for(dataset, TARGET.spec.backbone, seed=seed)
        trainer = Pretrainer(dataset, backbone, config, seed=seed, device=self.device)
        folder = self._folder(name, "pretrain", {"pretrain": plain(config)}, seed)
        pretrain_run(
            trainer, folder, DiffusionPolicy(backbone, TARGET.spec.num_steps), progress=not self.quiet
        )
        return folder

    def _folder(self, name: str, command: str, settings: dict[str, Any], seed: int) -> RunFolder:
        common = {"env": TARGET.env_id, "data": None, "seed": seed}
        return RunFolder.create(self.out / f"seed-{seed}" / name, command, common | settings, overwrite=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: matrices this small gain nothing from two, which waste time on each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def compare(tests: dict[str, Evaluation]) -> dict[str, Any]:
    """One seed's result: test metrics of the models, and REINFORCE against the two others, user by user."""
    values = {name: {m: test.per_user[m] for m in REPORTED} for name, test in tests.items()}
    out: dict[str, Any] = {"users": len(tests["reinforce"].users)}
    out |= {name: reported(test.means()) for name, test in tests.items()}
    for rival in ("pretrained", "control"):
        table = paired_bootstraps(values[rival], values["reinforce"])
        out[f"reinforce_over_{rival}"] = {m: table[m].to_json() for m in REPORTED}
    return out


def over_seeds(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds with Student's intervals: of the models and of the differences."""
    out: dict[str, Any] = {
        name: {m: mean_interval([r[name][m] for r in results]).to_json() for m in REPORTED} for name in MODELS
    }
    for rival in ("reinforce_over_pretrained", "reinforce_over_control"):
        out[rival] = {
            m: mean_interval([r[rival][m]["mean_difference"] for r in results]).to_json() for m in REPORTED
        }
    return out


def demo_table(results: Sequence[dict[str, Any]]) -> Table:
    """Every seed's test metrics before and after, beside the control, and their means over seeds."""
    table = Table(title=f"{TARGET.env_id}, test, {results[0]['users']} users: before and after REINFORCE")
    table.add_column("metric")
    table.add_column("seed")
    for name in ("before", "after", "after - before [95 %]", "same-information ELBO", "after - that [95 %]"):
        table.add_column(name, justify="right")
    summary = over_seeds(results)
    for metric, label in SHOWN.items():
        for seed, result in enumerate(results):
            gains = [result[f"reinforce_over_{rival}"][metric] for rival in ("pretrained", "control")]
            spans = [_span(gain["mean_difference"], gain["low"], gain["high"]) for gain in gains]
            table.add_row(
                label if seed == 0 else "", str(seed), *_cells({m: result[m][metric] for m in MODELS}, spans)
            )
        gains = [summary[f"reinforce_over_{rival}"][metric] for rival in ("pretrained", "control")]
        spans = [_span(gain["mean"], gain["low"], gain["high"]) for gain in gains]
        means = {m: summary[m][metric]["mean"] for m in MODELS}
        table.add_row("", "mean", *_cells(means, spans), style="bold", end_section=True)
    table.caption = "Intervals: of a seed, paired bootstrap over users; of the mean, Student's t over seeds."
    return table


def draw_demo_curve(out: Path, seeds: int) -> Path:
    """Draw ``curve.png``: each seed faintly, their mean strongly, the control as a level."""
    logs = [read_log(out / f"seed-{seed}" / "reinforce") for seed in range(seeds)]
    panels: dict[str, dict[str, Series]] = {}
    for title, name in (("reward (train)", "reward/mean"), ("validation NDCG@20", "valid/ndcg@20")):
        lines = [column(log, name) for log in logs]
        panels[title] = {f"_seed {seed}": line for seed, line in enumerate(lines)}
        panels[title]["REINFORCE, mean over seeds"] = mean_line(lines)
    steps = mean_line([column(log, "valid/ndcg@20") for log in logs])[0]
    runs = [RunFolder(out / f"seed-{seed}" / "control") for seed in range(seeds)]
    level = sum(run.metrics["valid"]["ndcg@20"] or 0.0 for run in runs) / seeds
    panels["validation NDCG@20"]["same-information ELBO"] = ([steps[0], steps[-1]], [level, level])
    return plot_curves(panels, out / "curve.png", title=f"{TARGET.env_id}: fine-tuning by REINFORCE")


def _cells(means: dict[str, float], spans: Sequence[str]) -> list[str]:
    before, control, after = (f"{means[name]:.4f}" for name in MODELS)
    return [before, after, spans[0], control, spans[1]]


def _span(mean: float, low: float | None, high: float | None) -> str:
    """A difference and its interval; one seed has none."""
    if low is None or high is None:
        return f"{mean:+.4f}"
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    command: Demo = parse(Demo, words, "refit demo")
    return command.run()
