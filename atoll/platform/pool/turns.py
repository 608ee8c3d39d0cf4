"""Turns of several threads at driving the pool, and the job sources that it is driven for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from atoll.errors import EngineError
from atoll.platform.pool.jobs import JobSource


class Turns:
    """Lets one thread at a time drive the pool, for all sources; the others wait for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_driven = False
        self._sources: list[JobSource] = []
        self._failure: EngineError | None = None

    def add(self, source: JobSource) -> bool:
        """Add a source; return whether it is the only one."""
        with self._changed:
            is_first = not self._sources
            self._sources.append(source)
            self._failure = None
        return is_first

    def forget(self, source: JobSource) -> None:
        """Remove a source."""
        with self._changed:
            self._sources = [other for other in self._sources if other is not source]

    def unfinished(self) -> list[JobSource]:
        """Return the sources that are not finished; the others are removed."""
        with self._changed:
            self._sources = [source for source in self._sources if not source.finished]
            return list(self._sources)

    def has_waited(self, deadline: float | None) -> bool:
        """Wait for another thread's turn, if one drives the pool; return whether one did.

        Parameters
        ----------
        deadline : float or None
            When to return at the latest, as of ``time.monotonic``.

        Raises
        ------
        EngineError
            What that thread's turn ended with.
        """
        with self._changed:
            if not self._is_driven:
                return False
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._changed.wait(left)
            if self._failure is not None:
                raise EngineError(str(self._failure)) from self._failure
            return True

    def fail(self, error: EngineError) -> None:
        """Have threads that wait for this turn raise ``error`` too."""
        self._failure = error

    @contextmanager
    def driving(self) -> Iterator[None]:
        """Within this context no other thread drives the pool."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_driven)
            self._is_driven = True
        try:
            yield
        finally:
            with self._changed:
                self._is_driven = False
                self._changed.notify_all()
