"""A language model as the reward: it grades each list, through any OpenAI-compatible endpoint.

The model reads the texts of the user's latest visible items and of the list, and returns a grade from 0 to
10; the reward is the grade over 10. Lists are sent several at a time (``batch``). Grades are kept in a file
by the model and the prompt: a list is graded once, and a training can be repeated without the endpoint.

Nothing is sent unless ``url`` and ``llm`` are given. A request ends after ``timeout`` seconds. Requests
that time out, are refused for now (429) or fail in the server (500 and above), and answers that cannot be
read, are sent again up to ``retries`` times, after 1, 2, 4 ... seconds or what ``Retry-After`` states. After
the last, or once ``budget`` requests were sent, the call fails: a run that is ended by it can be resumed.

Letters: B users in the batch, K list length, h items of the history that are shown.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from time import sleep
from typing import Annotated, Any, ClassVar

import torch
from msgspec import Meta
from torch import Tensor

from refit_env.rewards.base import Reward
from refit_env.rewards.context import RewardContext
from refit_env.rewards.item_texts import item_texts
from refit_env.settings import Positive, check_setting
from refit_env.utils.chat import Endpoint, EndpointError
from refit_env.utils.grades import Grades

TASK = (
    "Grade lists of recommendations. For each numbered case, grade from 0 (bad) to 10 (excellent) how well "
    "the list fits a user with that history. Answer with a JSON array of one number for each case, in order, "
    "and nothing else."
)
"""The task, before the cases; ``criterion`` is added to it."""
Count = Annotated[int, Meta(ge=1, le=10_000)]
"""A number of requests, lists or items."""
_ARRAY = re.compile(r"\[[^\[\]]*\]")


class LanguageModelGrade(Reward):
    """``llm_grade``: the grade of a list by a language model, over 10; off unless an endpoint is named.

    The data set's items need texts (``title``, ``text`` ... in ``items.parquet``). What is sent: texts of
    items of the history and of the list; no ids of users. No sum over the list.
    """

    term_names = ("grade",)
    outside: ClassVar[bool] = True

    def __init__(
        self,
        context: RewardContext,
        *,
        url: str = "",
        llm: str = "",
        key_variable: str = "OPENAI_API_KEY",
        criterion: str = "",
        batch: int = 8,
        history: int = 10,
        budget: int = 100,
        timeout: float = 30.0,
        retries: int = 3,
        cache: str = "",
    ) -> None:
        """Prepare; nothing is sent here.

        Args:
            context: data, relevance, K.
            url: of the endpoint up to and without ``/chat/completions``: ``http://localhost:8000/v1``.
            llm: name of the model at the endpoint.
            key_variable: the environment variable that holds the key, if the endpoint needs one.
            criterion: a sentence that is added to the task.
            batch: lists in a request.
            history: h, the latest visible items that are shown.
            budget: requests of this process, retries included, at most.
            timeout: seconds that a request may last.
            retries: times that a failed request is sent again.
            cache: file of the grades; empty: ``grades.jsonl`` in the user's cache folder.

        Raises:
            SettingError: for a setting out of range.
            ValueError: without ``url`` and ``llm``, or where the items have no texts.
        """
        for name, value in (("batch", batch), ("history", history), ("budget", budget)):
            check_setting(name, value, Count)
        check_setting("timeout", timeout, Positive)
        check_setting("retries", retries, Annotated[int, Meta(ge=0, le=20)])
        if not (url and llm):
            raise ValueError(
                "reward 'llm_grade' sends texts of items to an endpoint, which must be named: "
                "reward_kwargs={'url': ..., 'llm': ...} (--reward-options url=http://localhost:8000/v1 "
                "llm=NAME)"
            )
        super().__init__(context)
        self._texts = item_texts(context.dataset)
        self._endpoint = Endpoint(url, os.environ.get(key_variable, ""), timeout)
        self._model, self._batch, self._history, self._retries = llm, batch, history, retries
        self._left = budget
        self._budget = budget
        self._task = " ".join(filter(None, (TASK, criterion)))
        self._grades = Grades(Path(cache) if cache else None)
        self._visible = context.dataset.showing(context.relevance.visible).train  # oldest first, where known

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Read the grades, and request those that are missing.

        Raises:
            EndpointError: if the endpoint fails, or the budget is spent.
        """
        cases = [
            self._case(user, items) for user, items in zip(users.tolist(), lists.tolist(), strict=True)
        ]  # (B,)
        keys = [self._grades.key(self._model, self._task, case) for case in cases]
        missing = {key: case for key, case in zip(keys, cases, strict=True) if key not in self._grades}
        wanted = list(missing.items())
        for start in range(0, len(wanted), self._batch):
            some = wanted[start : start + self._batch]
            found = self._request([case for _, case in some])
            self._grades.add(dict(zip((key for key, _ in some), found, strict=True)))
        value = torch.tensor([self._grades[key] / 10 for key in keys], device=lists.device)  # (B,)
        return value, {"grade": value}

    def _case(self, user: int, items: Sequence[int]) -> str:
        """What is sent of one episode."""
        seen = self._visible.items[self._visible.users == user]
        history = "; ".join(self._texts[item] for item in seen[-self._history :])
        shown = "; ".join(self._texts[item] for item in items)
        return f"History: {history}. List: {shown}."

    def _request(self, cases: Sequence[str]) -> list[float]:
        """The grades of some cases, 0 to 10."""
        numbered = "\n".join(f"{n + 1}. {case}" for n, case in enumerate(cases))
        fault = ""
        for attempt in range(self._retries + 1):
            if self._left <= 0:
                raise EndpointError(
                    f"the budget of {self._budget} requests to {self._endpoint.url} is spent{fault}: raise "
                    "budget; grades so far are kept"
                )
            self._left -= 1
            wait = float(2**attempt)
            try:
                answer = self._endpoint.chat(self._model, self._task, numbered)
                return _grades_in(answer, len(cases))
            except EndpointError as error:
                if not error.again:
                    raise
                fault = f" (the last answer: {error})"
                wait = wait if error.after is None else error.after
            if attempt < self._retries:
                sleep(min(wait, self._endpoint.timeout))
        raise EndpointError(
            f"{self._endpoint.url} failed {self._retries + 1} times{fault}; grades so far are kept"
        )


def _grades_in(answer: str, count: int) -> list[float]:
    """Read the grades of an answer.

    Raises:
        EndpointError: if it does not hold ``count`` numbers from 0 to 10; it may be requested again.
    """
    found = _ARRAY.search(answer)
    try:
        values: Any = json.loads(found[0]) if found else None
    except ValueError:
        values = None
    right = isinstance(values, list) and len(values) == count
    if not right or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 10 for v in values
    ):
        raise EndpointError(
            f"expected an array of {count} numbers from 0 to 10, found {answer[:80]!r}", again=True
        )
    return [float(value) for value in values]
