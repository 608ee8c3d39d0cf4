"""Report of an engine."""

from __future__ import annotations

import json
import resource
import time
from itertools import pairwise

from benchmarks.scaling.processor_time import of_this_benchmark


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
        print("TIMINGS " + json.dumps(figures), flush=True)
