"""Validation by pydantic, whose findings become lines of an error.

Whatever pydantic validates (experiment files, arguments of mods, models and attacks, JSON files of
run directories) is refused in these words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from atoll.error_messages import closest, short
from atoll.errors import AtollError, InvalidExperimentError

Model = TypeVar("Model", bound=BaseModel)

# The start of pydantic's messages, which "expected" replaces.
OPENINGS = ("Input should be ", "Value error, ")


def validated(
    model: type[Model],
    values: Mapping[str, Any],
    *,
    prefix: str = "",
    unknown: str = "",
    error: type[AtollError] = InvalidExperimentError,
) -> Model:
    """Return the settings that ``values`` hold.

    Parameters
    ----------
    model : type[BaseModel]
        The settings' class.
    values : Mapping
        By the names of its fields.
    prefix : str
        What stands before a key in a message: ``model.``, say.
    unknown : str
        What is said of a key that there is not; by default "no such key".
    error : type[AtollError]
        What is raised.

    Raises
    ------
    AtollError
        Of the kind ``error``, with a line per problem: the key, the value, and what was expected.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as problem:
        raise error("\n".join(findings(problem, model, prefix=prefix, unknown=unknown))) from None


def findings(
    error: ValidationError, model: type[BaseModel], *, prefix: str = "", unknown: str = ""
) -> list[str]:
    """Return a line per problem: ``section.key = value: expected ...``; see :func:`validated`."""
    complaints: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False):
        path = _key_path(problem["loc"], model)
        # What is wrong with all keys together has no key of its own.
        key = f"{prefix}{'.'.join(path)}" if path else prefix.rstrip(". ") or "the experiment"
        is_missing = problem["type"] == "missing"
        subject = key if is_missing else f"{key} = {short(problem['input'])}"
        complaint = _complaint(problem, path, model, unknown)
        complaints.setdefault(subject, []).append(complaint)
    return [f"{subject}{_joined(found)}" for subject, found in complaints.items()]


def expectation(error: ValidationError) -> str:
    """Return what a single value was expected to be."""
    return _joined([_expected(problem) for problem in error.errors(include_url=False)])


def first_finding(error: ValidationError) -> str:
    """Return the first problem of a file's content: ``key = value; expected ...``."""
    problem = error.errors(include_url=False)[0]
    key = short(".".join(map(str, problem["loc"])) or "the whole", quoted=False)
    if problem["type"] == "missing":
        return f"it has no {key!r}"
    return f"{key} = {short(problem['input'])}; {_expected(problem)}"


def _joined(complaints: list[str]) -> str:
    """Join what the branches of a union each expected."""
    first, *rest = dict.fromkeys(complaints)
    return " or ".join(
        [first, *(text.removeprefix(": ").removeprefix("expected ") for text in rest)]
    )


def _complaint(problem: Any, path: list[str], root: type[BaseModel], unknown: str) -> str:
    kind = problem["type"]
    if kind == "extra_forbidden":
        known = list(_model_at(path[:-1], root).model_fields)
        has_sections = any(_section_of(f.annotation) for f in root.model_fields.values())
        what = unknown or f"no such {'section' if len(path) == 1 and has_sections else 'key'}"
        return f": {what}; {closest(path[-1], known, none='it takes none')}"
    if kind == "missing":
        return " is not set"
    if kind == "string_pattern_mismatch":
        return ": expected letters, digits, '.', '_' and '-' only"
    return f": {_expected(problem)}"


def _expected(problem: Any) -> str:
    kind = problem["type"]
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "expected a section"
    if kind in ("tuple_type", "list_type"):
        return "expected a list"
    if kind == "literal_error":
        return f"expected {_with_hint(problem['input'], problem['ctx']['expected'])}"
    text = " ".join(problem["msg"].split())
    for opening in OPENINGS:
        text = text.removeprefix(opening)
    return f"expected {text[:1].lower()}{text[1:]}"


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
