from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from agents.cli import main
from agents.runs.folder import RunFolder
from refit_env.policy import DiffusionPolicy


@pytest.fixture(scope="module")
def weights(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a run under the names of DiffRec's code."""
    file = tmp_path_factory.mktemp("theirs") / "weights.pth"
    names = {"time": "emb_layer", "layers.0": "in_layers.0", "layers.1": "out_layers.0"}
    state = DiffusionPolicy.load(pretrained).backbone.state_dict()
    parts = {name: name.rpartition(".") for name in state}
    torch.save({f"{names[a]}.{c}": state[n] for n, (a, _, c) in parts.items() if a in names}, file)
    return file


def test_an_imported_model_measures_and_trains_as_its_origin(
    pretrained: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, tuned = tmp_path / "out", tmp_path / "rl"
    words = ["import", "--from", "diffrec", str(weights), "--env", "ReFiT-Synthetic-v0", "--out", str(out)]
    options = ["--num-steps", "4", "--backbone-options", "num_steps=10", "--device", "cpu"]
    assert main([*words, "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    for split in ("valid", "test"):
        assert found[split] == pytest.approx(RunFolder(pretrained).metrics[split], abs=1e-6)
    assert main([*words, *options]) == 2 and "holds a run already (import of" in capsys.readouterr().err
    small = ["--iterations", "1", "--users-per-batch", "8", "--device", "cpu", "--quiet"]
    assert main(["finetune", "--init", str(out), "--out", str(tuned), *small]) == 0


def test_mistakes_are_refused_in_one_line(
    weights: Path, own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["import", "--from", "diffrec", str(weights), "--out", str(out)]
    for more, message in (
        (["--data", str(own_data)], "weights of 400 items; data set 'synthetic' has 50"),
        (["--env", "ReFiT-Synthetic-v0", "--backbone-options", "hidden=[3]"], "the weights state hidden"),
        (["--env", "ReFiT-Synthetic-v0", "--backbone-options", "steps=3"], "steps"),
        ([], "say which environment"),
    ):
        assert main([*words, *more]) == 2
        err = capsys.readouterr().err
        assert message in " ".join(err.split()), err
        assert not out.exists()


def test_a_model_below_popularity_is_reported(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(weights, weights_only=True)
    last = "out_layers.0"
    state |= {f"{last}.{part}": state[f"{last}.{part}"].flip(0) for part in ("weight", "bias")}
    torch.save(state, tmp_path / "other.pth")
    words = ["import", "--from", "diffrec", str(tmp_path / "other.pth"), "--env", "ReFiT-Synthetic-v0"]
    assert main([*words, "--device", "cpu", "--quiet", "--out", str(tmp_path / "out")]) == 0
    assert "is below that of the most popular items" in " ".join(capsys.readouterr().err.split())
