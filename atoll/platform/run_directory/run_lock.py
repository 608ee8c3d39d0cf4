"""Locks of run directories: one process runs in a directory at a time.

A lock is the kernel's (``flock``): it ends with its process, however that ends. The library
``filelock`` locks in the same way, but releases before August 2026 let a process that does not get
a lock erase what its holder has written into it (issues 591 and 607), and none removes the lock's
file, so that the folder of a start that came to nothing would stay.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Collection
from pathlib import Path

from atoll.errors import RunDirectoryError

LOCK = ".lock"


def is_free(directory: Path, left: Collection[str] = ()) -> bool:
    """Tell whether a directory is new, or holds only what is left by a start that was killed.

    That is hidden files, and those whose names are ``left``.
    """
    if not directory.exists():
        return True
    return directory.is_dir() and all(
        path.name.startswith(".") or path.name in left for path in directory.iterdir()
    )


class DirectoryInUseError(RunDirectoryError):
    """A directory that another process is running in."""


class RunLock:
    """Keeps a second process out of a run directory.

    Parameters
    ----------
    directory : Path
        The run directory; made if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / LOCK
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock; its holder may take it again.

        Raises
        ------
        DirectoryInUseError
            If another process has it.
        RunDirectoryError
            If the folder cannot be written to, or its file system has no locks.
        """
        while self._file is None:
            file = self._open()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.pread(file, 256, 0).decode(errors="replace").strip() or "?"
                os.close(file)
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise RunDirectoryError(
                        f"{self.directory}: cannot be locked ({error.strerror}); expected a file "
                        "system that has locks"
                    ) from error
                raise DirectoryInUseError(
                    f"{self.directory}: another process ({holder}) is running in it"
                ) from error
            if self._is_of(file):
                self._file = file
            else:
                # Whoever had it took the file away as it let go.
                os.close(file)
        # Who it is is a courtesy, for which a full disk may have no room.
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()} on {socket.gethostname()}".encode(), 0)

    def _open(self) -> int:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RunDirectoryError(
                f"{self.directory}: cannot be written to ({error.strerror})"
            ) from error

    def _is_of(self, file: int) -> bool:
        """Tell whether an open file is the one that has the lock's name."""
        try:
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let go of the lock; a folder with nothing else in it goes, too."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            if os.listdir(self.directory) == [LOCK]:
                self._path.unlink()
                self.directory.rmdir()
        os.close(self._file)
        self._file = None

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def is_in_use(directory: Path) -> bool:
    """Tell whether a process of this machine is running in a directory.

    It is looked up, not tried: a lock taken to find out would turn away a run that starts then.
    """
    try:
        found = os.stat(directory / LOCK)
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    # "12: FLOCK  ADVISORY  WRITE 4711 fd:01:393217 0 EOF": the devices are hexadecimal.
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    return any(device in line.split() for line in lines)
