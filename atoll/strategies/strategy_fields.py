"""Checks of a strategy's arguments against the types and ranges of its fields."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

from atoll.clients.ranges import Count as Count
from atoll.clients.ranges import Fraction as Fraction
from atoll.clients.ranges import NonNegativeCount as NonNegativeCount
from atoll.clients.ranges import Positive as Positive
from atoll.clients.ranges import Weight as NonNegative
from atoll.clients.ranges import check_value

__all__ = ["Count", "Fraction", "NonNegative", "NonNegativeCount", "Positive"]


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
    check_value(f"strategy.{name}", value, kind)
