"""Processor time of all processes that a program started, however they were started.

The program gets a mark in its environment, which its processes inherit; Ray's daemons leave their
process group, and what they start is not waited for by the program itself. A process that ends
between two samples is counted up to the first of them.
"""

from __future__ import annotations

import os
from pathlib import Path

MARK = "ATOLL_BENCHMARK_MARK"
_TICKS = os.sysconf("SC_CLK_TCK")


class ProcessorTime:
    """Adds up the processor time of the processes with a mark.

    Parameters
    ----------
    mark : str
        The value of ``ATOLL_BENCHMARK_MARK`` in their environment.
    """

    def __init__(self, mark: str) -> None:
        self._mark = f"{MARK}={mark}".encode()
        self._seconds: dict[tuple[str, str], float] = {}
        self._is_marked: dict[tuple[str, str], bool] = {}

    def sample(self) -> float:
        """Return the seconds so far, of the processes that there are and those that were."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                process = folder.name, fields[19]
                if process not in self._is_marked:
                    environment = (folder / "environ").read_bytes().split(b"\0")
                    self._is_marked[process] = self._mark in environment
            except OSError:
                continue
            if self._is_marked[process]:
                self._seconds[process] = (int(fields[11]) + int(fields[12])) / _TICKS
        return sum(self._seconds.values())


def of_this_benchmark() -> ProcessorTime:
    """Return the processor time of the program that this process belongs to."""
    return ProcessorTime(os.environ.get(MARK, ""))
