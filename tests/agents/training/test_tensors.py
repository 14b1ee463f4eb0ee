from __future__ import annotations

import pytest
import torch

from agents.training.tensors import resolve_device
from refit_env.errors import SettingError


def test_devices_that_can_be_used() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["tpu", "", "meta", "cuda:99", "cpu:", "gpu"])
def test_others_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(SettingError, match=r"device must be one that torch .* found") as refused:
        resolve_device(name)
    assert "\n" not in str(refused.value) and repr(name) in str(refused.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda() -> None:
    with pytest.raises(SettingError, match=r"\(auto, cpu\), found 'cuda'"):
        resolve_device("cuda")
