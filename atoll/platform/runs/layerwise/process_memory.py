"""Peak memory of this process."""

from __future__ import annotations

import resource
from pathlib import Path

CLEAR = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


def forget_peak() -> None:
    """Reset the kernel's measurement of this process's peak memory, where it can."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return


def peak_memory() -> int:
    """Return the most memory that this process has held since :func:`forget_peak`, in bytes."""
    try:
        lines = STATUS.read_text().splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
