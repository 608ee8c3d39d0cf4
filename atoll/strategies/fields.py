"""Checking a strategy's arguments against the types and ranges of its fields."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from atoll.errors import InvalidExperimentError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
NonNegativeCount = Annotated[int, Field(ge=0)]


def check_fields(strategy: Any) -> None:
    """Check every field of a dataclass by its annotation.

    Raises
    ------
    InvalidExperimentError
        With a line for the first field whose value is wrong: ``strategy.<field> = <value>:
        expected ...``.
    """
    for field in dataclasses.fields(strategy):
        hint = get_type_hints(type(strategy), include_extras=True)[field.name]
        check_argument(field.name, getattr(strategy, field.name), hint)


def check_argument(name: str, value: object, kind: Any) -> None:
    """Check one argument of a strategy.

    Parameters
    ----------
    name : str
        The argument's.
    value : object
        What it was given.
    kind : type
        What it is to be, with its range: :data:`Count`, say.

    Raises
    ------
    InvalidExperimentError
        If the value is not of that kind: ``strategy.<name> = <value>: expected ...``.
    """
    config = ConfigDict(strict=True, allow_inf_nan=False)
    try:
        TypeAdapter(kind, config=config).validate_python(value)
    except ValidationError as error:
        found = [problem["msg"] for problem in error.errors(include_url=False)]
        expected = " or ".join(text.removeprefix("Input should be ") for text in found)
        expected = expected[:1].lower() + expected[1:]
        raise InvalidExperimentError(f"strategy.{name} = {value!r}: expected {expected}") from None
