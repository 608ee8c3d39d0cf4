"""A report that is made again when what it is made of has changed, and not too often."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atoll.credentials import without_credentials
from atoll.errors import AtollError
from atoll.platform.cli.live_page.views import View

logger = logging.getLogger("atoll")

# The share of a processor that making reports may take from the run.
SHARE = 0.25


class LiveReport:
    """A view's report in a folder of its own; threads may share it.

    Parameters
    ----------
    view : View
        What is shown.
    folder : Path
        An empty folder of the directory's name.
    clock : Callable
        Seconds.
    """

    def __init__(
        self, view: View, folder: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.view = view
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp: object = None
        self._page: Path | None = None
        self._version = 0
        self._next = float("-inf")

    def state(self) -> dict[str, Any]:
        """Return what the page is told: how things stand, and the version of the report."""
        try:
            standing = self.view.standing().to_dict()
            problem = self._refresh(at_once=standing["has_ended"])
        except (AtollError, OSError) as error:
            standing, problem = {"text": "", "has_ended": False, "parts": []}, error
        said = None if problem is None else without_credentials(str(problem))
        return {
            **standing,
            "name": self.view.directory.resolve().name,
            "version": self._version,
            "problem": said,
        }

    def file(self, name: str) -> Path | None:
        """Return the report's page (the empty name), or a picture beside it."""
        page = self._page
        if page is None:
            return None
        path = page if not name else (page.parent / name).resolve()
        is_beside = path.is_relative_to(page.parent.resolve()) and path.suffix == ".png"
        return path if not name or (is_beside and path.is_file()) else None

    def _refresh(self, *, at_once: bool) -> Exception | None:
        """Make the report again if it is out of date and not too soon; return what prevents it."""
        with self._lock:
            stamp, started = self.view.stamp(), self._clock()
            if stamp == self._stamp or (started < self._next and not at_once):
                return None
            problem: Exception | None = None
            try:
                self._page = self.view.write(self._folder) or self._page
                self._version += self._page is not None
                self._stamp = stamp
            except (AtollError, OSError) as error:
                # A file may be replaced just now; the report before stays, and it is tried again.
                problem = error
            ended = self._clock()
            self._next = ended + (ended - started) * (1 / SHARE - 1)
            return problem
