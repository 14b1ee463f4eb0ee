"""What a GPU does with the default agent, in under four minutes: ``python -m benchmarks.gpu --out FOLDER``.

- iterations a second in float32 and bf16, and their time as a ratio to that of the bare matrix products;
- NDCG@20 after the same fine-tuning in both;
- peak memory of fine-tuning over that of pretraining, allocated by torch and of the process;
- seconds of an epoch, of pretraining to its end, of an iteration and of an evaluation;
- the tests that are skipped where there is no GPU.

Every part is measured even if another fails. Without the real data, synthetic sets of the same sizes are
used. ``--device cpu`` runs the same on a CPU, to try the script.
"""

from __future__ import annotations

import argparse
import copy
import gc
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from agents.algorithms.configs import ReinforceConfig
from agents.training.precision import policies_in
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer
from benchmarks.harness import in_turns, report
from benchmarks.workloads import NUM_STEPS, bare_products, default_policy, load_or_generate, make_agent
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy

TESTS = (
    "tests/agents/test_devices.py",
    "tests/agents/training/test_tensors.py",
    "tests/refit_env/evaluation/test_metrics.py",
    "tests/refit_env/envs/test_vector.py",
    "tests/refit_env/envs/wrappers/test_vector.py",
    "tests/refit_env/rewards/test_properties.py",
    "tests/refit_env/test_policy.py",
)
"""Files with tests for a GPU."""
TARGET_MEMORY = 1.0122
TARGET_RATIO = 1.15
MIB = 1024.0 * 1024.0
Rows = Iterator[list[str]]


def synchronised(call: Callable[[], Any], device: str) -> Callable[[], None]:
    """Return ``call`` followed by a wait for the device."""

    def run() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def iterations(device: str, epochs: int) -> Rows:
    """Time the default iteration in each precision, alternately with its bare products."""
    for name in ("ml-1m", "gowalla"):
        data, label = load_or_generate(name)
        for reward in ("racs", "ndcg"):
            contestants: dict[str, Callable[[], Any]] = {}
            for precision in ("fp32", "bf16"):
                agent = make_agent(
                    data, default_policy(data), reward, ReinforceConfig(precision=precision), device
                )
                users = torch.as_tensor(agent.env.problem.users[: agent.config.users_per_batch])
                contestants[precision] = synchronised(partial(in_precision, agent, users), device)
            products, operations = bare_products(agent)
            contestants["bare products"] = synchronised(products, device)
            timings = in_turns(contestants, rounds=5)
            bare = timings["bare products"].median
            for kind, timing in timings.items():
                cells = [f"{label}, {reward}, {kind}: iterations a second", f"{1 / timing.median:.1f}"]
                ratio = f"{timing.median / bare:.2f} of bare products in float32"
                yield [*cells, f"{ratio}, {operations / 1e9:.0f} GFLOP", f"{TARGET_RATIO}"]
            del contestants, agent, products


def in_precision(agent: Any, users: torch.Tensor) -> None:
    """Make one update on fixed users in the agent's precision."""
    with policies_in(agent.config.precision, agent.policy, agent.reference):
        agent.update(users.to(agent.device))


def quality(device: str, epochs: int) -> Rows:
    """Pretrain once, fine-tune in each precision, and compare the test metrics; also the times of it."""
    data, label = load_or_generate("ml-1m")
    config = PretrainConfig(epochs=epochs)
    trained = Pretrainer(data, default_policy(data).backbone, config, device=device)
    result = trained.learn()
    epoch = result.seconds / max(len(result.history) - 1, 1)
    yield [f"{label}: seconds of an epoch", f"{epoch:.3f}", "batches of 400", ""]
    count = len(result.history) - 1
    yield [f"{label}: seconds of pretraining", f"{result.seconds:.1f}", f"{count} epochs", ""]
    for precision in ("fp32", "bf16"):
        settings = ReinforceConfig(iterations=100, eval_every=25, precision=precision)
        agent = make_agent(data, copy_of(result.backbone), "racs", settings, device)
        before, tuned = agent.evaluate("test", start=True).means(), agent.learn()
        after = agent.evaluate("test").means()
        each = tuned.seconds / max(len(tuned.history) - 1, 1)
        yield [
            f"{label}, {precision}: test NDCG@20 after fine-tuning",
            f"{after['ndcg@20']:.4f}",
            f"{before['ndcg@20']:.4f} before; {1e3 * each:.1f} ms an iteration",
            "",
        ]
        if precision == "fp32":
            yield [f"{label}: iterations in an epoch's time", f"{epoch / each:.1f}", "", ""]
            times = f"{result.seconds / each:.0f}"
            yield [f"{label}: pretraining over an iteration", times, "", "40"]
    with torch.no_grad():
        score = agent.policy.scorer(data)
        evaluate(score, data, "test", device=device)
        begin = time.perf_counter()
        evaluate(score, data, "test", device=device)
        spent = time.perf_counter() - begin
    yield [f"{label}: users evaluated a second", f"{data.num_users / spent:.0f}", "", ""]


def copy_of(backbone: Any) -> DiffusionPolicy:
    """Return a policy with a copy of the backbone."""
    return DiffusionPolicy(copy.deepcopy(backbone), NUM_STEPS)


def memory(device: str, epochs: int) -> Rows:
    """Measure the peak memory of an epoch of pretraining and of fine-tuning with the same batch."""
    if device != "cuda":
        yield ["VRAM", "", "needs CUDA", ""]
        return
    for name, backbone, size in (
        ("ml-1m", "diffrec", "published"),
        ("ml-1m", "cf-diff", "small"),
        ("gowalla", "diffrec", "published"),
    ):
        data, label = load_or_generate(name)
        found: dict[str, tuple[float, float]] = {}
        for row in ("pretraining", "fine-tuning"):
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            policy = default_policy(data, backbone, size)
            if row == "pretraining":
                config = PretrainConfig(users_per_batch=128, epochs=1)
                Pretrainer(data, policy.backbone, config, device=device).learn()
            else:
                settings = ReinforceConfig(iterations=5, eval_every=5)
                make_agent(data, policy, "racs", settings, device).learn()
            free, total = torch.cuda.mem_get_info()
            context = total - free - torch.cuda.memory_reserved()
            peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved() + context
            found[row] = peaks[0] / MIB, peaks[1] / MIB
            del policy
        for place, what in enumerate(("allocated by torch", "of the process")):
            before, after = found["pretraining"][place], found["fine-tuning"][place]
            yield [
                f"{label}, {backbone} ({size}): VRAM {what}, fine-tuning over pretraining",
                f"{100 * (after / before - 1):+.2f} %",
                f"{before:.0f} and {after:.0f} MiB",
                f"{100 * (TARGET_MEMORY - 1):+.2f} %",
            ]


def device_tests(device: str, epochs: int) -> Rows:
    """Run the tests for a GPU."""
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        *("-p", "no:xdist", "-p", "no:benchmark"),  # plugins that warn about each other
        "-x",
        "-m",
        "not slow",
        "-k",
        "cuda or gpu or device",
        *TESTS,
    ]
    begin = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, timeout=140, check=False)
    last = (done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]])[-1]
    if done.returncode:
        print(done.stdout[-6000:], done.stderr[-2000:])
    spent = time.perf_counter() - begin
    yield ["tests for a GPU", "passed" if done.returncode == 0 else "failed", last, ""]
    yield ["tests for a GPU: seconds", f"{spent:.0f}", "", ""]


PARTS: dict[str, Callable[[str, int], Rows]] = {
    "iterations": iterations,
    "quality": quality,
    "memory": memory,
    "tests": device_tests,
}
"""In order of importance: the time may not suffice for all."""


def main() -> None:
    """Measure all parts, print the table after each, and write ``gpu.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the result file")
    parser.add_argument("--device", default="cuda", help="device to measure")
    parser.add_argument("--epochs", type=int, default=200, help="epochs of pretraining, at most")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    options = parser.parse_args()
    rows: list[list[str]] = []
    seconds: dict[str, float] = {}
    for name in options.parts:
        begin = time.perf_counter()
        try:
            for row in PARTS[name](options.device, options.epochs):
                rows.append(row)
        except Exception as error:
            traceback.print_exc()
            rows.append([f"{name}: failed", "", f"{type(error).__name__}: {str(error)[:200]}", ""])
        seconds[name] = time.perf_counter() - begin
        where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
        report(
            "gpu",
            title=f"The default agent on {where}",
            command="python -m benchmarks.gpu --out FOLDER",
            columns=["what", "found", "detail", "target"],
            rows=rows,
            note="Parts took " + ", ".join(f"{n} {s:.0f} s" for n, s in seconds.items()) + ".",
            folder=options.out,
            seconds=seconds,
        )


if __name__ == "__main__":
    main()
