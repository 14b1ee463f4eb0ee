"""The work of ``refit demo``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from agents.commands.demo import Demo
from agents.commands.finetune_run import finetune_run, make_agent, outcome_of
from agents.commands.measures import REPORTED, reported
from agents.commands.options import of_group
from agents.commands.pretrain_run import pretrain_run
from agents.commands.target import Target
from agents.console import console, print_json, say, shows_progress
from agents.runs.folder import RunFolder
from agents.runs.log import read_log
from agents.runs.plots import Panel, column, mean_line, plot_curves
from agents.runs.profiling import measure
from agents.training.interrupt import INTERRUPTED
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer
from agents.training.tensors import resolve_device
from refit_env.backbones import backbone_for
from refit_env.data import Dataset, load_dataset
from refit_env.evaluation.ranking import Evaluation, evaluate, selecting_rule
from refit_env.evaluation.statistics import mean_interval, paired_bootstraps
from refit_env.policy import DiffusionPolicy
from refit_env.settings import plain
from refit_env.utils.atomic_io import write_json

TARGET = Target("ReFiT-Synthetic-v0", None)
MODELS = ("pretrained", "control", "reinforce")
"""The folders of a seed."""
SHOWN = {"ndcg@20": "NDCG@20", "recall@20": "Recall@20"}
TITLES = {"pretrained": "before", "control": "control", "reinforce": "after"}
"""What the screen calls the models."""


def run(command: Demo) -> int:
    """Run all seeds, print the table and its sentence, draw the curve; returns the exit code."""
    _refuse(command)
    dataset, results = load_dataset(TARGET.dataset), []
    say(explanation(dataset, command.seeds), stderr=command.json)
    with measure() as usage, one_thread():
        for seed in range(command.seeds):
            say(f"seed {seed}: {', '.join(TITLES.values())} ...", stderr=command.json)
            tests = _run_seed(command, dataset, seed)
            if tests is None:
                return INTERRUPTED
            results.append(compare(tests))
    summary = {"seeds": results, "over_seeds": over_seeds(results), "cost": {"demo": usage.to_json()}}
    write_json(command.out / "metrics.json", summary)
    curve = draw_demo_curve(command.out, command.seeds)
    if command.json:
        print_json({"out": str(command.out), "sentence": sentence(results), **summary})
        return 0
    screen = console()
    screen = screen if screen.is_terminal else console(width=120)  # a log file has no width of its own
    screen.print(demo_table(results))
    say(f"{usage.seconds:.0f} s, peak memory {usage.peak_memory_mib:.0f} MiB")
    say(f"picture: {curve}; numbers: {command.out / 'metrics.json'}; tensorboard --logdir {command.out}")
    say(sentence(results))
    return 0


def explanation(dataset: Dataset, seeds: int) -> str:
    """What the demo compares, for the screen."""
    entry, name = TARGET.spec, TARGET.spec.backbone
    size = f"{dataset.num_users} users, {dataset.num_items} items"
    return "\n".join(
        [
            f"{TARGET.env_id} ({size}, made by a generator): three models for each of {seeds} seed"
            + ("s" if seeds > 1 else ""),
            f"  before   {name}, trained by its own loss",
            f"  control  {name}, trained by its own loss on the information that the reward has: the earlier",
            "           part of a history in, the whole history out",
            f"  after    the model 'before', fine-tuned by REINFORCE on the reward {entry.reward} (relevance "
            f"{entry.relevance})",
            "What 'after' gains over 'control' comes from reinforcement learning, not from the information.",
        ]
    )


def sentence(results: Sequence[dict[str, Any]]) -> str:
    """The result in one line: test NDCG@20 before and after, and that of the control, means over seeds.

    Example:
        >>> seeds = [{"pretrained": 0.323, "reinforce": 0.433, "control": 0.406}]
        >>> print(sentence([{name: {"ndcg@20": value} for name, value in seeds[0].items()}]))
        NDCG@20 .323 -> .433, +34 %; the same information without RL: .406
    """
    before, control, after = (sum(r[name]["ndcg@20"] for r in results) / len(results) for name in MODELS)
    gain = f", {100 * (after / before - 1):+.0f} %" if before else ""
    rise = f"NDCG@20 {_short(before)} -> {_short(after)}{gain}"
    return f"{rise}; the same information without RL: {_short(control)}"


def _short(value: float) -> str:
    """A share with three digits, as tables print it: .323."""
    return f"{value:.3f}".removeprefix("0")


def _refuse(command: Demo) -> None:
    """Refuse settings that do not fit before anything is made."""
    dataset = load_dataset(TARGET.dataset)
    backbone = backbone_for(dataset, TARGET.spec.backbone, seed=0)
    with of_group("pretrain"):
        selecting_rule(command.pretrain.select, dataset)
    resolve_device(command.device)
    policy = DiffusionPolicy(backbone, TARGET.spec.num_steps)
    with of_group("agent"):
        make_agent(policy, TARGET, command.agent, {}, 0, command.device)


def _run_seed(command: Demo, dataset: Dataset, seed: int) -> dict[str, Evaluation] | None:
    """Train the three models of a seed and evaluate them on test; None where Ctrl-C ended it."""
    pretrained = _pretrain(command, "pretrained", command.pretrain, dataset, seed)
    _pretrain(command, "control", replace(command.pretrain, target="recent"), dataset, seed)
    policy = DiffusionPolicy.load(pretrained.path)
    settings = {"init": str(pretrained.path), "agent": plain(command.agent)}
    report = finetune_run(
        make_agent(policy, TARGET, command.agent, {}, seed, command.device),
        _folder(command, "reinforce", "finetune", settings, seed),
        progress=shows_progress(command.quiet),
        pretraining=pretrained.metrics["cost"]["pretraining"],
    )
    if report is None:
        return None
    if report["training"]["best_iteration"] == 0:
        say(f"seed {seed}: {outcome_of(report['training'])}", stderr=command.json)
    return {
        name: evaluate(DiffusionPolicy.load(command.out / f"seed-{seed}" / name).scorer(dataset), dataset)
        for name in MODELS
    }


def _pretrain(command: Demo, name: str, config: PretrainConfig, dataset: Dataset, seed: int) -> RunFolder:
    """Pretrain one model in the folder ``name`` of the seed."""
    backbone = backbone_for(dataset, TARGET.spec.backbone, seed=seed)
    trainer = Pretrainer(dataset, backbone, config, seed=seed, device=command.device)
    folder = _folder(command, name, "pretrain", {"pretrain": plain(config)}, seed)
    policy = DiffusionPolicy(backbone, TARGET.spec.num_steps)
    if pretrain_run(trainer, folder, policy, progress=shows_progress(command.quiet)) is None:
        raise KeyboardInterrupt
    return folder


def _folder(command: Demo, model: str, kind: str, settings: dict[str, Any], seed: int) -> RunFolder:
    """A new run folder for a model of the seed, as the command ``kind`` makes one."""
    common = {"env": TARGET.env_id, "data": None, "seed": seed}
    path = command.out / f"seed-{seed}" / model
    return RunFolder.create(path, kind, common | settings, overwrite=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch uses one thread: for matrices this small a second one costs more than it gains."""
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
    for other in ("pretrained", "control"):
        table = paired_bootstraps(values[other], values["reinforce"])
        out[f"reinforce_over_{other}"] = {m: table[m].to_json() for m in REPORTED}
    return out


def over_seeds(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds with Student's intervals: of the models and of the differences."""
    out: dict[str, Any] = {
        name: {m: mean_interval([r[name][m] for r in results]).to_json() for m in REPORTED} for name in MODELS
    }
    for other in ("reinforce_over_pretrained", "reinforce_over_control"):
        out[other] = {
            m: mean_interval([r[other][m]["mean_difference"] for r in results]).to_json() for m in REPORTED
        }
    return out


def demo_table(results: Sequence[dict[str, Any]]) -> Table:
    """Every seed's test metrics before and after, beside the control, and their means over seeds."""
    table = Table(title=f"{TARGET.env_id}, test, {results[0]['users']} users: before and after REINFORCE")
    table.add_column("metric")
    table.add_column("seed")
    for name in ("before", "after", "after - before [95 %]", "control", "after - control [95 %]"):
        table.add_column(name, justify="right")
    summary = over_seeds(results)
    for metric, label in SHOWN.items():
        for seed, result in enumerate(results):
            gains = [result[f"reinforce_over_{other}"][metric] for other in ("pretrained", "control")]
            spans = [_span(gain["mean_difference"], gain["low"], gain["high"]) for gain in gains]
            table.add_row(
                label if seed == 0 else "", str(seed), *_cells({m: result[m][metric] for m in MODELS}, spans)
            )
        gains = [summary[f"reinforce_over_{other}"][metric] for other in ("pretrained", "control")]
        spans = [_span(gain["mean"], gain["low"], gain["high"]) for gain in gains]
        means = {m: summary[m][metric]["mean"] for m in MODELS}
        table.add_row("", "mean", *_cells(means, spans), style="bold", end_section=True)
    table.caption = "Intervals: of a seed, paired bootstrap over users; of the mean, Student's t over seeds."
    return table


def draw_demo_curve(out: Path, seeds: int) -> Path:
    """Draw ``curve.png``: each seed faintly, their mean strongly, start and control as horizontal lines."""
    logs = [read_log(out / f"seed-{seed}" / "reinforce") for seed in range(seeds)]
    runs = {name: [RunFolder(out / f"seed-{seed}" / name) for seed in range(seeds)] for name in MODELS}
    controls = [run.metrics["valid"]["ndcg@20"] or 0.0 for run in runs["control"]]
    best = [run.metrics["training"]["best_iteration"] for run in runs["reinforce"]]
    which = (
        f"{best[0]}" if len(set(best)) == 1 else f"{min(best)} to {max(best)}, mean {sum(best) / seeds:.0f}"
    )
    chosen = (f"chosen: iteration {which}", sum(best) / seeds)
    panels = []
    for title, name, ylabel in (
        ("training", "reward/mean", "reward of the batch"),
        ("validation", "valid/ndcg@20", "NDCG@20, mean over users"),
    ):
        lines = [column(log, name) for log in logs]
        drawn = {f"_seed {seed}": line for seed, line in enumerate(lines)}
        drawn["REINFORCE" + (f", mean of {seeds} seeds" if seeds > 1 else "")] = mean_line(lines)
        starts = [line[1][0] for line in lines if line[1]]
        levels = {"before": sum(starts) / seeds, "control": sum(controls) / seeds} if "valid" in name else {}
        panels.append(Panel(title, drawn, ylabel, levels, chosen))
    return plot_curves(panels, out / "curve.png", title=f"{TARGET.env_id}: fine-tuning by REINFORCE")


def _cells(means: dict[str, float], spans: Sequence[str]) -> list[str]:
    before, control, after = (f"{means[name]:.4f}" for name in MODELS)
    return [before, after, spans[0], control, spans[1]]


def _span(mean: float, low: float | None, high: float | None) -> str:
    """A difference and its interval; one seed has none."""
    if low is None or high is None:
        return f"{mean:+.4f}"
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
