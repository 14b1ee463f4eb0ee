"""The JSON of the service's requests and answers, as OpenAPI shows it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from agents.serving.limits import MOST_ITEMS, MOST_PEOPLE, MOST_TOP

Id = (
    Annotated[StrictInt, Field(ge=-(2**63), lt=2**64)]
    | Annotated[StrictStr, Field(min_length=1, max_length=200)]
)
"""An id of the data's source: a number or text."""
History = Annotated[list[Id], Field(max_length=MOST_ITEMS)]
"""Items of a person, oldest first."""
Top = Annotated[StrictInt, Field(ge=1, le=MOST_TOP)]
"""Length of a list."""


class Message(BaseModel):
    """Base of the requests: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class RecommendRequest(Message):
    """Whose lists: ``users`` of the data, or people by their ``histories``; one of the two."""

    users: Annotated[list[Id], Field(min_length=1, max_length=MOST_PEOPLE)] | None = None
    """Ids of users."""
    histories: Annotated[list[History], Field(min_length=1, max_length=MOST_PEOPLE)] | None = None
    """For each person, the ids of the items that the person has, oldest first."""
    top: Top = 10
    """Length of the lists; they are shorter where fewer items are left."""
    exclude: History = []
    """Further items that the lists leave out."""
    only: Annotated[list[Id], Field(min_length=1, max_length=MOST_ITEMS)] | None = None
    """The items that the lists are made of; null: all."""
    repeats: bool = False
    """Whether the lists may hold items that the person has; only of sessions and visits in order of time."""


class ListedItem(BaseModel):
    """An item of a list."""

    item: Id
    """Id of the data's source."""
    score: float
    """The model's score."""
    name: str | None = None
    """Its name, where the data set has names."""


class PersonList(BaseModel):
    """One person's list, best item first."""

    user: Id | None = None
    """The user's id; null for a history."""
    items: list[ListedItem]
    """The list."""


class RecommendReply(BaseModel):
    """The lists, in the order of the request."""

    weights: str
    """sha256 of the weights that made the lists."""
    lists: list[PersonList]
    """A list for each person."""


class ExplainRequest(Message):
    """Whose list: a ``user``, or a ``history``; one of the two."""

    user: Id | None = None
    """Id of a user."""
    history: History | None = None
    """Ids of items, oldest first."""
    top: Annotated[StrictInt, Field(ge=1, le=50)] = 10
    """Length of the lists."""
    repeats: bool = False
    """Whether the lists may hold items that the person has; only of sessions and visits in order of time."""


class StepList(BaseModel):
    """What the list would be after some steps of the chain."""

    step: int
    """Steps that are done."""
    items: list[ListedItem]
    """The list."""
    ranks: list[int]
    """The rank, from 1, of each item of the final list."""


class ExplainReply(BaseModel):
    """A list and what led to it."""

    weights: str
    """sha256 of the weights."""
    history: list[ListedItem]
    """The latest items that the person has, newest first; scores are 0."""
    history_length: int
    """Number of items that the person has."""
    before: list[ListedItem] | None
    """The list of the model from which fine-tuning began; null where the run has none."""
    after: list[ListedItem]
    """The list."""
    steps: list[StepList]
    """Steps of the chain; the last one is the list."""


class ModelReply(BaseModel):
    """The model that answers."""

    name: str
    """Name of the model in the routes of the Open Inference Protocol."""
    run: str
    """Name of the run folder."""
    backbone: str
    """The network."""
    dataset: str
    """Name of the data set."""
    data_fingerprint: str
    """Its fingerprint."""
    weights: str
    """sha256 of the weights."""
    users: int
    """Number of users."""
    items: int
    """Number of items."""
    steps: int
    """Length of the chain."""
    before: bool
    """Whether the model from which fine-tuning began is here, too."""
    histories: bool
    """Whether the model ranks for people who are in no data set."""
    repeats: bool
    """Whether lists may hold items that a person has: of sessions and visits in order of time."""
    example_users: list[Id]
    """Some users."""


class ItemsReply(BaseModel):
    """Items that were found."""

    items: list[ListedItem]
    """The items; scores are 0."""


class ReloadRequest(Message):
    """Which run is loaded."""

    run: Annotated[StrictStr, Field(min_length=1, max_length=200)] | None = None
    """Name of a folder beside the service's run folder; null: that folder itself, read again."""


class ReloadReply(BaseModel):
    """The model that answers from now on."""

    run: str
    """Name of the run folder."""
    weights: str
    """sha256 of its weights."""


class Problem(BaseModel):
    """What was wrong, in one line."""

    error: str
    """What was wrong, and what would be right."""


# ---------------------------------------------------------------- Open Inference Protocol, version 2


class ServerMetadata(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class Health(BaseModel):
    """Whether the server, or a model, is there."""

    live: bool | None = None
    ready: bool | None = None


class TensorMetadata(BaseModel):
    """A tensor of a model."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model's tensors; an axis of any size is -1."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, str]


Value = StrictInt | Annotated[StrictStr, Field(max_length=200)]
"""A number or text of a tensor."""
Axis = Annotated[StrictInt, Field(ge=1, le=MOST_PEOPLE * MOST_ITEMS)]
"""Size of an axis."""


class InputTensor(Message):
    """One of three tensors: item numbers, ids of items, ids of users.

    ``history`` (INT64, [B, n], padded with -1), ``history_ids`` (BYTES, [B, n], padded with empty text) or
    ``user_ids`` (BYTES, [B]).
    """

    name: Literal["history", "history_ids", "user_ids"]
    shape: Annotated[list[Axis], Field(min_length=1, max_length=2)]
    datatype: Literal["INT64", "BYTES"]
    data: Annotated[
        list[Value | Annotated[list[Value], Field(max_length=MOST_ITEMS)]],
        Field(max_length=MOST_PEOPLE * MOST_ITEMS),
    ]
    parameters: dict[str, Any] = {}


class RequestedOutput(Message):
    """A tensor that is wanted: ``items``, ``item_ids`` or ``scores``."""

    name: Literal["items", "item_ids", "scores"]
    parameters: dict[str, Any] = {}


class InferParameters(BaseModel):
    """Parameters of an inference; unknown ones are ignored, as the protocol says."""

    top: Top = 10
    """Length of the lists."""


class InferRequest(Message):
    """An inference."""

    id: Annotated[StrictStr, Field(max_length=200)] | None = None
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=3)] | None = None
    parameters: InferParameters = InferParameters()


class OutputTensor(BaseModel):
    """A tensor of the answer, its values row by row."""

    name: str
    shape: list[int]
    datatype: str
    data: list[int | str | float]


class InferReply(BaseModel):
    """The tensors of the answer."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]
