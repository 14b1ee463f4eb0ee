"""Training state as named tensors, so that it can be saved without pickling; and the device to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from agents.runs.processes import local_rank, processes
from refit_env.checkpoint import check_tensors
from refit_env.errors import CheckpointError
from refit_env.utils.devices import usable_device

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam and AdamW keep of a parameter."""
MOST_STEPS = 2**24
"""Steps of an optimiser beyond which float32 counts no more."""


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device of a name.

    Args:
        device: ``"auto"`` (CUDA where it can be used, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"`` ...

    Raises:
        SettingError: if torch cannot use it here; see ``usable_device``.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    cuda = torch.cuda.is_available()
    if cuda and device in ("auto", "cuda") and processes() > 1:
        return torch.device("cuda", local_rank() % torch.cuda.device_count())
    if device == "auto":
        return torch.device("cuda" if cuda else "cpu")
    return usable_device(device, "auto")


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix``, without it."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state by ``<parameter index>.<name>``; Adam's step count is a tensor, too."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, entries in state.items() for name, value in entries.items()}


def stepped(optimizer: torch.optim.Optimizer) -> list[int]:
    """Return the indices of the parameters that the optimiser has moved; the state of the others is empty."""
    return sorted(optimizer.state_dict()["state"])


def check_optimizer(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    moved: Sequence[int],
    where: str,
) -> None:
    """Refuse an optimiser's state that ``restore_optimizer`` could not put back.

    A fused optimiser does not check the size of its moments, so only those of the parameters' own shape may
    reach it.

    Args:
        optimizer: Adam or AdamW, whose parameters the state must fit.
        tensors: what ``flatten_optimizer`` gave.
        moved: what ``stepped`` gave.
        where: the file, for the message.

    Raises:
        CheckpointError: naming the tensor that does not fit.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    expected: dict[str, Tensor] = {}
    for index in moved:
        if not 0 <= index < len(parameters):
            raise CheckpointError(f"{where}: of {len(parameters)} parameters there is no number {index}")
        like = parameters[index].detach()
        expected |= {f"{index}.{name}": torch.zeros(()) if name == "step" else like for name in MOMENTS}
    check_tensors(tensors, expected, where, "the optimiser's state")
    for name, value in tensors.items():
        if name.endswith(".step") and not (1 <= float(value) <= MOST_STEPS and float(value).is_integer()):
            raise CheckpointError(f"{where}: optimiser state {name!r} is no number of steps")
        if name.endswith(".exp_avg_sq") and bool((value < 0).any()):
            raise CheckpointError(f"{where}: optimiser state {name!r} holds a negative mean of squares")


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``flatten_optimizer`` gave and ``check_optimizer`` passed.

    Step sizes and the like stay those of the optimiser.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def check_generator(generator: torch.Generator, state: Tensor | None, where: str) -> None:
    """Refuse a state that is not such a generator's.

    Raises:
        CheckpointError: if it is missing, or of another size, type or content.
    """
    own = generator.get_state()
    if state is None or state.shape != own.shape or state.dtype != own.dtype:
        kind = "missing" if state is None else f"{state.dtype} {list(state.shape)[:8]}"
        raise CheckpointError(
            f"{where}: {kind}, expected the {own.numel()} bytes of a generator on {generator.device}"
        )
    try:
        torch.Generator(generator.device).set_state(state)
    except RuntimeError as error:
        raise CheckpointError(f"{where}: no state of a generator on {generator.device}") from error
