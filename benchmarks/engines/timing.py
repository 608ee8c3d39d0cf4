"""Report of an engine."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from benchmarks.scaling.processor_time import of_this_benchmark

_PREFIX = "TIMINGS "


def print_timings(figures: Mapping[str, object]) -> None:
    """Print an engine's timings as the line that :func:`timings_in` finds."""
    print(_PREFIX + json.dumps(figures), flush=True)


def timings_in(output: str) -> dict[str, Any] | None:
    """Return the timings in an engine's output; None if there are none."""
    for line in output.splitlines():
        if line.startswith(_PREFIX):
            timings: dict[str, Any] = json.loads(line.removeprefix(_PREFIX))
            return timings
    return None


def peak_mb() -> float:
    """Return this process's peak memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class RoundClock:
    """Times rounds; the first is kept apart, since it pays for starting.

    Parameters
    ----------
    started : float
        ``time.perf_counter()`` at the start of the process.
    """

    def __init__(self, started: float) -> None:
        self._started = started
        self._ends: list[float] = []
        self._processor = of_this_benchmark()
        self._processor_ends: list[float] = []

    def round_ended(self) -> None:
        """Note the end of a round."""
        self._ends.append(time.perf_counter())
        self._processor_ends.append(self._processor.sample())

    def report(self, **more: object) -> None:
        """Print the timings as a line of JSON."""
        ends = self._ends
        figures = {
            "first_round_seconds": ends[0] - self._started,
            "round_seconds": [b - a for a, b in pairwise(ends)],
            "round_processor_seconds": [b - a for a, b in pairwise(self._processor_ends)],
            "driver_peak_mb": peak_mb(),
            **more,
        }
        print_timings(figures)
