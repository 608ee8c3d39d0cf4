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
        value = getattr(strategy, field.name)
        try:
            _adapter(type(strategy), field.name).validate_python(value)
        except ValidationError as error:
            found = [problem["msg"] for problem in error.errors(include_url=False)]
            expected = " or ".join(text.removeprefix("Input should be ") for text in found)
            expected = expected[:1].lower() + expected[1:]
            raise InvalidExperimentError(
                f"strategy.{field.name} = {value!r}: expected {expected}"
            ) from None


def _adapter(kind: type, name: str) -> TypeAdapter[Any]:
    hint = get_type_hints(kind, include_extras=True)[name]
    return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))
