from __future__ import annotations

import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from refit_env.backbones import importing
from refit_env.backbones.diffrec import time_embedding
from refit_env.backbones.importing import import_diffrec, read_weights
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


def save_whole(path: Path, model: nn.Module, module: str = "models.DNN", **stated: Any) -> None:
    """Save a model as DiffRec's code does; its class ``DNN`` is not there any more afterwards."""
    packages = [module.rpartition(".")[0], module] if "." in module else [module]
    kind = type("DNN", (nn.Module,), {"__module__": module})
    holder = types.ModuleType(module)
    holder.DNN = kind  # type: ignore[attr-defined]
    whole = kind()
    whole.__dict__.update(model.__dict__ | {"norm": False, "time_type": "cat"} | stated)
    with pytest.MonkeyPatch.context() as patch:
        for name in packages:
            patch.setitem(sys.modules, name, holder)
        torch.save(whole, path)


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


@pytest.mark.parametrize("module", ["models.DNN", "DNN", "__main__"])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_whole_model_is_read_without_its_classes(
    module: str, normalize: bool, dataset: Dataset, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs = Theirs()
    theirs.drop = nn.Dropout(0.5)
    theirs.in_layers.register_buffer("nothing", None)
    save_whole(tmp_path / "model.pth", theirs, module, norm=normalize)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    whole, state = (import_diffrec(tmp_path / name, dataset) for name in ("model.pth", "weights.pth"))
    assert whole.config.normalize is normalize
    for name, value in state.state_dict().items():
        assert torch.equal(whole.state_dict()[name], value)
    with pytest.raises(ValueError, match=f"model.pth states normalize={normalize}: leave it out"):
        import_diffrec(tmp_path / "model.pth", dataset, {"normalize": not normalize})


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    file, written = tmp_path / "model.pth", tmp_path / "written"
    for harmful in ({"a": Harmful(written)}, Harmful(written)):
        torch.save(harmful, file)
        with pytest.raises(CheckpointError, match=r"io\.open, which is no part of a DiffRec") as failure:
            read_weights(file)
        assert not written.exists() and str(file) in str(failure.value) and "\n" not in str(failure.value)
    save_whole(file, Theirs(), extra=Harmful(written))
    with pytest.raises(CheckpointError, match=r"state_dict\(\), NEW"):
        read_weights(file)
    assert not written.exists()


def test_other_models_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    torch.save(Theirs(), file)
    with pytest.raises(CheckpointError, match=r"test_importing\.Theirs, which is no part of a DiffRec"):
        read_weights(file)
    deep = nn.ModuleList([nn.ModuleList([nn.ModuleList([nn.ModuleList([nn.Linear(1, 1)])])])])
    save_whole(file, deep)
    with pytest.raises(CheckpointError, match="its layers are nested too deeply"):
        read_weights(file)
    theirs = Theirs()
    torch.save({"layers": theirs.in_layers}, file)
    with pytest.raises(
        CheckpointError, match="'layers' is an object of another class, expected tensors only"
    ):
        read_weights(file)
    save_whole(file, nn.ModuleList([]))
    with pytest.raises(CheckpointError, match="expected a state dict"):
        read_weights(file)
    theirs.out_layers = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, ITEMS + 1)])
    save_whole(file, theirs)
    with pytest.raises(CheckpointError, match="weights of 31 items"):
        import_diffrec(file, dataset)


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
        read_weights(file)
    torch.save(Theirs().state_dict(), file)
    whole = file.read_bytes()
    with pytest.raises(ValueError, match="the weights state hidden"):
        import_diffrec(file, dataset, {"hidden": [3]})
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"not a file of torch\.save"):
        read_weights(file)
    torch.save([1, 2], file)
    with pytest.raises(CheckpointError, match="holds a list, expected a state dict"):
        read_weights(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100_000))  # packed, it is small
    monkeypatch.setattr(importing, "LARGEST_FILE", 50_000)
    with pytest.raises(CheckpointError, match="100000 bytes; at most 50000"):
        read_weights(file)
