"""Options of a data set (``[data.options]``), checked before anything is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from atoll.clients.settings import Section
from atoll.error_messages import validated

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
    unknown = f"data.dataset = {dataset!r} has no such option"
    return validated(kind, values, prefix="data.options.", unknown=unknown)
