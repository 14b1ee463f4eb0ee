from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from refit_env.backbones import importing
from refit_env.backbones.diffrec import time_embedding
from refit_env.backbones.importing import import_diffrec, read_state_dict
from refit_env.data import Dataset, synthesize
from refit_env.errors import CheckpointError

ITEMS = 30


class Theirs(nn.Module):
    """The network of DiffRec's code with dims [6, 8]: items + 4 -> 8 -> 6 -> 8 -> items."""

    def __init__(self) -> None:
        super().__init__()
        self.emb_layer = nn.Linear(4, 4)
        self.in_layers = nn.ModuleList([nn.Linear(ITEMS + 4, 8), nn.Linear(8, 6)])
        self.out_layers = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, ITEMS)])

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        h = torch.cat([x, self.emb_layer(time_embedding(k, 4, x))], 1)
        for layer in self.in_layers:
            h = torch.tanh(layer(h))
        return self.out_layers[1](torch.tanh(self.out_layers[0](h)))  # type: ignore[no-any-return]


class Harmful:
    """Writes a file where its pickle is executed."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (self.path, "w")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return synthesize(num_users=30, num_items=ITEMS)


def test_the_outputs_are_those_of_the_other_code(dataset: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = Theirs()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = import_diffrec(tmp_path / "weights.pth", dataset, {"num_steps": 5, "noise_scale": 0.1})
    assert ours.config.hidden == (8, 6, 8) and ours.config.embedding == 4
    assert ours.config.num_steps == 5 and ours.config.noise_scale == 0.1
    x, k = torch.rand(3, ITEMS), torch.tensor([0, 2, 4])
    torch.testing.assert_close(ours.predict_x0(x, k), theirs(x, k), rtol=1e-4, atol=1e-5)


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    file, written = tmp_path / "model.pth", tmp_path / "written"
    torch.save({"a": Harmful(written)}, file)
    with pytest.raises(CheckpointError, match="holds more than weights") as failure:
        read_state_dict(file)
    assert not written.exists() and str(file) in str(failure.value) and "\n" not in str(failure.value)
    torch.save(Theirs(), file)  # as DiffRec's code saves
    with pytest.raises(CheckpointError, match=r"state_dict\(\), NEW"):
        read_state_dict(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_layers.0.weight": None}, "'in_layers.0.weight' is missing"),
        ({"emb_layer.bias": None}, "'emb_layer.bias' is missing"),
        ({"in_layers.900.bias": torch.zeros(6)}, "'in_layers.2.weight' is missing"),
        ({"extra.weight": torch.zeros(6)}, "'extra.weight' is no tensor of a DiffRec"),
        ({"out_layers.0.bias": torch.zeros(7)}, r"'out_layers.0.bias' is \[7\], expected \[8\]"),
        ({"in_layers.1.weight": torch.zeros(6)}, r"'in_layers.1.weight' is \[6\], expected a matrix"),
        ({"out_layers.1.weight": torch.zeros(31, 8)}, "weights of 31 items; data set 'synthetic' has 30"),
        ({"emb_layer.bias": torch.zeros(4).double()}, "'emb_layer.bias' is strided float64"),
        ({"emb_layer.bias": torch.zeros(4, device="meta")}, "'emb_layer.bias' is strided float32 on meta"),
        ({"emb_layer.bias": torch.zeros(4).to_sparse()}, "'emb_layer.bias' is sparse_coo"),
        ({"emb_layer.bias": torch.full((4,), float("nan"))}, "NaN"),
        ({"emb_layer.bias": 3}, "'emb_layer.bias' is a int"),
        ({"in_layers.0.weight": torch.zeros(1).expand(10**6, 10**6)}, "state more numbers than"),
    ],
)
def test_other_weights_are_refused(
    change: dict[str, object], message: str, dataset: Dataset, tmp_path: Path
) -> None:
    file = tmp_path / "weights.pth"
    changed = {**Theirs().state_dict(), **change}
    torch.save({name: value for name, value in changed.items() if value is not None}, file)
    with pytest.raises(CheckpointError, match=message) as failure:
        import_diffrec(file, dataset)
    assert str(file) in str(failure.value)


def test_other_files_are_refused(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights.pth"
    with pytest.raises(CheckpointError, match="there is no such file"):
        read_state_dict(file)
    torch.save(Theirs().state_dict(), file)
    whole = file.read_bytes()
    with pytest.raises(ValueError, match="the weights state hidden"):
        import_diffrec(file, dataset, {"hidden": [3]})
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"not a file of torch\.save"):
        read_state_dict(file)
    torch.save([1, 2], file)
    with pytest.raises(CheckpointError, match="holds a list, expected a state dict"):
        read_state_dict(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100_000))  # packed, it is small
    monkeypatch.setattr(importing, "LARGEST_FILE", 50_000)
    with pytest.raises(CheckpointError, match="100000 bytes; at most 50000"):
        read_state_dict(file)
