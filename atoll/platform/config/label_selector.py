"""Label selectors: conditions on the labels of Ray's nodes, in Ray's syntax.

A node is admitted if each of its labels that the selector names fulfils its condition: ``value``,
``!value``, ``in(a, b)`` or ``!in(a, b)``. A node without the label fulfils the negated ones only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

_NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_KEY = re.compile(rf"(?:[a-zA-Z0-9][a-zA-Z0-9_.-]{{0,252}}/)?{_NAME}")
_CONDITION = re.compile(rf"(?P<not>!?)(?:(?P<one>{_NAME})|in\((?P<some>{_NAME}(?:, ?{_NAME})*)\))")


def _checked(selector: dict[str, str]) -> dict[str, str]:
    for key, condition in selector.items():
        if not _KEY.fullmatch(key):
            raise ValueError(f"a label such as 'zone' or 'ray.io/market-type', got {key!r}")
        if not _CONDITION.fullmatch(condition):
            raise ValueError(
                f"'value', '!value', 'in(a, b)' or '!in(a, b)' for {key}, got {condition!r}"
            )
    return selector


LabelSelector = Annotated[dict[str, str], AfterValidator(_checked)]


def admits(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Tell whether a node with these labels fulfils a valid selector's conditions."""
    return all(_fulfils(condition, labels.get(key)) for key, condition in selector.items())


def _fulfils(condition: str, value: str | None) -> bool:
    found = _CONDITION.fullmatch(condition)
    assert found is not None
    values = (found["one"] or found["some"]).replace(" ", "").split(",")
    return (value in values) != bool(found["not"])
