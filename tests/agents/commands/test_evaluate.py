from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.cli import main
from agents.runs.folder import RunFolder


def test_json_agrees_with_what_the_run_reported(pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("valid", "test"):
        words = [
            "evaluate",
            "--env",
            "ReFiT-Synthetic-v0",
            "--run",
            str(pretrained),
            "--split",
            split,
            "--json",
        ]
        assert main(words) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["split"] == split and report["env"] == "ReFiT-Synthetic-v0"
        for name, value in RunFolder(pretrained).metrics[split].items():
            assert report["metrics"][name] == pytest.approx(value)
            assert report["metrics_over_all_users"][name] <= report["metrics"][name] + 1e-12


def test_the_table_holds_the_metrics(pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--run", str(pretrained)]) == 0
    out = capsys.readouterr().out
    assert f"{RunFolder(pretrained).metrics['test']['ndcg@20']:.4f}" in out and "recall@10" in out


def test_mistakes(
    pretrained: Path, own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--run", str(tmp_path / "gone")]) == 2
    assert "no run folder" in capsys.readouterr().err
    words = ["--reward", "racs", "--reward-options", "alpha=7"]
    assert main(["evaluate", "--run", str(pretrained), *words]) == 2
    err = capsys.readouterr().err
    assert "error: --reward-options alpha of reward 'racs' must be >= 0" in err and err.count("\n") == 1
    assert main(["evaluate", "--run", str(pretrained), "--data", str(own_data)]) == 2
    err = capsys.readouterr().err  # another catalogue
    assert "the policy ranks 400 items of 'synthetic', data set" in err and "--new-data' carries the" in err
    (tmp_path / "config.json").write_text((pretrained / "config.json").read_text())
    (tmp_path / "policy.safetensors").write_bytes((pretrained / "policy.safetensors").read_bytes()[:1000])
    assert main(["evaluate", "--run", str(tmp_path)]) == 2
    assert "policy.safetensors" in capsys.readouterr().err  # cut short


def test_lists_are_re_ranked(pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for strength in (0.0, 0.5):
        words = ["--rerank", "popularity_penalty", "--rerank-options", f"strength={strength}", "--json"]
        assert main(["evaluate", "--run", str(pretrained), *words]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["rerank"] == {"name": "popularity_penalty", "strength": strength}
        found[strength] = report["metrics"]
    assert found[0.0]["ndcg@20"] == pytest.approx(RunFolder(pretrained).metrics["test"]["ndcg@20"])
    assert found[0.5]["novelty@20"] > found[0.0]["novelty@20"]
    assert found[0.5]["arp@20"] < found[0.0]["arp@20"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rerank", "mrm"], "unknown re-ranker 'mrm'. Did you mean 'mmr'?"),
        (["--rerank", "mmr", "--rerank-options", "strenght=1"], "--rerank-options strenght is no setting of"),
        (["--rerank", "mmr", "--rerank-options", "strength=-1"], "--rerank-options strength must be >= 0"),
        (["--rerank", "mmr", "--rerank-options", "split=test"], "--rerank-options split is no setting of"),
        (
            ["--rerank", "mmr", "--rerank-options", "k=3"],
            "--rerank-options k is no setting of re-ranker 'mmr'",
        ),
        (["--rerank-options", "strength=1"], "--rerank-options needs --rerank NAME"),
        (["--k", "5"], "--k needs --reward NAME"),
        (["--relevance", "recent"], "--relevance needs --reward NAME"),
        (["--reward-options", "alpha=1"], "--reward-options needs --reward NAME"),
    ],
)
def test_a_wrong_re_ranker_or_an_option_without_its_name_is_one_line(
    words: list[str], said: str, pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--run", str(pretrained), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
