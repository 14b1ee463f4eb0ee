"""The language-model reward against a local HTTP stub that is slow, busy, wrong or down."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refit_env.data.dataset import Dataset
from refit_env.rewards import Reward, make_relevance, make_reward
from refit_env.utils import chat
from refit_env.utils.chat import EndpointError

TITLES = np.array(["Alien", "Brazil", "Clue", "Dune", "Eraserhead", "Fargo"])
SCORES = torch.eye(6)[[0, 1, 2, 3, 4]]


class Stub:
    """A server that grades each case by the letters of its list's first title, after some faults.

    Attributes:
        faults: what the next requests meet: ``slow``, ``429``, ``500``, ``400``, ``text``, ``short``,
            ``html``.
        requests: bodies of the requests.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stub.requests.append(body)
                stub.headers.append(dict(self.headers))
                stub.answer(self, body)

            def log_message(self, *words: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        fault = self.faults.pop(0) if self.faults else ""
        cases = re.findall(r"List: (\w+)", body["messages"][1]["content"])
        grades = json.dumps([float(len(case)) for case in cases])
        code, text = 200, json.dumps({"choices": [{"message": {"content": f"Here: {grades}"}}]})
        if fault == "slow":
            time.sleep(0.6)
        elif fault.isdigit():
            code, text = int(fault), "not now"
        elif fault == "text":
            text = json.dumps({"choices": [{"message": {"content": "I cannot grade that."}}]})
        elif fault == "short":
            text = json.dumps({"choices": [{"message": {"content": "[11]"}}]})
        elif fault == "html":
            text = "<html>"
        try:
            handler.send_response(code)
            handler.send_header("Retry-After", "0")
            handler.end_headers()
            handler.wfile.write(text.encode())
        except OSError:  # the client has gone
            pass


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def make(five: Dataset, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Reward]:
    monkeypatch.setattr("refit_env.rewards.language_model.sleep", lambda seconds: None)
    data = replace(five, item_features={"title": TITLES})

    def made(**kwargs: Any) -> Reward:
        given = {"url": stub.url, "llm": "m", "timeout": 0.3, "cache": str(tmp_path / "grades.jsonl")}
        return make_reward("llm_grade", data, make_relevance("train", data), k=2, **{**given, **kwargs})

    return made


def test_lists_are_graded_in_batches_and_once(
    make: Callable[..., Reward], stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    reward = make(batch=2, criterion="Prefer the strange.", key_variable="MY_KEY")
    users = torch.tensor([0, 1, 2, 3, 4])
    expected = [0.5, 0.6, 0.4, 0.4, 1.0]  # Alien, Brazil, Clue, Dune, Eraserhead
    assert reward(SCORES, users).value.tolist() == pytest.approx(expected)
    assert len(stub.requests) == 3
    first = stub.requests[0]["messages"]
    assert first[1]["content"].startswith("1. History: Alien; Brazil. List: Alien; Brazil.\n2. History: ")
    assert first[0]["content"].endswith("Prefer the strange.") and stub.requests[0]["temperature"] == 0
    assert stub.headers[0]["Authorization"] == "Bearer secret"
    assert reward(SCORES, users).value.tolist() == pytest.approx(expected) and len(stub.requests) == 3
    again = make(criterion="Prefer the strange.")  # another process: the file knows them
    assert again(SCORES[[4, 0]], users[[4, 0]]).value.tolist() == pytest.approx([1.0, 0.5])
    assert len(stub.requests) == 3
    make()(SCORES[:1], users[:1])  # another task is another grade
    assert len(stub.requests) == 4


@pytest.mark.parametrize("fault", ["slow", "429", "500", "text", "short", "html"])
def test_a_fault_that_passes_is_tried_again(fault: str, make: Callable[..., Reward], stub: Stub) -> None:
    stub.faults = [fault]
    assert make()(SCORES[:2], torch.tensor([0, 1])).value.tolist() == pytest.approx([0.5, 0.6])
    assert len(stub.requests) == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("429", r"failed 2 times \(the last answer: .* answered 429: not now\); grades so far are kept"),
        ("text", r"failed 2 times .*expected an array of 1 numbers from 0 to 10, found 'I cannot grade"),
        ("html", r"failed 2 times .*answered no chat completion: <html>"),
        ("slow", r"failed 2 times .*cannot be reached: timed out"),
        ("400", r"answered 400: not now"),
    ],
)
def test_a_fault_that_stays_ends_in_one_line(
    fault: str, message: str, make: Callable[..., Reward], stub: Stub
) -> None:
    stub.faults = [fault] * 9
    with pytest.raises(EndpointError, match=message) as error:
        make(retries=1)(SCORES[:1], torch.tensor([0]))
    assert "\n" not in str(error.value) and len(stub.requests) == (1 if fault == "400" else 2)


def test_an_endpoint_that_is_down(make: Callable[..., Reward]) -> None:
    with pytest.raises(EndpointError, match=r"http://127.0.0.1:9/v1 failed 1 times .*cannot be reached"):
        make(url="http://127.0.0.1:9/v1", retries=0)(SCORES[:1], torch.tensor([0]))


def test_the_budget_ends_requests_and_what_is_graded_is_kept(
    make: Callable[..., Reward], stub: Stub, tmp_path: Path
) -> None:
    reward = make(budget=1, batch=2)
    with pytest.raises(EndpointError, match=r"the budget of 1 requests to .* is spent: raise budget"):
        reward(SCORES, torch.arange(5))
    assert len(stub.requests) == 1
    assert reward(SCORES[:2], torch.arange(2)).value.tolist() == pytest.approx([0.5, 0.6])
    with (tmp_path / "grades.jsonl").open("a") as file:
        file.write('{"key": "half a li')
    assert make()(SCORES[:2], torch.arange(2)).value.tolist() == pytest.approx([0.5, 0.6])
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"url": ""}, r"sends texts of items to an endpoint, which must be named: .*--reward-options url="),
        ({"llm": ""}, "reward 'llm_grade' sends texts of items to an endpoint"),
        ({"url": "ftp://x"}, "url 'ftp://x' must begin with http:// or https://"),
        ({"budget": 0}, "budget of reward 'llm_grade' must be >= 1"),
        ({"timeout": 0}, "timeout of reward 'llm_grade' must be > 0"),
    ],
)
def test_mistakes(kwargs: dict[str, Any], message: str, make: Callable[..., Reward], stub: Stub) -> None:
    with pytest.raises(ValueError, match=message):
        make(**kwargs)
    assert not stub.requests


def test_items_without_texts(five: Dataset) -> None:
    with pytest.raises(ValueError, match="have no texts"):
        make_reward("llm_grade", five, make_relevance("train", five), k=2, url="http://x", llm="m")
    assert chat.LARGEST > 0
