"""A command in a terminal of its own: what its user sees, and when."""

from __future__ import annotations

import os
import pty
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fcntl import ioctl
from pathlib import Path
from select import select

import pyte


@dataclass
class Seen:
    """What was on a terminal.

    Attributes
    ----------
    returncode : int
        The command's exit code.
    first_word : float
        Seconds until anything was shown.
    frames : list[list[str]]
        The lines at every change, blank ones left out; what was scrolled away is in them.
    is_cursor_hidden : bool
        Whether the cursor was hidden at the end.
    """

    returncode: int = -1
    first_word: float = float("inf")
    frames: list[list[str]] = field(default_factory=list)
    is_cursor_hidden: bool = False

    @property
    def last(self) -> list[str]:
        """The lines at the end."""
        return self.frames[-1]


def in_terminal(
    command: Sequence[str], *, columns: int, env: Mapping[str, str], cwd: Path, timeout: float = 200
) -> Seen:
    """Run a command in a terminal that is so wide, and long enough for nothing to scroll away."""
    screen = pyte.Screen(columns, 200)
    stream, seen = pyte.ByteStream(screen), Seen()
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    # What a test environment says of its own terminal is not to be believed in this one.
    plain = {k: v for k, v in env.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env={**plain, "TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(theirs)
    while time.monotonic() - started < timeout:
        if not select([ours], [], [], 0.1)[0]:
            if process.poll() is not None:
                break
            continue
        try:
            stream.feed(os.read(ours, 65536))
        except OSError:  # The other end is closed.
            break
        lines = [line.rstrip() for line in screen.display if line.strip()]
        if lines and (not seen.frames or lines != seen.frames[-1]):
            seen.first_word = min(seen.first_word, time.monotonic() - started)
            seen.frames.append(lines)
    os.close(ours)
    if process.poll() is None and time.monotonic() - started >= timeout:
        process.kill()
    seen.returncode = process.wait()
    seen.is_cursor_hidden = screen.cursor.hidden
    return seen
