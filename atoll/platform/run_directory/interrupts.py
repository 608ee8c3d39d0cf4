"""Ctrl-C and SIGTERM: both end a run with a checkpoint, and wait while a round is written down."""

from __future__ import annotations

import signal
import threading
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
