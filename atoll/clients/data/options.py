"""Options of a data set (``[data.options]``), checked before anything is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from atoll.clients.settings import Section
from atoll.errors import InvalidExperimentError
from atoll.validation import validated

Preset = Literal["tiny", "small", "paper"]
# Options that are keys of ``[data]`` itself.
COLUMN_KEYS = ("target", "group")


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
    for key in COLUMN_KEYS:
        if key in given and key not in kind.model_fields:
            raise InvalidExperimentError(
                f"data.{key} = {given[key]!r}: data.dataset = {dataset!r} has columns of its own; "
                "expected it to be left out"
            )
    target = kind.model_fields.get("target")
    if target is not None and target.is_required() and "target" not in given:
        raise InvalidExperimentError(
            f"data.target is not set; expected the column that data.dataset = {dataset!r} is to "
            "predict"
        )
    if "seed" in kind.model_fields and kind.model_fields["seed"].is_required():
        values.setdefault("seed", seed)
    unknown = f"data.dataset = {dataset!r} has no such option"
    return validated(kind, values, prefix="data.options.", unknown=unknown)
