"""Counting what a job sends: a unit that is trained must say nothing to any other worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorMethod
from ray.remote_function import RemoteFunction


@dataclass
class MessageCount:
    """Calls of Ray that were made: to actors, tasks, and the object store."""

    messages: int = 0


@contextmanager
def counted_messages() -> Iterator[MessageCount]:
    """Count, within this context, the calls by which this process could reach another one."""
    count = MessageCount()
    places: list[tuple[Any, str]] = [
        (ActorMethod, "_remote"),
        (RemoteFunction, "_remote"),
        (ray, "get"),
        (ray, "put"),
        (ray, "wait"),
    ]
    originals = [getattr(owner, name) for owner, name in places]

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            count.messages += 1
            return original(*arguments, **named)

        return call

    for (owner, name), original in zip(places, originals, strict=True):
        setattr(owner, name, counting(original))
    try:
        yield count
    finally:
        for (owner, name), original in zip(places, originals, strict=True):
            setattr(owner, name, original)
