from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from agents.runs.log import RunLog, log_result, read_log
from refit_env.errors import DataError


def scalars(folder: Path, name: str) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tb"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def test_both_logs_hold_what_was_written(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.write(1, {"reward": 0.25})
        log.write(3, {"reward": 0.5})
    assert read_log(tmp_path) == [
        {"iteration": 1.0, "reward": 0.25},
        {"iteration": 3.0, "reward": 0.5},
    ]
    assert scalars(tmp_path, "reward") == {1: 0.25, 3: 0.5}


def test_a_row_is_on_disk_before_the_next_is_written(tmp_path: Path) -> None:
    log = RunLog(tmp_path, tensorboard=False)
    log.write(1, {"reward": 0.1})
    assert len(read_log(tmp_path)) == 1
    log.close()
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.write(2, {"reward": 0.1})


def test_a_late_column_is_added_to_the_header_once(tmp_path: Path) -> None:
    with RunLog(tmp_path, tensorboard=False) as log:
        log.write(1, {"reward": 0.1})
        log.write(2, {"valid/ndcg@20": 0.3, "reward": 0.2})
        log.write(3, {"reward": math.nan})
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines == ["iteration,reward,valid/ndcg@20", "1,0.1,", "2,0.2,0.3", "3,nan,"]


def test_resuming_drops_later_rows_and_leaves_the_log_of_an_unbroken_run(tmp_path: Path) -> None:
    rows = {i: {"reward": i / 7} | ({"valid": i / 3} if i % 2 == 0 else {}) for i in range(1, 7)}
    with RunLog(tmp_path / "whole") as log:
        for i, row in rows.items():
            log.write(i, row)
    with RunLog(tmp_path / "broken") as log:
        for i in range(1, 6):  # the checkpoint is of iteration 3, the run went on to 5
            log.write(i, rows[i] if i <= 3 else {"reward": -1.0})
    with RunLog(tmp_path / "broken", resume_after=3) as log:
        for i in range(4, 7):
            log.write(i, rows[i])
    assert (tmp_path / "broken/log.csv").read_bytes() == (tmp_path / "whole/log.csv").read_bytes()
    assert scalars(tmp_path / "broken", "reward") == scalars(tmp_path / "whole", "reward")


def test_a_torn_last_row_is_dropped(tmp_path: Path) -> None:
    with RunLog(tmp_path, tensorboard=False) as log:
        log.write(1, {"a": 0.5, "b": 1.5})
        log.write(2, {"a": 0.6, "b": 2.5})
    path = tmp_path / "log.csv"
    path.write_bytes(path.read_bytes()[:-2])  # "2,0.6,2." without a line end
    assert read_log(tmp_path) == [{"iteration": 1.0, "a": 0.5, "b": 1.5}]
    with RunLog(tmp_path, resume_after=2, tensorboard=False) as log:
        log.write(2, {"a": 0.6, "b": 2.5})
    assert len(read_log(tmp_path)) == 2


def test_a_new_log_replaces_an_older_one(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        with RunLog(tmp_path) as log:
            log.write(1, {"reward": value})
    assert read_log(tmp_path) == [{"iteration": 1.0, "reward": 2.0}]
    assert scalars(tmp_path, "reward") == {1: 2.0}


def test_iterations_must_grow(tmp_path: Path) -> None:
    with RunLog(tmp_path, tensorboard=False, step_name="epoch") as log:
        log.write(4, {"loss": 1.0})
        with pytest.raises(ValueError, match="iteration 4 comes after 4"):
            log.write(4, {"loss": 1.0})
    with RunLog(tmp_path, tensorboard=False, step_name="epoch", resume_after=4) as log:
        with pytest.raises(ValueError, match="after 4"):
            log.write(3, {"loss": 1.0})


def test_the_log_is_closed_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunLog(tmp_path, tensorboard=False) as log:
        log.write(1, {"reward": 0.1})
        raise KeyboardInterrupt
    assert len(read_log(tmp_path)) == 1
    with pytest.raises(ValueError, match="closed"):
        log.write(2, {})


def test_a_missing_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_log(tmp_path)


def test_a_full_disk_names_the_log(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    with RunLog(tmp_path, tensorboard=False) as log:
        log.write(1, {"reward": 0.1})
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size + 5, hard))
        try:
            with pytest.raises(OSError, match=r"File too large: .*log\.csv"):
                log.write(2, {"reward": 0.123456789})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [row["iteration"] for row in read_log(tmp_path)] == [1.0, 2.0]  # there was room when it was closed


def test_a_result_is_read_back_from_the_events(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    with RunLog(tmp_path) as log:
        log.write(1, {"reward": 0.25})
    settings = {"seed": 3, "agent": {"learning_rate": 0.5, "anneal_lr": True}, "env_kwargs": {"k": None}}
    gains = np.array([-0.5, 0.0, 0.25, 0.25])
    log_result(tmp_path, settings, {"after/ndcg@20": 0.4, "lost": math.nan}, {"gain/ndcg@20": gains})
    assert scalars(tmp_path, "reward") == {1: 0.25}  # the log's own events are still there
    assert scalars(tmp_path, "after/ndcg@20")[0] == pytest.approx(0.4)
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    [histogram] = events.Histograms("gain/ndcg@20")
    found = histogram.histogram_value
    assert (found.num, found.min, found.max, found.sum) == (4, -0.5, 0.25, 0.0)
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    named = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert named["seed"].number_value == 3 and named["agent.learning_rate"].number_value == 0.5
    assert named["agent.anneal_lr"].number_value == 1 and "env_kwargs.k" not in named
    content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    metrics = plugin_data_pb2.HParamsPluginData.FromString(content).experiment.metric_infos
    assert [metric.name.tag for metric in metrics] == ["after/ndcg@20"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe\n", "is damaged"), (b"iteration,reward\n1,0.5\n2,abc\n", "line 3: reward is 'abc'")],
)
def test_a_damaged_log_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"log\.csv") as error:
        read_log(tmp_path)
    assert message in str(error.value)
