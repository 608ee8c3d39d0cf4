"""Atomic writing: a file or a folder appears as a whole or not at all.

Nothing else in Atoll writes to a temporary name and renames it.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atoll.errors import DataUnavailableError, RunDirectoryError

# What the names of unfinished folders begin with.
PARTIAL = ".partial-"


@contextmanager
def atomic_file(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path; it replaces ``path`` when the block ends without an error.

    Parameters
    ----------
    path : Path
        The file; its folder is made if it is missing.
    sync : bool
        Whether it is on disk when this returns, so that it outlasts a loss of power.

    Raises
    ------
    OSError
        If it cannot be written; ``path`` stays as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if sync:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
        if sync:
            sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, as :func:`atomic_file`, with errors that name the file.

    Raises
    ------
    RunDirectoryError
        If it cannot be written (a full disk, say); ``path`` stays as it was.
    """
    try:
        with atomic_file(path) as partial:
            yield partial
    except OSError as error:
        kept = "; what was there before is kept" if path.exists() else ""
        # PyArrow's errors have no strerror.
        reason = error.strerror or error
        raise RunDirectoryError(f"{path}: cannot be written ({reason}){kept}") from error


@contextmanager
def atomic_folder(target: Path, *, replaces: bool = False) -> Iterator[Path]:
    """Yield a folder to fill; it becomes ``target`` when the block ends without an error.

    Parameters
    ----------
    target : Path
        The folder.
    replaces : bool
        Whether one that is there is replaced. Else it stays: another process made the same.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    partial = target.with_name(f"{PARTIAL}{target.name}-{uuid.uuid4().hex}")
    try:
        # Unlike tempfile's, this folder can be read by whom the user lets read.
        partial.mkdir(parents=True)
        yield partial
        if replaces and target.exists():
            shutil.rmtree(target)
        try:
            partial.replace(target)
        except OSError:
            if replaces or not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Yield a folder to fill, as :func:`atomic_folder`, with errors that name it.

    Raises
    ------
    DataUnavailableError
        If it cannot be written.
    """
    try:
        with atomic_folder(target) as partial:
            yield partial
    except OSError as error:
        reason = error.strerror or error
        raise DataUnavailableError(f"{target}: cannot be written ({reason})") from error


def sync_folder(folder: Path) -> None:
    """Have a folder's new names on disk, so that they outlast a loss of power, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_partial_folders(root: Path) -> None:
    """Remove what processes left below ``root`` that were killed as they filled folders."""
    for partial in root.rglob(f"{PARTIAL}*"):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


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
