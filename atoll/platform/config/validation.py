"""Pydantic's findings as lines that a person can act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from atoll.clients.ranges import short
from atoll.errors import InvalidExperimentError
from atoll.registry import closest

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], tables: Mapping[str, Any]) -> Model:
    """Return the settings that ``tables`` hold.

    Raises
    ------
    InvalidExperimentError
        With a line per problem: the key, the value, and what was expected.
    """
    try:
        return model.model_validate(dict(tables))
    except ValidationError as error:
        raise InvalidExperimentError(describe_problems(error, model)) from None


def describe_problems(error: ValidationError, root: type[BaseModel]) -> str:
    """Return a line per problem: ``section.key = value: what was expected``."""
    lines: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False):
        subject, complaint = _describe(problem, root)
        lines.setdefault(subject, []).append(complaint)
    return "\n".join(_joined(subject, complaints) for subject, complaints in lines.items())


def _joined(subject: str, complaints: list[str]) -> str:
    """Join what the branches of a union each expected."""
    first, *rest = complaints
    return " or ".join([f"{subject}{first}", *(c.removeprefix(": expected ") for c in rest)])


def _describe(problem: Any, root: type[BaseModel]) -> tuple[str, str]:
    path = _key_path(problem["loc"], root)
    key, value = ".".join(path) or "the experiment", problem["input"]
    kind, context = problem["type"], problem.get("ctx", {})
    subject = f"{key} = {short(value)}"
    if kind == "extra_forbidden":
        known = list(_model_at(path[:-1], root).model_fields)
        has_sections = any(_section_of(f.annotation) for f in root.model_fields.values())
        what = "section" if len(path) == 1 and has_sections else "key"
        return subject, f": no such {what}; {closest(path[-1], known)}"
    if kind == "missing":
        return key, " is not set"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return subject, ": expected a section"
    if kind in ("tuple_type", "list_type"):
        return subject, ": expected a list"
    if kind == "literal_error":
        return subject, f": expected {_with_hint(value, context['expected'])}"
    expected = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    expected = expected[:1].lower() + expected[1:]
    if kind == "string_pattern_mismatch":
        expected = "letters, digits, '.', '_' and '-' only"
    return subject, f": expected {expected}"


def _with_hint(value: object, expected: str) -> str:
    names = [name.strip().strip("'") for name in expected.replace(" or ", ", ").split(",")]
    if isinstance(value, str) and "did you mean" in (hint := closest(value, names)):
        return f"{expected}; {hint}"
    return expected


def _key_path(location: tuple[int | str, ...], root: type[BaseModel]) -> list[str]:
    """Return the keys of a location, without the names of a union's branches."""
    path: list[str] = []
    model: type[BaseModel] | None = root
    for part in location:
        if model is not None and isinstance(part, str):
            path.append(part)
            field = model.model_fields.get(part)
            model = None if field is None else _section_of(field.annotation)
        elif model is not None or isinstance(part, int):
            continue
    return path


def _section_of(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _model_at(path: list[str], root: type[BaseModel]) -> type[BaseModel]:
    model = root
    for part in path:
        field = model.model_fields.get(part)
        inner = None if field is None else _section_of(field.annotation)
        if inner is None:
            break
        model = inner
    return model
