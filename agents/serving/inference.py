"""The Open Inference Protocol, version 2: tensors in, tensors out.

Letters: B people in a batch, n the longest history, K list length.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from agents.serving.graph import NOTHING
from agents.serving.messages import (
    InferReply,
    InferRequest,
    InputTensor,
    ModelMetadata,
    OutputTensor,
    TensorMetadata,
)
from agents.serving.ranker import Query, Ranked
from agents.serving.served import Served

INPUTS = {"history": ("INT64", 2), "history_ids": ("BYTES", 2), "user_ids": ("BYTES", 1)}
"""Name -> datatype and number of axes."""
OUTPUTS = {"items": "INT64", "item_ids": "BYTES", "scores": "FP32"}
"""Name -> datatype."""
LOWEST = -3.4028234663852886e38
"""Score of the padding at the end of a short list."""


class BadTensor(ValueError):
    """A tensor of a request is wrong."""


def metadata(name: str, model: Served) -> ModelMetadata:
    """Describe the tensors of a model."""
    shapes = {key: [-1] * axes for key, (_, axes) in INPUTS.items()}
    known = INPUTS if model.histories else {"user_ids": INPUTS["user_ids"]}
    return ModelMetadata(
        name=name,
        versions=[model.weights[:12]],
        platform="pytorch_refit",
        inputs=[
            TensorMetadata(name=key, datatype=kind, shape=shapes[key]) for key, (kind, _) in known.items()
        ],
        outputs=[TensorMetadata(name=key, datatype=kind, shape=[-1, -1]) for key, kind in OUTPUTS.items()],
        parameters={
            "weights": model.weights,
            "data_fingerprint": model.dataset.fingerprint,
            "dataset": model.dataset.name,
            "backbone": model.ranker.policy.backbone.name,
            "top": "length of the lists, 10 if it is left out",
        },
    )


def queries_of(request: InferRequest, model: Served) -> tuple[list[Query], int]:
    """Return whose lists an inference is for, and K.

    Raises:
        BadTensor: if the data of a tensor do not fit its shape or type.
        UnknownId: for an unknown user or item.
    """
    (tensor,) = request.inputs
    rows = _rows(tensor)
    top = request.parameters.top
    if tensor.name == "user_ids":
        return [Query(model.user(row[0])) for row in rows], top
    if not model.histories:
        raise BadTensor("this model ranks for the users of its data alone: pass user_ids")
    if tensor.name == "history_ids":
        given = [[one for one in row if one != ""] for row in rows]
        return [Query(history=model.items(row)) for row in given], top
    count = model.dataset.num_items
    numbers = [tuple(int(one) for one in row if one != NOTHING) for row in rows]
    for row in numbers:
        for item in row:
            if not 0 <= item < count:
                raise BadTensor(
                    f"input 'history': item number {item} must lie in 0..{count - 1}, or be {NOTHING}"
                )
    return [Query(history=row) for row in numbers], top


def _rows(tensor: InputTensor) -> list[list[int | str]]:
    """Return the values of a tensor, checked, row by row."""
    kind, axes = INPUTS[tensor.name]
    if tensor.datatype != kind:
        raise BadTensor(f"input {tensor.name!r} must be {kind}, found {tensor.datatype!r}")
    if len(tensor.shape) not in (axes, 2) or (axes == 1 and tensor.shape[1:] not in ([], [1])):
        raise BadTensor(f"input {tensor.name!r} must have {axes} axes, found the shape {tensor.shape}")
    flat: list[int | str] = []
    for part in tensor.data:
        flat.extend(part if isinstance(part, list) else [part])
    if len(flat) != prod(tensor.shape):
        raise BadTensor(
            f"input {tensor.name!r}: the shape {tensor.shape} has {prod(tensor.shape)} values, "
            f"data {len(flat)}"
        )
    want = int if kind == "INT64" else str
    for value in flat:
        if not isinstance(value, want):
            raise BadTensor(f"input {tensor.name!r} is {kind}, and holds {str(value)[:40]!r}")
    width = tensor.shape[1] if len(tensor.shape) == 2 else 1
    return [flat[at : at + width] for at in range(0, len(flat), width)]


def reply(name: str, model: Served, request: InferRequest, lists: Sequence[Ranked], top: int) -> InferReply:
    """Return the tensors of the answer; short lists are padded."""
    top = min(top, model.dataset.num_items)
    ids = model.dataset.items_by_id
    data: dict[str, list[int | str | float]] = {key: [] for key in OUTPUTS}
    for one in lists:
        rest = top - one.items.size
        data["items"] += [*one.items.tolist(), *[NOTHING] * rest]
        data["item_ids"] += [*map(str, ids.take(one.items).tolist()), *[""] * rest]
        data["scores"] += [*one.scores.tolist(), *[LOWEST] * rest]
    wanted: list[str] = [output.name for output in request.outputs or ()]
    return InferReply(
        model_name=name,
        model_version=model.weights[:12],
        id=request.id,
        outputs=[
            OutputTensor(name=key, shape=[len(lists), top], datatype=OUTPUTS[key], data=data[key])
            for key in wanted or OUTPUTS
        ],
    )
