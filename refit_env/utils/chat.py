"""A client of OpenAI-compatible chat endpoints, with the standard library alone."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from refit_env.utils.text import visible

LARGEST = 2**20
"""Bytes of an answer that are read."""


class EndpointError(ValueError):
    """An endpoint failed.

    Attributes:
        again: whether the same request may succeed later.
        after: seconds after which the server wants it again; None if it states none.
    """

    def __init__(self, text: str, *, again: bool = False, after: float | None = None) -> None:
        """Set the message and the attributes."""
        super().__init__(text)
        self.again, self.after = again, after


class Endpoint:
    """One endpoint."""

    def __init__(self, url: str, key: str = "", timeout: float = 30.0) -> None:
        """Store the address; nothing is sent.

        Raises:
            ValueError: for an address that is not http or https.
        """
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url {url!r} must begin with http:// or https://")
        self.url, self.timeout, self._key = url.rstrip("/"), float(timeout), key

    def chat(self, model: str, system: str, user: str) -> str:
        """Return the text of the model's answer, at temperature 0.

        Raises:
            EndpointError: if there is none; ``again`` says whether to try once more.
        """
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        body = json.dumps({"model": model, "messages": messages, "temperature": 0}).encode()
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        request = urllib.request.Request(f"{self.url}/chat/completions", body, headers)  # http alone
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                raw = answer.read(LARGEST)
        except urllib.error.HTTPError as error:
            with error:
                text = visible(error.read(200).decode("utf-8", "replace"))
            later = error.code == 429 or error.code >= 500
            raise EndpointError(
                f"{self.url} answered {error.code}: {text}",
                again=later,
                after=_seconds(error.headers.get("Retry-After")),
            ) from error
        except (TimeoutError, urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            raise EndpointError(f"{self.url} cannot be reached: {reason}", again=True) from error
        return _content(raw, self.url)


def _content(raw: bytes, url: str) -> str:
    """Return the text in an answer.

    Raises:
        EndpointError: if it is of another form.
    """
    try:
        found: Any = json.loads(raw)
        text = found["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        shown = visible(raw[:80].decode("utf-8", "replace"))
        raise EndpointError(f"{url} answered no chat completion: {shown}", again=True)
    return text


def _seconds(text: str | None) -> float | None:
    """Return the seconds of a ``Retry-After``; None where there are none."""
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None
