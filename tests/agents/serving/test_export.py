from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from agents.cli import main
from agents.serving.export import (
    Description,
    ExportError,
    compare_lists,
    triton_config,
    write_onnx,
    write_torch,
)
from agents.serving.graph import NOTHING, RankingGraph, popularity
from agents.serving.ranker import Query, Ranker
from refit_env.backbones import backbone_names, make_backbone
from refit_env.backbones.few_values import FEW_FROM
from refit_env.data.sequences import LENGTHS
from refit_env.policy import DiffusionPolicy

ONNX = [name for name in backbone_names() if name not in ("diff-poi", "recdiff")]
"""Backbones that onnxruntime runs: diff-poi has a float64 arcsine, recdiff knows its own users alone."""
QUICK = ("diffrec", "spectral")
"""Those of the fast tests; torch needs seconds for an export."""
Field = descriptor_pb2.FieldDescriptorProto
KINDS = ("INT64", "UINT64", "STRING", "MESSAGE", "ENUM")
ABOUT = Description("diffrec", "0" * 64, "synthetic", "1" * 64, 30, 2, 6, "ids")
HISTORIES = [(1, 2, 3), (4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16), (), tuple(range(20)), (0,)]
onnx_extra = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="the extra export: pip install -e '.[export]'",
)


def padded(histories: list[tuple[int, ...]]) -> Any:
    longest = max(map(len, histories))
    return np.array([[*row, *[NOTHING] * (longest - len(row))] for row in histories], np.int64)


def graph_of(policy: Any, data: Any, **options: Any) -> RankingGraph:
    length = LENGTHS[data.task] if data.has_rows else None
    return RankingGraph(policy, 6, length, popular=popularity(data), **options)


def wanted(policy: Any, data: Any, histories: list[tuple[int, ...]], top: int = 6) -> tuple[Any, Any]:
    """What the ranker returns, as arrays of equal length."""
    ranked = Ranker(policy, data).rank([Query(history=row) for row in histories], top)
    items = np.full((len(ranked), top), NOTHING)
    scores = np.full((len(ranked), top), -np.inf)
    for place, one in enumerate(ranked):
        items[place, : one.items.size], scores[place, : one.items.size] = one.items, one.scores
    return items, scores


@onnx_extra
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ONNX]
)
def test_onnxruntime_ranks_like_the_policy(name: str, policy_of: Callable[..., Any], tmp_path: Path) -> None:
    import onnxruntime

    policy, data = policy_of(name)
    write_onnx(graph_of(policy, data), tmp_path / "m.onnx", ABOUT)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert [put.name for put in session.get_inputs()] == ["history"]
    assert [put.name for put in session.get_outputs()] == ["items", "scores"]
    assert session.get_modelmeta().custom_metadata_map["refit.weights"] == "0" * 64
    for histories in (HISTORIES, HISTORIES[:1], [(23, 2), (2, 23)]):
        found = session.run(None, {"history": padded(histories)})
        assert compare_lists(wanted(policy, data, histories), found) < 1e-4


@onnx_extra
@pytest.mark.parametrize("recency", ["rising", "reciprocal"])
def test_weights_by_recency_are_inside_the_graph(
    recency: str, policy_of: Callable[..., Any], tmp_path: Path
) -> None:
    import onnxruntime

    policy, data = policy_of("linear", recency=recency)
    write_onnx(graph_of(policy, data), tmp_path / "m.onnx", ABOUT)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    forth, back = ((1, 2, 3, 9), (9, 3, 2, 1))
    found = session.run(None, {"history": padded([forth, back])})
    assert compare_lists(wanted(policy, data, [forth, back]), found) < 1e-4
    assert not np.allclose(found[1][0], found[1][1])


@onnx_extra
@pytest.mark.parametrize(
    "name",
    ["diffrec", *(pytest.param(name, marks=pytest.mark.slow) for name in ("hybrid", "l-diffrec", "hdrm"))],
)
def test_a_catalogue_whose_empty_columns_are_skipped_is_exported(
    name: str, small_configs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    import onnxruntime

    backbone = make_backbone(name, FEW_FROM + 10, small_configs[name])
    graph = RankingGraph(DiffusionPolicy(backbone, 2), 6)
    write_onnx(graph, tmp_path / "m.onnx", ABOUT)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    histories = padded([(1, 2, 3), (FEW_FROM, 5)])
    with torch.no_grad():
        want = [part.numpy() for part in graph(torch.from_numpy(histories))]
    assert compare_lists(want, session.run(None, {"history": histories})) < 1e-4


@onnx_extra
@pytest.mark.parametrize("name", ["linear", "spectral"])
def test_every_term_of_a_closed_form_is_inside_the_graph(
    name: str, policy_of: Callable[..., Any], tmp_path: Path
) -> None:
    import onnxruntime

    terms = {"factorization": 0.6, "neighborhood": 0.5, "neighbors": 5}
    terms |= {"regression": 0.5, "regressors": 4} if name == "spectral" else {"repeat": 0.5}
    terms |= {"places": 0.5}
    policy, data = policy_of(name, **terms)
    write_onnx(graph_of(policy, data), tmp_path / "m.onnx", ABOUT)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    histories = [(1, 2, 3), (4,), (9, 8, 7, 6)]
    found = session.run(None, {"history": padded(histories)})
    assert compare_lists(wanted(policy, data, histories), found) < 1e-3
    write_torch(graph_of(policy, data), tmp_path / "m.pt2", ABOUT)
    program = torch.export.load(str(tmp_path / "m.pt2")).module()
    found = [part.detach().numpy() for part in program(torch.from_numpy(padded(histories)))]
    assert compare_lists(wanted(policy, data, histories), found) < 1e-3


@onnx_extra
def test_a_graph_may_repeat_what_a_history_holds(policy_of: Callable[..., Any]) -> None:
    policy, data = policy_of("stacked")
    items, scores = graph_of(policy, data, repeats=True)(torch.from_numpy(padded(HISTORIES[:2])))
    ranker = Ranker(policy, data)
    want = ranker.rank([Query(history=row, repeats=True) for row in HISTORIES[:2]], 6)
    assert items.tolist() == [one.items.tolist() for one in want]
    torch.testing.assert_close(scores, torch.from_numpy(np.stack([one.scores for one in want])))
    assert graph_of(policy, data)(torch.from_numpy(padded(HISTORIES[:2])))[0].tolist() != items.tolist()


def test_a_graph_of_rows_reads_rows(policy_of: Callable[..., Any], tmp_path: Path) -> None:
    import onnxruntime

    policy, data = policy_of("diffrec")
    write_onnx(graph_of(policy, data, rows=True), tmp_path / "m.onnx", ABOUT)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    rows = np.zeros((2, 30), np.float32)
    rows[0, [1, 2, 3]] = rows[1, [8]] = 1.0
    found = session.run(None, {"history": rows})
    assert compare_lists(wanted(policy, data, [(1, 2, 3), (8,)]), found) < 1e-4


@onnx_extra
@pytest.mark.slow
def test_a_backbone_that_onnxruntime_cannot_run_leaves_no_file(
    policy_of: Callable[..., Any], tmp_path: Path
) -> None:
    policy, data = policy_of("diff-poi")
    with pytest.raises(ExportError, match="'diff-poi' is no model that onnxruntime can run"):
        write_onnx(graph_of(policy, data), tmp_path / "m.onnx", ABOUT)
    assert not list(tmp_path.iterdir())


@onnx_extra
def test_a_file_that_ranks_otherwise_is_not_written(
    policy_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, data = policy_of("diffrec")
    whole = graph_of(policy, data)
    forward = RankingGraph.forward

    def exported(self: RankingGraph, history: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        items, scores = forward(self, history)
        return items, scores * (1.01 if torch.compiler.is_exporting() else 1.0)

    monkeypatch.setattr(RankingGraph, "forward", exported)
    with pytest.raises(ExportError, match="scores of onnxruntime differ from those of torch by 9"):
        write_onnx(whole, tmp_path / "m.onnx", ABOUT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("diffrec", {}),
        pytest.param("diff-poi", {}, marks=pytest.mark.slow),
        pytest.param("dreamrec", {}, marks=pytest.mark.slow),
        pytest.param("dreamrec", {"similarity": "distance"}, marks=pytest.mark.slow),
    ],
)
def test_a_torch_program_ranks_like_the_policy(
    name: str, options: dict[str, str], policy_of: Callable[..., Any], tmp_path: Path
) -> None:
    policy, data = policy_of(name, **options)
    write_torch(graph_of(policy, data), tmp_path / "m.pt2", ABOUT)
    extra = {"refit.json": ""}
    program = torch.export.load(str(tmp_path / "m.pt2"), extra_files=extra)
    assert json.loads(extra["refit.json"])["weights"] == "0" * 64
    histories = HISTORIES if name != "diff-poi" else HISTORIES[:2]
    found = [part.numpy() for part in program.module()(torch.from_numpy(padded(histories)))]
    assert compare_lists(wanted(policy, data, histories), found) < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt2"]


def test_lists_differ_by_items_and_scores() -> None:
    one = np.array([[3, 1]]), np.array([[2.0, 1.0]])
    assert compare_lists(one, one) == 0.0
    assert compare_lists(one, (np.array([[3, 2]]), one[1])) == 0.0  # a tie at the end
    assert compare_lists(one, (np.array([[1, 3]]), one[1])) == 0.5
    assert compare_lists(one, (np.array([[4, 1]]), one[1])) == 0.5
    assert compare_lists(one, (np.array([[3, NOTHING]]), np.array([[2.0, -np.inf]]))) == float("inf")


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a closed form on the embedded data set."""
    import refit_env
    from refit_env.data import load_dataset

    folder = tmp_path_factory.mktemp("run")
    refit_env.load_policy("ReFiT-Synthetic-v0", num_steps=1).save(folder, load_dataset("synthetic"))
    (folder / "config.json").write_text(json.dumps({"command": "pretrain", "env": "ReFiT-Synthetic-v0"}))
    (folder / "metrics.json").write_text("{}")
    return folder


def test_the_command_writes_a_program_and_prints_what_it_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "--run", str(run), "--format", "torch", "--out", str(tmp_path / "m.pt2")]
    assert main([*words, "--top", "7", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["top"] == 7 and report["num_items"] == 400 and report["backbone"] == "linear"
    assert len(report["data_fingerprint"]) == len(report["weights"]) == 64
    items, scores = torch.export.load(str(tmp_path / "m.pt2")).module()(torch.tensor([[5, 9]]))
    assert items.shape == scores.shape == (1, 7)
    assert main(words) == 2  # a second time
    assert "m.pt2 exists already; choose another file, or pass --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert "linear on synthetic, 1 step, lists of 20" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "format", "usual"), [("m.pt2", "onnx", "torch"), ("m.onnx", "torch", "onnx")]
)
def test_a_name_of_another_format_is_refused(
    run: Path, tmp_path: Path, name: str, format: str, usual: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--run", str(run), "--format", format, "--out", str(tmp_path / name)]) == 2
    err = capsys.readouterr().err
    assert f"{name}: the name is that of --format {usual}, but --format is {format}" in err
    assert not list(tmp_path.iterdir())


@onnx_extra
def test_a_folder_for_triton(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    words = ["export", "--run", str(run), "--format", "triton", "--out", str(tmp_path / "lists")]
    assert main(words) == 0
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        "lists/config.pbtxt",
        "lists/1/model.onnx",
    }
    text = (tmp_path / "lists" / "config.pbtxt").read_text()
    assert 'name: "lists"' in text and 'backend: "onnxruntime"' in text
    session = onnxruntime.InferenceSession(tmp_path / "lists" / "1" / "model.onnx")
    for put, line in ((session.get_inputs()[0], "input"), (session.get_outputs()[0], "output")):
        dims = [size if isinstance(size, int) else -1 for size in put.shape[1:]]
        assert (
            f'{line} [ {{ name: "{put.name}" data_type: TYPE_INT64 dims: {dims} }}'.replace(
                "[-1]", "[ -1 ]"
            ).replace("[20]", "[ 20 ]")
            in text
        )
    capsys.readouterr()
    assert main(words) == 2
    assert f"--out {tmp_path / 'lists'} is not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [False, True])
def test_tritons_configuration_is_a_message_of_its_schema(rows: bool, policy_of: Callable[..., Any]) -> None:
    policy, data = policy_of("linear")
    about = replace(ABOUT, dataset='Tom\'s "shop" \\ caf\u00e9\n')
    graph = RankingGraph(policy, 6, rows=rows)
    config = text_format.Parse(triton_config('say "lists"', graph, about, 8), model_config())
    assert (config.name, config.backend, config.max_batch_size) == ('say "lists"', "onnxruntime", 8)
    [put] = config.input
    width, kind = (data.num_items, 11) if rows else (-1, 9)  # TYPE_FP32, TYPE_INT64
    assert (put.name, put.data_type, list(put.dims)) == ("history", kind, [width])
    assert [(out.name, out.data_type, list(out.dims)) for out in config.output] == [
        ("items", 9, [6]),
        ("scores", 11, [6]),
    ]
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    found = {one.key: one.value.string_value for one in config.parameters}
    assert found == about.as_text()


def model_config() -> Any:
    """An empty message with those fields of Triton's ``ModelConfig`` that are written, by name and type."""
    integer, unsigned, text, message, enum = (getattr(Field, f"TYPE_{kind}") for kind in KINDS)
    entries = {"key": (text,), "value": (message, "ModelParameter")}
    tensor = {"name": (text,), "data_type": (enum, "DataType"), "dims": (integer, "", True)}
    messages: dict[str, dict[str, tuple[Any, ...]]] = {
        "ModelParameter": {"string_value": (text,)},
        "ParametersEntry": entries,
        "ModelInput": tensor,
        "ModelOutput": tensor,
        "ModelDynamicBatching": {"max_queue_delay_microseconds": (unsigned,)},
        "ModelConfig": {
            "name": (text,),
            "backend": (text,),
            "max_batch_size": (integer,),
            "input": (message, "ModelInput", True),
            "output": (message, "ModelOutput", True),
            "dynamic_batching": (message, "ModelDynamicBatching"),
            "parameters": (message, "ParametersEntry", True),
        },
    }
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", syntax="proto3")
    types = file.enum_type.add(name="DataType")
    for name, number in (("TYPE_INVALID", 0), ("TYPE_INT64", 9), ("TYPE_FP32", 11)):
        types.value.add(name=name, number=number)
    for name, fields in messages.items():
        made = file.message_type.add(name=name)
        for number, (field, (kind, *more)) in enumerate(fields.items(), start=1):
            label = Field.LABEL_REPEATED if len(more) > 1 else Field.LABEL_OPTIONAL
            made.field.add(name=field, number=number, type=kind, label=label)
            if more and more[0]:
                made.field[-1].type_name = f".{more[0]}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ModelConfig"))()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top", "401"], "--top 401 must lie in 1..400, the number of items"),
        (["--top", "0"], "--top must be >= 1"),
        (["--repeats"], "lists of 'synthetic' cannot repeat what a person has"),
        (["--data", "no-such-folder"], "--data no-such-folder: there is no such folder"),
    ],
)
def test_mistakes(
    run: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.pt2"
    assert main(["export", "--run", str(run), "--format", "torch", "--out", str(out), *words]) == 2
    assert message in capsys.readouterr().err and not out.exists()


def test_a_missing_package_names_its_extra(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", "--run", str(run), "--out", str(tmp_path / "m.onnx")]) == 2
    message = "an ONNX file needs onnx, which is not installed: pip install 'refit-env[export]'"
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
