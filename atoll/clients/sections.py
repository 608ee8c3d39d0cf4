"""Base of the sections of experiment files, and the types of keys that are not numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _at_home(path: Path) -> Path:
    """Return the path with ``~`` replaced, where there is such a home."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _listed(value: object) -> object:
    """Return one name as a list of it."""
    return [value] if isinstance(value, str) else value


# One name, or a list of them.
Names = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(strict=False, min_length=1)]


# TOML has neither paths nor tuples: these are made from strings and arrays.
FilePath = Annotated[Path, Field(strict=False), AfterValidator(_at_home)]


# ``module:callable``.
UserFunction = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]


class Section(BaseModel):
    """A section of an experiment file: frozen, and strict about keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
