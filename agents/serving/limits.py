"""What one request to the service may hold and take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from refit_env.settings import Bounded

MOST_PEOPLE, MOST_ITEMS, MOST_TOP = 1024, 100_000, 10_000
"""Bounds of the limits themselves."""


@dataclass(frozen=True)
class Limits(Bounded):
    """Limits of the service; a request beyond one gets an answer of class 4xx or 503, at once."""

    batch: Annotated[int, Meta(ge=1, le=MOST_PEOPLE)] = 64
    """Most users or histories of a request, and of one call of the model."""
    history: Annotated[int, Meta(ge=1, le=MOST_ITEMS)] = 1000
    """Most items of a history."""
    top: Annotated[int, Meta(ge=1, le=MOST_TOP)] = 100
    """Longest list."""
    body: Annotated[int, Meta(ge=1024, le=2**30)] = 2**20
    """Most bytes of a request's body."""
    queue: Annotated[int, Meta(ge=1, le=10**6)] = 512
    """Most users and histories that wait for the model; further requests get 503."""
    connections: Annotated[int, Meta(ge=1, le=10**6)] = 512
    """Most open connections; further ones get 503."""
    seconds: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    """Longest time to receive a request (else 408), and to answer it (else 503)."""
