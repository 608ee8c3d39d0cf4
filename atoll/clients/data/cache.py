"""Cache of data sets: files are verified, and appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atoll.errors import DataUnavailableError


def cache_root() -> Path:
    """Return the cache folder: ``$ATOLL_CACHE``, or ``~/.cache/atoll``."""
    configured = os.environ.get("ATOLL_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "atoll"


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file that is not the one that is meant.

    Raises
    ------
    DataUnavailableError
        If its SHA-256 is not ``expected``.
    """
    found = sha256_of(path)
    if found != expected:
        raise DataUnavailableError(f"{path.name}: SHA-256 is {found}, expected {expected}")


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Yield a folder to fill; it becomes ``target`` when the block ends well, and is gone if not.

    If another process makes ``target`` meanwhile, that one stays: both hold the same.
    """
    partial = target.parent / f".{target.name}-{uuid.uuid4().hex}"
    try:
        # Unlike tempfile's, this folder can be read by whom the user lets read.
        partial.mkdir(parents=True)
        yield partial
        try:
            partial.replace(target)
        except OSError:
            if not target.is_dir():
                raise
    except OSError as error:
        raise DataUnavailableError(
            f"{target}: cannot be written ({error.strerror or error})"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
