"""Atomic writing of files: a file appears as a whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atoll.errors import RunDirectoryError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; it replaces ``path`` when the block ends without an error.

    Raises
    ------
    RunDirectoryError
        If it cannot be written (a full disk, say); ``path`` stays as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        kept = "; what was there before is kept" if path.exists() else ""
        # PyArrow's errors have no strerror.
        reason = error.strerror or error
        raise RunDirectoryError(f"{path}: cannot be written ({reason}){kept}") from error
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have a folder's new names on disk, so that they outlast a loss of power, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_partials(folder: Path, names: Sequence[str]) -> None:
    """Remove temporary files of processes that were killed as they wrote files of these names."""
    for name in names:
        for partial in folder.glob(f".{name}.*"):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, as a whole."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, as a whole."""
    write_text(path, json.dumps(value, indent=2) + "\n")
