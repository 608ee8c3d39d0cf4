"""Options of a data set (``[data.options]``), checked before anything is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from atoll.clients.settings import Section
from atoll.errors import InvalidExperimentError
from atoll.registry import closest

Preset = Literal["tiny", "small", "paper"]


class NoOptions(Section):
    """The options of a data set that has none."""


def parse_options(
    kind: type[Section], given: Mapping[str, Any], dataset: str, seed: int
) -> Section:
    """Return the options of a data set.

    Parameters
    ----------
    kind : type[Section]
        The data set's options.
    given : Mapping
        ``[data.options]``.
    dataset : str
        The data set's name, for errors.
    seed : int
        The value of the option ``seed`` where the data set has one and it is not given.

    Raises
    ------
    InvalidExperimentError
        With a line per problem: the key, the value, and what was expected.
    """
    values = dict(given)
    if "seed" in kind.model_fields and kind.model_fields["seed"].is_required():
        values.setdefault("seed", seed)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_line(problem, kind, dataset) for problem in error.errors(include_url=False)]
        raise InvalidExperimentError("\n".join(lines)) from None


def _line(problem: Any, kind: type[Section], dataset: str) -> str:
    key, value = ".".join(map(str, problem["loc"])), problem["input"]
    subject = f"data.options.{key} = {value!r}"
    if problem["type"] == "extra_forbidden":
        known = list(kind.model_fields)
        hint = closest(key, known) if known else "it takes none"
        return f"{subject}: data.dataset = {dataset!r} has no such option; {hint}"
    message = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{subject}: expected {message[:1].lower()}{message[1:]}"
