"""The routes of the HTTP service.

Letters: B people in a request, K list length.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache
from importlib import metadata
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from agents.console import say
from agents.serving import inference, ranker
from agents.serving.batching import Busy, Spent
from agents.serving.guard import OPEN, Guard
from agents.serving.messages import (
    ExplainReply,
    ExplainRequest,
    Health,
    InferReply,
    InferRequest,
    ItemsReply,
    ModelMetadata,
    ModelReply,
    Problem,
    RecommendReply,
    RecommendRequest,
    ReloadReply,
    ReloadRequest,
    ServerMetadata,
)
from agents.serving.served import Served, UnknownId
from agents.serving.service import Service, TooMuch, reason
from agents.serving.shortage import Shortage

ERRORS: dict[type[Exception], int] = {
    UnknownId: 404,
    TooMuch: 413,
    inference.BadTensor: 422,
    ranker.NoHistory: 422,
    Busy: 503,
}
"""Error -> status of the answer."""
PROBLEMS = {
    400: "The body is no JSON",
    401: "The token is missing or wrong",
    403: "The service has no token, which this route needs",
    404: "Unknown id, model or route",
    405: "Another method",
    408: "The body came too slowly",
    409: "The run cannot be served; the former model stays",
    413: "More than a limit of the service",
    422: "A field is missing or wrong",
    503: "Too many requests wait, or no answer in time; try again",
}
"""Status -> when it is sent, for OpenAPI."""
PROBLEM = {"application/json": {"schema": Problem.model_json_schema()}}
"""The content of all of them."""
KINDS_OF_ID = ("constrained-int", "constrained-str")
"""What pydantic adds to the place of an id that is neither."""
ID_RULE = "must be an id of the data's source: a whole number, or text of 1 to 200 letters"
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""What the page may load: nothing from elsewhere."""


def create_app(service: Service) -> FastAPI:
    """Make the application.

    Args:
        service: its model, limits and metrics.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(Shortage(say))
        watching = asyncio.create_task(service.watching(say)) if service.watch else None
        yield
        if watching is not None:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        service.batcher.close()

    app = FastAPI(
        title="refit",
        version=metadata.version("refit-env"),
        summary="Lists of a diffusion recommender",
        docs_url=None,  # its page loads scripts of another host
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.add_middleware(Guard, service=service)
    for kind, status in ERRORS.items():
        app.add_exception_handler(kind, _problem(status))
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    secret = [Depends(HTTPBearer(auto_error=False, description="The service's token"))]
    for path, function, method in ROUTES:
        closed = service.token and path not in OPEN
        app.add_api_route(
            path,
            function,
            methods=[method],
            include_in_schema=path != "/",
            dependencies=secret if closed else [],
            responses={
                status: {"description": PROBLEMS[status], "content": PROBLEM}
                for status in _statuses(path, method, bool(closed))
            },
            response_class=PlainTextResponse if function is metrics else JSONResponse,
        )
    return app


def _statuses(path: str, method: str, closed: bool) -> list[int]:
    """Return the statuses, besides 200, of a route's answers."""
    found = [405, 408, 413, 503] + ([401] if closed else [])
    if method == "POST":
        found += [400, 422]
    if path == "/items":
        found += [422]
    if method == "POST" or "{" in path:
        found += [404]
    return sorted(found + ([403, 409] if path == "/reload" else []))


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _line(error: object, status: int) -> JSONResponse:
    headers = {"retry-after": "1"} if status == 503 else {}
    return JSONResponse({"error": str(error)}, status, headers=headers)


def _problem(status: int) -> Callable[[Request, Exception], JSONResponse]:
    return lambda request, error: _line(error, status)


def _http_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # raised where the body could not be decoded
        wrong = isinstance(error.__cause__, UnicodeDecodeError)
        return _line(f"the body is no JSON: {'it is not UTF-8 text' if wrong else 'it cannot be read'}", 400)
    out = _line(error.detail, error.status_code)
    out.headers.update(error.headers or {})
    return out


def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Name the first field that is wrong; what came is not repeated, it may be large."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _line(f"the body is no JSON: {first.get('ctx', {}).get('error', first['msg'])}"[:300], 400)
    if first["type"] == "model_attributes_type" and first["loc"] == ("body",):
        return _line(
            "the body must be a JSON object, sent with the header content-type: application/json", 422
        )
    parts = [str(part) for part in first["loc"] if part not in KINDS_OF_ID]
    fault = first["msg"][:300] if len(parts) == len(first["loc"]) else ID_RULE
    others = {tuple(part for part in one["loc"] if part not in KINDS_OF_ID) for one in error.errors()}
    more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
    return _line(f"{'.'.join(parts)[:200]}: {fault}{more}", 422)


def _failed(request: Request, error: Exception) -> JSONResponse:
    return _line(f"a bug: {type(error).__name__}; the log of the service has the traceback", 500)


def _timed(response: Response, spent: Spent) -> None:
    response.headers["server-timing"] = (
        f"wait;dur={1000 * spent.waiting:.3f}, model;dur={1000 * spent.model:.3f}"
    )


# ---------------------------------------------------------------- lists


async def recommend(body: RecommendRequest, request: Request, response: Response) -> RecommendReply:
    """Rank the items for users of the data, or for people by the items that they have."""
    service = _service(request)
    model = service.model
    if (body.users is None) == (body.histories is None):
        raise HTTPException(422, "whose lists? Pass users or histories, one of the two")
    service.check("users or histories", len(body.users or body.histories or ()), service.limits.batch)
    more: dict[str, Any] = {
        "hidden": model.items(body.exclude),
        "only": None if body.only is None else model.items(body.only),
        "repeats": _repeats(model, body.repeats),
    }
    if body.users is not None:
        queries = [ranker.Query(model.user(one), **more) for one in body.users]
    else:
        _needs_histories(model)
        queries = [ranker.Query(history=model.items(one), **more) for one in body.histories or ()]
    lists, spent = await service.rank(queries, body.top, model)
    _timed(response, spent)
    whose: list[Any] = list(body.users) if body.users is not None else [None] * len(lists)
    found = [{"user": user, "items": model.ranked(one)} for user, one in zip(whose, lists, strict=True)]
    return RecommendReply.model_validate({"weights": model.weights, "lists": found})


async def explain(body: ExplainRequest, request: Request) -> ExplainReply:
    """Return one person's list, that of the model before fine-tuning, and the steps of the chain."""
    service = _service(request)
    model = service.model
    if (body.user is None) == (body.history is None):
        raise HTTPException(422, "whose list? Pass user or history, one of the two")
    service.check("items of a history", len(body.history or ()), service.limits.history)
    repeats = _repeats(model, body.repeats)
    if body.user is not None:
        query = ranker.Query(model.user(body.user), repeats=repeats)
    else:
        _needs_histories(model)
        query = ranker.Query(history=model.items(body.history or ()), repeats=repeats)
    found = await service.batcher.call(lambda: model.explain(query, body.top))
    return ExplainReply.model_validate(found)


def _repeats(model: Served, wanted: bool) -> bool:
    """Return ``wanted``, unless the data has no lists that repeat what a person has."""
    if wanted:
        try:
            ranker.check_repeats(model.dataset)
        except ranker.NoRepeats as error:
            raise HTTPException(422, str(error)) from None
    return wanted


def _needs_histories(model: Served) -> None:
    if not model.histories:
        raise HTTPException(422, "this model ranks for the users of its data alone: pass users")


async def model(request: Request) -> ModelReply:
    """Describe the model that answers."""
    service = _service(request)
    served = service.model
    ids, count = served.dataset.users_by_id, served.dataset.num_users
    return ModelReply(
        name=service.name,
        run=served.run.name,
        backbone=served.ranker.policy.backbone.name,
        dataset=served.dataset.name,
        data_fingerprint=served.dataset.fingerprint,
        weights=served.weights,
        users=count,
        items=served.dataset.num_items,
        steps=served.ranker.policy.num_steps,
        before=served.before is not None,
        histories=served.histories,
        repeats=served.dataset.has_rows,
        example_users=[ids.of(number) for number in range(min(3, count))],
    )


async def items(
    request: Request,
    q: Annotated[str, Query(max_length=100, description="A part of an id or a name")] = "",
    limit: Annotated[int, Query(ge=1, le=50)] = 20,
) -> ItemsReply:
    """Find items by a part of their id or name."""
    served = _service(request).model
    found = await asyncio.to_thread(served.find, q, limit)
    return ItemsReply.model_validate({"items": found})


async def reload(body: ReloadRequest, request: Request) -> ReloadReply:
    """Load the run again, or another one beside it, and answer by it from then on."""
    service = _service(request)
    if not service.token:
        raise HTTPException(403, "reload needs a token: start the service with --token-file")
    try:
        served = await service.reload(body.run)
    except (ValueError, OSError) as error:
        raise HTTPException(409, f"the former model stays: {reason(error)}") from error
    return ReloadReply(run=served.run.name, weights=served.weights)


async def metrics(request: Request) -> PlainTextResponse:
    """Return the Prometheus metrics."""
    text = generate_latest(_service(request).gauges.registry)
    return PlainTextResponse(text, media_type=CONTENT_TYPE_LATEST)


async def page() -> HTMLResponse:
    """Return the page that shows lists and chains."""
    headers = {"content-security-policy": PAGE_POLICY, "x-content-type-options": "nosniff"}
    return HTMLResponse(_page(), headers=headers | {"referrer-policy": "no-referrer"})


@cache
def _page() -> str:
    return files("agents.serving").joinpath("page.html").read_text(encoding="utf-8")


# ---------------------------------------------------------------- Open Inference Protocol, version 2


async def server_metadata() -> ServerMetadata:
    """Describe the server."""
    return ServerMetadata(name="refit", version=metadata.version("refit-env"), extensions=[])


async def live() -> Health:
    """Return that the service runs."""
    return Health(live=True)


async def ready() -> Health:
    """Return that a model is loaded."""
    return Health(ready=True)


def _named(request: Request, name: str) -> Service:
    service = _service(request)
    if name != service.name:
        raise HTTPException(404, f"no model {name[:80]!r}; the service has {service.name!r}")
    return service


async def model_metadata(name: str, request: Request) -> ModelMetadata:
    """Describe the tensors of the model."""
    return inference.metadata(name, _named(request, name).model)


async def model_ready(name: str, request: Request) -> Health:
    """Return that the model answers."""
    _named(request, name)
    return Health(ready=True)


async def infer(name: str, body: InferRequest, request: Request, response: Response) -> InferReply:
    """Rank the items for a tensor of histories or of users."""
    service = _named(request, name)
    served = service.model
    service.check("users or histories", body.inputs[0].shape[0], service.limits.batch)
    queries, top = inference.queries_of(body, served)
    lists, spent = await service.rank(queries, top, served)
    _timed(response, spent)
    return inference.reply(name, served, body, lists, top)


ROUTES: tuple[tuple[str, Callable[..., Any], str], ...] = (
    ("/", page, "GET"),
    ("/recommend", recommend, "POST"),
    ("/explain", explain, "POST"),
    ("/model", model, "GET"),
    ("/items", items, "GET"),
    ("/reload", reload, "POST"),
    ("/metrics", metrics, "GET"),
    ("/v2", server_metadata, "GET"),
    ("/v2/health/live", live, "GET"),
    ("/v2/health/ready", ready, "GET"),
    ("/v2/models/{name}", model_metadata, "GET"),
    ("/v2/models/{name}/ready", model_ready, "GET"),
    ("/v2/models/{name}/infer", infer, "POST"),
)
"""Path, function and method."""
