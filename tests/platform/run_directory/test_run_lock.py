"""One process a run directory: the others are told who it is."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from atoll.errors import RunDirectoryError
from atoll.platform.run_directory.run_lock import LOCK, DirectoryInUseError, RunLock


def test_one_process_a_run_directory(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    holder = rf"another process \({os.getpid()} on {re.escape(socket.gethostname())}\) is running"
    for _ in range(2):
        # A process that did not get the lock leaves word of its holder.
        with pytest.raises(DirectoryInUseError, match=holder):
            second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib; from atoll.platform.run_directory.run_lock import RunLock;"
        "RunLock(pathlib.Path(sys.argv[1])).acquire(); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / LOCK).read_text()
    with RunLock(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"{os.getpid()} on ")


def test_a_file_system_without_locks_is_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(RunDirectoryError, match=r"cannot be locked \(No locks available\)"):
        RunLock(tmp_path).acquire()
