from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from agents.runs.files import CONFIG, EARLIER, RunError
from agents.runs.folder import RunFolder, check_no_run
from refit_env.policy import OF_RUNS
from tests.files import content_of
from tests.fuzzing import generators, mutate_json

SETTINGS = {"env": "ReFiT-Synthetic-v0", "seed": 3}


def finished(path: Path) -> RunFolder:
    run = RunFolder.create(path, "pretrain", SETTINGS)
    for name in ("policy.safetensors", "log.csv", "curve.png", "pretrain.safetensors"):
        (path / name).write_text("x")
    (path / "policy.json").write_text('{"weights": "0123456789abcdef"}')
    (path / "tb").mkdir()
    (path / "tb" / "events.out.tfevents.1").write_text("x")
    run.finish(
        {"test": {"ndcg@20": 0.25, "recall@20": float("nan")}, "training": {"list": [float("inf"), 1]}}
    )
    return run


def test_a_new_run_says_how_to_repeat_it(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "a" / "b", "pretrain", SETTINGS)
    assert run.exists() and not run.finished()
    assert run.config["command"] == "pretrain" and run.config["seed"] == 3
    assert run.config["made_with"]["torch"].startswith("2.")
    assert run.describe() == "pretrain of ReFiT-Synthetic-v0, seed 3, not finished"


def test_a_finished_run_has_metrics_and_no_resume_state(tmp_path: Path) -> None:
    run = finished(tmp_path)
    assert run.finished() and not (tmp_path / "pretrain.safetensors").exists()
    assert run.metrics == {
        "test": {"ndcg@20": 0.25, "recall@20": None},
        "training": {"list": [None, 1]},
        "weights": "0123456789abcdef",
    }
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)


def test_weights_of_another_training_are_refused(tmp_path: Path) -> None:
    run = finished(tmp_path)
    run.check_weights("0123456789abcdef")
    with pytest.raises(RunError, match=r"weights fedcba, .* with 0123456789ab.*--other-weights"):
        run.check_weights("fedcba")
    (tmp_path / "metrics.json").write_text("{}")  # of an earlier version
    run.check_weights("fedcba")
    (tmp_path / "metrics.json").unlink()
    run.check_weights("fedcba")


def test_a_finished_run_says_how_its_model_is_trained_further(tmp_path: Path) -> None:
    finished(tmp_path)
    with pytest.raises(
        RunError, match=r"is finished, and .* refit pretrain --init \S+ --out OTHER --epochs MORE"
    ):
        RunFolder.resume(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_is_not_begun_in_the_folder_of_a_data_set(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(RunError, match=r"is a data set's folder \(dataset\.json\)"):
        RunFolder.create(tmp_path, "pretrain", SETTINGS, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


def test_a_run_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        RunError, match=r"holds a run already .pretrain of ReFiT-Synthetic-v0, seed 3, finished"
    ):
        RunFolder.create(tmp_path, "pretrain", SETTINGS)
    run = RunFolder.create(tmp_path, "finetune", SETTINGS, overwrite=True)
    names = sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("."))
    assert names == ["config.json", "notes.txt"]  # others' files stay
    run.finish({})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "metrics.json", "notes.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("there", [None, "log.csv", "tb"])
def test_a_run_that_failed_before_it_had_a_state_gives_the_replaced_one_back(
    there: str | None, error: type[BaseException], tmp_path: Path
) -> None:
    finished(tmp_path)
    before = content_of(tmp_path)
    with pytest.raises(error), RunFolder.create(tmp_path, "finetune", SETTINGS, overwrite=True) as run:
        if there is not None:
            (run.path / there).mkdir() if there == "tb" else (run.path / there).write_text("new")
        raise error
    assert content_of(tmp_path) == before


def failed_with_a_state(folder: Path) -> None:
    with (
        pytest.raises(ValueError, match="late"),
        RunFolder.create(folder, "finetune", SETTINGS, overwrite=True),
    ):
        (folder / "resume.safetensors").write_text("new")
        raise ValueError("late")


def test_a_run_that_failed_with_a_state_keeps_the_finished_one_until_it_is_finished(tmp_path: Path) -> None:
    finished(tmp_path)
    before = {f".earlier/{name}": content for name, content in content_of(tmp_path).items()}
    failed_with_a_state(tmp_path)
    mine = ["config.json", "resume.safetensors"]
    assert content_of(tmp_path).items() >= before.items()
    assert sorted(content_of(tmp_path).keys() - before.keys()) == mine
    failed_with_a_state(tmp_path)  # a second one
    assert content_of(tmp_path).items() >= before.items()
    with RunFolder.resume(tmp_path) as run:
        run.finish({})
    assert sorted(content_of(tmp_path)) == ["config.json", "metrics.json"]
    assert RunFolder(tmp_path).config["command"] == "finetune"


def test_what_replaces_a_failed_run_and_ends_with_nothing_gives_the_finished_one_back(tmp_path: Path) -> None:
    finished(tmp_path)
    before = content_of(tmp_path)
    failed_with_a_state(tmp_path)
    with pytest.raises(ValueError, match="early"), RunFolder.create(tmp_path, "x", SETTINGS, overwrite=True):
        raise ValueError("early")
    assert content_of(tmp_path) == before


def test_a_run_that_has_a_state_replaces_one_that_is_not_finished(tmp_path: Path) -> None:
    failed_with_a_state(tmp_path)
    failed_with_a_state(tmp_path)
    assert sorted(content_of(tmp_path)) == ["config.json", "resume.safetensors"]


@pytest.mark.parametrize("stop", range(14))
def test_a_process_killed_at_any_move_loses_no_run(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file was moved last when a process was killed: the next one finds the earlier run whole."""
    finished(tmp_path)
    before, moved, move = content_of(tmp_path), [], Path.replace

    def killed_after(source: Path, target: Path) -> Path:
        if len(moved) == stop:
            raise SystemExit
        moved.append(source.name)
        return move(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed_after)
        with pytest.raises(SystemExit):
            run = RunFolder(tmp_path)
            run._set_earlier_aside()
            run.write_config("finetune", SETTINGS)
            (tmp_path / "log.csv").write_text("new")
            run._settle()
            raise SystemExit
    with pytest.raises(RunError, match=r"holds a run already .pretrain of .*, finished"):
        RunFolder.create(tmp_path, "pretrain", SETTINGS)
    assert content_of(tmp_path) == before


@pytest.mark.parametrize("name", ["metrics.json", "log.csv", "curve.png", "policy.json", "tb"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_that_are_no_runs_are_not_replaced(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / name).mkdir() if name == "tb" else (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match=f"holds {name}, which a run would replace, .* another folder"):
        RunFolder.create(tmp_path, "pretrain", SETTINGS, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert name == "tb" or (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(("there", "kept"), [("log.csv", False), ("resume.safetensors", True)])
@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_run_that_failed_is_kept_if_it_can_be_resumed(
    there: str, kept: bool, error: type[BaseException], tmp_path: Path
) -> None:
    with pytest.raises(error), RunFolder.create(tmp_path / "run", "finetune", SETTINGS) as run:
        (run.path / there).write_text("x")
        raise error
    assert (tmp_path / "run").exists() == (kept or error is KeyboardInterrupt)


def test_a_run_that_failed_again_is_kept_and_so_is_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    RunFolder.create(tmp_path, "finetune", SETTINGS).close()
    before = content_of(tmp_path)
    with pytest.raises(ValueError, match="again"), RunFolder.resume(tmp_path):
        raise ValueError("again")
    assert content_of(tmp_path) == before
    with (
        pytest.raises(ValueError, match="anew"),
        RunFolder.create(tmp_path, "finetune", SETTINGS, overwrite=True),
    ):
        raise ValueError("anew")
    assert content_of(tmp_path) == before


def test_a_missing_run_names_what_is_missing(tmp_path: Path) -> None:
    finished(tmp_path / "elbo")
    with pytest.raises(RunError, match=r"no run folder .*elbu'. Runs in .*: elbo\."):
        RunFolder.open(tmp_path / "elbu")
    with pytest.raises(RunError, match="there is no folder"):
        RunFolder.open(tmp_path / "nowhere" / "elbo")
    (tmp_path / "elbo" / "policy.safetensors").unlink()
    with pytest.raises(RunError, match=r"policy\.safetensors missing\. It holds: config\.json"):
        RunFolder.open(tmp_path / "elbo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"config\.json, policy\.safetensors missing\. It holds: nothing"):
        RunFolder.open(tmp_path / "empty")


def test_a_file_is_not_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        RunFolder.create(tmp_path / "file", "pretrain", SETTINGS)
    with pytest.raises(RunError, match="no run folder"):
        RunFolder.open(tmp_path / "file")


# ---------------------------------------------------------------------- the lock


def test_a_run_that_a_process_works_on_is_left_alone(tmp_path: Path) -> None:
    first = RunFolder.create(tmp_path, "pretrain", SETTINGS)
    for act in (
        lambda: RunFolder.create(tmp_path, "pretrain", SETTINGS, overwrite=True),
        lambda: RunFolder.resume(tmp_path),
    ):
        with pytest.raises(RunError, match=f"another process works on the run in {tmp_path} now"):
            act()
    assert first.config["seed"] == 3  # nothing was replaced
    assert RunFolder.open(tmp_path, needs=("config.json",)).describe().endswith("not finished")
    first.close()
    with RunFolder.resume(tmp_path) as again:
        with pytest.raises(RunError, match="another process"):
            RunFolder.resume(tmp_path)
        again.finish({})
    assert not (tmp_path / ".lock").exists()
    with pytest.raises(RunError, match="is finished, and a finished run"):
        RunFolder.resume(tmp_path)
    RunFolder.create(tmp_path, "pretrain", SETTINGS, overwrite=True).close()  # a refusal keeps no lock


def test_a_process_that_was_killed_holds_no_lock_and_leaves_no_halves(tmp_path: Path) -> None:
    program = (
        "import os, sys; from agents.runs.folder import RunFolder\n"
        "from refit_env.utils.atomic_io import atomic_path\n"
        f"run = RunFolder.create({str(tmp_path)!r}, 'pretrain', {SETTINGS!r})\n"
        "with atomic_path(run.path / 'resume.safetensors') as half, atomic_path(run.path / 'mine.json'):\n"
        "    half.write_bytes(b'x'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    halves = [path.name for path in tmp_path.glob(".resume.safetensors.*")]
    assert len(halves) == 1
    (tmp_path / ".log.csv.123").write_text("x")
    with RunFolder.resume(tmp_path):
        left = sorted(path.name for path in tmp_path.iterdir())
        assert left[0].startswith(".lock") and left[1].startswith(".mine.json.")  # others' files stay
        assert left[2:] == ["config.json"]


def test_a_run_never_replaces_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    for other in ("base", tmp_path / "base", "x/../base"):
        with pytest.raises(RunError, match="--out base is the folder of --init"):
            RunFolder.create("base", "finetune", SETTINGS, overwrite=True, needs={"--init": other})
    assert (tmp_path / "base" / "policy.safetensors").exists()


# ---------------------------------------------------------------------- damaged files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"config\.json: must be an object {...}, found a list"),
        ("3", r"config\.json: must be an object {...}, found a whole number"),
        ("{}", r"config\.json: command is missing"),
        ("null", r"config\.json: must be an object {...}, found null"),
        ('{"command": "pretrain", "env": 3}', r"env must be text, found a whole number"),
        ('{"command": "pretrain", "env": "x", "seed": "1"}', r"seed must be a whole number, found text"),
        ("[" * 100_000, r"config\.json: "),
        ("\x00", r"config\.json: not a JSON file"),
    ],
)
def test_a_damaged_config_is_named(content: str, message: str, tmp_path: Path) -> None:
    run = finished(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunError, match=message) as refused:
        _ = run.config
    assert len(str(refused.value)) < 400
    with pytest.raises(RunError, match=r"its config\.json is damaged, finished"):
        RunFolder.create(tmp_path, "pretrain", SETTINGS)  # it is a run all the same


def test_damaged_metrics_are_named(tmp_path: Path) -> None:
    run = finished(tmp_path)
    for content, message in [
        ("null", "found null"),
        ('{"cost": {"pretraining": 3}}', "must be an object {...}"),
    ]:
        (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(RunError, match=rf"metrics\.json: .*{message}"):
            _ = run.metrics
    (tmp_path / "metrics.json").write_text(" " * (2**20 + 1))
    with pytest.raises(RunError, match="a file of this kind has at most 1048576"):
        _ = run.metrics


@pytest.mark.fuzz
def test_damaged_records_are_refused_or_read(tmp_path: Path) -> None:
    run = finished(tmp_path)
    whole = {name: (tmp_path / name).read_bytes() for name in ("config.json", "metrics.json")}
    outcomes = set()
    for rng in generators():
        for name, content in whole.items():
            (tmp_path / name).write_bytes(mutate_json(content, rng))
            try:
                record = run.config if name == "config.json" else run.metrics
            except RunError as error:
                assert len(str(error)) < 1000 and name in str(error)
                outcomes.add((name, "refused"))
            else:
                assert isinstance(record, dict)
                outcomes.add((name, "read"))
        assert run.describe()
    assert len(outcomes) == 4


def set_aside_and_killed(folder: Path) -> dict[str, bytes]:
    """Leave what ``finetune --overwrite`` leaves when it is killed before its first state."""
    finished(folder)
    before = content_of(folder)
    run = RunFolder(folder)
    run._set_earlier_aside()
    run.write_config("finetune", SETTINGS)
    return before


@pytest.mark.parametrize("reader", [RunFolder.open, RunFolder.resume, check_no_run])
def test_a_reader_gives_back_what_a_killed_process_set_aside(
    reader: Callable[[Path], object], tmp_path: Path
) -> None:
    before = set_aside_and_killed(tmp_path)
    with suppress(RunError):  # finished, or not to be replaced
        reader(tmp_path)
    assert content_of(tmp_path) == before


def test_a_run_that_is_set_aside_now_is_named_and_stays_there(tmp_path: Path) -> None:
    finished(tmp_path)
    with RunFolder.create(tmp_path, "finetune", SETTINGS, overwrite=True):
        before = content_of(tmp_path)
        with pytest.raises(
            RunError, match=r"no finished run: .*The run that it is to replace is in .*earlier"
        ):
            RunFolder.open(tmp_path)
        assert content_of(tmp_path) == before


def test_a_policy_beside_a_run_set_aside_replaces_nothing(tmp_path: Path) -> None:
    set_aside_and_killed(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "policy.json").write_text("mine")
    (tmp_path / "policy.safetensors").write_text("mine")
    before = content_of(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(RunError, match="move one of them to another folder"):
            RunFolder.create(tmp_path, "finetune", SETTINGS, overwrite=overwrite)
    assert content_of(tmp_path) == before


def test_what_is_in_the_place_of_a_run_set_aside_is_not_touched(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / ".earlier").mkdir()
    (tmp_path / ".earlier" / "notes.txt").write_text("mine")
    before = content_of(tmp_path)
    with pytest.raises(RunError, match=r"\.earlier holds notes\.txt, which is of no run.*move it elsewhere"):
        RunFolder.create(tmp_path, "finetune", SETTINGS, overwrite=True)
    assert content_of(tmp_path) == before


def test_the_configuration_of_another_program_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"my": "app"}')
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"holds a config\.json that is of no run"):
            RunFolder.create(tmp_path, "finetune", SETTINGS, overwrite=overwrite)
    assert (tmp_path / "config.json").read_text() == '{"my": "app"}'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", "day,price", r"holds log\.csv of a run"),
        ("log.csv", "iteration,reward\n0,0.5\n1,0.6\n", r"holds log\.csv of a run"),
        ("tb/events.out.tfevents.1", "mine", "holds tb of a run"),
        ("config.json", "{}", r"holds config\.json of a run"),
        ("dataset.json", "{}", r"is a data set's folder"),
    ],
)
def test_a_training_replaces_no_file_of_others(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(RunError, match=message):
        check_no_run(tmp_path)


def test_the_log_of_a_training_that_did_not_begin_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "tb").mkdir()
    for content in ("iteration\n", "epoch,valid/ndcg@20\n0,0.25\n"):
        (tmp_path / "log.csv").write_text(content)
        check_no_run(tmp_path)


def test_the_metrics_of_a_fine_tuning_are_whole(tmp_path: Path) -> None:
    run = finished(tmp_path)
    whole = {"before": {"ndcg@20": 0.1}, "after": {"ndcg@20": 0.2}, "users": 3, "paired_bootstrap": {}}
    (tmp_path / "metrics.json").write_text(json.dumps(whole))
    assert run.metrics["users"] == 3
    for name in whole:
        (tmp_path / "metrics.json").write_text(json.dumps({k: v for k, v in whole.items() if k != name}))
        with pytest.raises(RunError, match=rf"metrics\.json: {name} is missing"):
            _ = run.metrics
    (tmp_path / "metrics.json").write_text('{"users": 3, "paired_bootstrap": {}}')  # as of a study
    assert run.metrics["users"] == 3


def test_a_policy_knows_the_folders_of_runs_by_their_files() -> None:
    """``refit_env`` does not import ``agents``: it names the two files itself."""
    assert (CONFIG, EARLIER) == OF_RUNS
