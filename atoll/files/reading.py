"""Reading of untrusted files: within limits and by a schema, or refused in one line.

This is the one way by which Atoll reads JSON and TOML. Whatever is wrong with a file (it is no
file, too large, nested too deeply, no JSON, or of another shape) ends as an :class:`AtollError`
that names the file and the fault.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, StringConstraints, TypeAdapter, ValidationError

from atoll.error_messages import short
from atoll.errors import AtollError, RunDirectoryError
from atoll.validation import first_finding

T = TypeVar("T")

# What a file of a run is at most: a checkpoint's tree is the longest of them.
MAX_JSON_BYTES = 256 << 20
MAX_TOML_BYTES = 4 << 20
# How deep objects and arrays may lie in each other.
MAX_DEPTH = 100


def _without_control_characters(text: str) -> str:
    """Refuse text that would move a terminal's cursor."""
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text):
        raise ValueError("text without control characters")
    return text


# A name that is shown: of a run, a class, a strategy.
Line = Annotated[str, AfterValidator(_without_control_characters)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def read_bytes(
    path: Path, *, error: type[AtollError] = RunDirectoryError, limit: int = MAX_JSON_BYTES
) -> bytes:
    """Return a file's contents.

    Parameters
    ----------
    path : Path
        The file; pipes and devices, which may never end, are refused.
    error : type[AtollError]
        What is raised.
    limit : int
        How many bytes it may have.

    Raises
    ------
    AtollError
        Of the kind ``error``: if it is not there, cannot be read or is too large.
    """
    try:
        # A pipe without a writer would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise error(f"{path}: cannot be read (it is no regular file)")
            if found.st_size > limit:
                raise error(
                    f"{path}: cannot be read (it has {found.st_size:,} bytes; expected at most "
                    f"{limit:,})"
                )
            return file.read(found.st_size)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise error(f"{path}: cannot be read ({reason})") from problem


def read_json(
    path: Path,
    schema: type[T],
    *,
    error: type[AtollError] = RunDirectoryError,
    limit: int = MAX_JSON_BYTES,
    finite: bool = True,
) -> T:
    """Return a JSON file's value, as its schema says.

    Parameters
    ----------
    path : Path
        The file.
    schema : type
        What it is to hold: a pydantic model, or a type such as ``dict[str, int]``.
    error : type[AtollError]
        What is raised.
    limit : int
        How many bytes it may have.
    finite : bool
        Whether infinite numbers and NaN are refused. Metrics of a run that diverged have them.

    Raises
    ------
    AtollError
        Of the kind ``error``, one line that names the file and the fault.
    """
    data = read_bytes(path, error=error, limit=limit)
    return parse_json(data, str(path), schema, error=error, finite=finite)


def parse_json(
    data: bytes | str,
    where: str,
    schema: type[T],
    *,
    error: type[AtollError] = RunDirectoryError,
    finite: bool = True,
) -> T:
    """Return the value of JSON that ``where`` holds; see :func:`read_json`."""
    try:
        value = json.loads(data, object_pairs_hook=_distinct)
        _check(value, finite=finite)
    except RecursionError:
        raise error(f"{where}: cannot be read (it is nested too deeply)") from None
    except ValueError as problem:
        raise error(f"{where}: cannot be read ({_in_a_line(problem)})") from problem
    return fitted(value, where, schema, error=error)


def fitted(
    value: Any, where: str, schema: type[T], *, error: type[AtollError] = RunDirectoryError
) -> T:
    """Return a value validated by its schema.

    Raises
    ------
    AtollError
        Of the kind ``error``, naming the first key that is not so.
    """
    try:
        kind: Any = schema
        found: T = _adapter(kind).validate_python(value)
        return found
    except ValidationError as problem:
        raise error(f"{where}: cannot be read ({first_finding(problem)})") from None


@lru_cache(maxsize=64)
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def read_toml(path: Path, *, error: type[AtollError] = RunDirectoryError) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises
    ------
    AtollError
        Of the kind ``error``, one line that names the file and the fault.
    """
    return parse_toml(read_bytes(path, error=error, limit=MAX_TOML_BYTES), path, error=error)


def parse_toml(
    data: bytes, path: Path, *, error: type[AtollError] = RunDirectoryError
) -> dict[str, Any]:
    """Return the tables of TOML that ``path`` holds; see :func:`read_toml`."""
    try:
        tables = tomllib.loads(data.decode("utf-8"))
        _check_depth(tables)
    except RecursionError:
        raise error(f"{path}: is not readable TOML (it is nested too deeply)") from None
    except ValueError as problem:
        raise error(f"{path}: is not readable TOML ({_in_a_line(problem)})") from problem
    return tables


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{short(twice)} is there twice")
    return found


def _check(value: Any, *, finite: bool) -> None:
    """Refuse what is nested too deeply, and numbers and text that are none."""
    waiting = [(value, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            if not value.isascii():
                # Half of a surrogate pair is no text.
                value.encode()
        elif isinstance(value, float):
            if finite and not math.isfinite(value):
                raise ValueError(f"{value} is no finite number")
        elif isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise RecursionError
            if isinstance(value, dict):
                waiting += [(name, depth) for name in value]
                value = list(value.values())
            waiting += [(item, depth + 1) for item in value]


def _check_depth(tables: dict[str, Any]) -> None:
    waiting: list[tuple[Any, int]] = [(tables, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise RecursionError
            items = value.values() if isinstance(value, Mapping) else value
            waiting += [(item, depth + 1) for item in items]


def _in_a_line(problem: Exception) -> str:
    return " ".join(str(problem).split())
