"""Cache of data sets: its folder, verified files, scratch folders."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atoll.errors import DataUnavailableError
from atoll.files.manifests import sha256_of_file


def cache_root() -> Path:
    """Return the cache folder: ``$ATOLL_CACHE``, or ``~/.cache/atoll``."""
    configured = os.environ.get("ATOLL_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "atoll"


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file that is not the one that is meant.

    Raises
    ------
    DataUnavailableError
        If its SHA-256 is not ``expected``.
    """
    found = sha256_of_file(path)
    if found != expected:
        raise DataUnavailableError(f"{path.name}: SHA-256 is {found}, expected {expected}")


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Yield a folder of the cache's that is gone after the block.

    Raises
    ------
    DataUnavailableError
        If the cache cannot be written, there or in the block.
    """
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=root) as folder:
            yield Path(folder)
    except OSError as error:
        raise DataUnavailableError(
            f"{error.filename or root}: the cache cannot be written ({error.strerror or error}); "
            "ATOLL_CACHE names another folder for it"
        ) from error
