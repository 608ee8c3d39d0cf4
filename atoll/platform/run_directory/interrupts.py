"""Ctrl-C, SIGTERM and the end of a time budget: each ends a run with a checkpoint.

All wait while a round is written down.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class _Held:
    """Depth of the main thread in :func:`interrupts_held`, and whether an interrupt has come."""

    depth = 0
    came = False


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _Held.depth and not _Held.came:
        _Held.came = True
        return
    # Who asks twice does not want to wait for a disk that hangs.
    raise KeyboardInterrupt


@contextmanager
def terminated_as_interrupt() -> Iterator[None]:
    """Within this context SIGTERM ends a run as Ctrl-C does: with a checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM]
    # It is ignored where a shell started the process in the background.
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _interrupt):
        numbers.append(signal.SIGINT)
    previous = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class TimeBudget:
    """Time that a command may take, from when it is made.

    Parameters
    ----------
    seconds : float or None
        More than 0; None for as long as it takes.

    Attributes
    ----------
    is_spent : bool
        Whether :func:`interrupted_when_spent` interrupted the command.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self.is_spent = False

    @property
    def left(self) -> float | None:
        """The seconds that are left, never less than 0; None where there is no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


@contextmanager
def interrupted_when_spent(budget: TimeBudget) -> Iterator[None]:
    """Within this context the end of the budget interrupts as Ctrl-C does.

    Raises
    ------
    ValueError
        If there is a limit, and this is not the main thread: no other can be interrupted.
    """
    left = budget.left
    if left is None:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        budget.is_spent = True
        _interrupt(number, frame)

    previous = signal.signal(signal.SIGALRM, end)
    # 0 would switch the timer off.
    signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Within this context an interruption waits for its end; a second one does not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Held.depth += 1
    try:
        yield
    finally:
        _Held.depth -= 1
        came = _Held.came and not _Held.depth
        if came:
            _Held.came = False
    if came:
        raise KeyboardInterrupt
