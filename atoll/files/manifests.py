"""Manifests of folders: hashes of their files, by which a changed file is found.

``manifest.json`` has for each file the SHA-256 that it may have: one, or two while it is being
replaced (the manifest is written first, so at no moment is a file there that it does not know).
``null`` stands for a file that may be missing, because it is being written for the first time or
taken away.

A folder without a manifest is read all the same, and that is said once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from atoll.errors import AtollError, RunDirectoryError
from atoll.files.reading import MAX_JSON_BYTES, Sha256, read_bytes, read_json

logger = logging.getLogger("atoll")

MANIFEST = "manifest.json"
FORMAT = 1
# A file that is being replaced may be read between its manifest and itself.
TRIES, WAIT_SECONDS = 5, 0.02

_told: set[Path] = set()


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1]
    files: dict[str, Annotated[list[Sha256 | None], Field(min_length=1, max_length=2)]]


@dataclass(frozen=True)
class Manifest:
    """Manifest of a folder: the hashes that its files may have.

    Attributes
    ----------
    files : dict[str, tuple[str or None, ...]]
        By name the SHA-256 that a file may have; None stands for a file that is not there.
    """

    files: dict[str, tuple[str | None, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, *, error: type[AtollError] = RunDirectoryError) -> Manifest | None:
        """Return a folder's manifest, or None if it has none.

        Raises
        ------
        AtollError
            Of the kind ``error``, if it cannot be read.
        """
        path = folder / MANIFEST
        if not path.exists():
            return None
        found = read_json(path, _Schema, error=error)
        return cls({name: tuple(states) for name, states in found.files.items()})

    def to_json(self) -> str:
        """Return its text."""
        files = {name: list(states) for name, states in sorted(self.files.items())}
        return json.dumps({"format": FORMAT, "files": files}, indent=1) + "\n"

    def with_states(self, states: Mapping[str, tuple[str | None, ...]]) -> Manifest:
        """Return a manifest in which these files may be so; without states a file leaves it."""
        changed: dict[str, Any] = {**self.files, **states}
        return Manifest({name: each for name, each in changed.items() if each})


def seal(folder: Path, names: Sequence[str]) -> None:
    """Write the manifest of a folder that has no readers yet."""
    states = {name: (sha256_of_file(folder / name),) for name in names}
    (folder / MANIFEST).write_text(Manifest(dict(states)).to_json(), encoding="utf-8")


def sha256_of_file(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_verified(
    path: Path, *, error: type[AtollError] = RunDirectoryError, limit: int = MAX_JSON_BYTES
) -> bytes:
    """Return a file's contents, verified by its folder's manifest.

    Raises
    ------
    AtollError
        Of the kind ``error``, if it cannot be read or is not what was written.
    """
    content = b""

    def look() -> str:
        nonlocal content
        content = read_bytes(path, error=error, limit=limit)
        return hashlib.sha256(content).hexdigest()

    _until_known(path, look, (), error)
    return content


def verify(
    path: Path, *, growing: Collection[str] = (), error: type[AtollError] = RunDirectoryError
) -> None:
    """Refuse a file whose hash is not in its folder's manifest.

    Parameters
    ----------
    path : Path
        The file.
    growing : Collection[str]
        Names of files that the manifest need not know yet.
    error : type[AtollError]
        What is raised.

    Raises
    ------
    AtollError
        Of the kind ``error``, if it cannot be read or is not what was written.
    """

    def look() -> str:
        try:
            return sha256_of_file(path)
        except OSError as problem:
            raise error(f"{path}: cannot be read ({problem.strerror or problem})") from problem

    manifest = Manifest.read(path.parent, error=error)
    if manifest is None:
        _tell(path.parent)
    elif path.name not in growing or path.name in manifest.files:
        _until_known(path, look, growing, error)


def _until_known(
    path: Path, look: Callable[[], str], growing: Collection[str], error: type[AtollError]
) -> None:
    """Look at a file until the manifest knows what is seen, as it may be being replaced."""
    before = None
    for _ in range(TRIES):
        # In this order: a manifest knows a file before it is there.
        sha256 = look()
        manifest = Manifest.read(path.parent, error=error)
        if manifest is None:
            _tell(path.parent)
            return
        states = manifest.files.get(path.name)
        if path.name in growing if states is None else sha256 in states:
            return
        if sha256 == before:
            break
        before = sha256
        time.sleep(WAIT_SECONDS)
    raise error(
        f"{path}: is not what was written (its SHA-256 is not the one in {MANIFEST} beside it); "
        "expected the file unchanged"
    )


def check_missing(path: Path, *, error: type[AtollError] = RunDirectoryError) -> None:
    """Refuse that a file is missing which its folder's manifest has.

    Raises
    ------
    AtollError
        Of the kind ``error``.
    """
    manifest = Manifest.read(path.parent, error=error)
    states = (None,) if manifest is None else manifest.files.get(path.name, (None,))
    # It may have come between the look for it and this one.
    if None not in states and not path.exists():
        raise error(f"{path}: is missing, and {MANIFEST} beside it has it")


def _tell(folder: Path) -> None:
    """Say once, of a folder and of those beside it, that they are not verified."""
    around = folder.resolve().parent
    if around not in _told:
        _told.add(around)
        logger.warning("%s: without a manifest: not verified", folder)
