"""Partition of examples by a user's own function (``data.partition.name = "my_data:split"``)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atoll.clients.settings import DataSettings
from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError
from atoll.user_code.error_places import user_code

EXPECTED = (
    "expected a list with one array of places in labels for each client, or one array with the "
    "client of each example (-1: no client)"
)


def deal_by_function(
    split: Callable[..., Any], columns: Mapping[str, Any], settings: DataSettings, seed: int
) -> list[NDArray[np.int64]]:
    """Return each client's examples, as places in the columns.

    Parameters
    ----------
    split : callable
        Is given those of ``labels``, ``domains``, ``groups`` (an array, or None), ``clients`` and
        ``seed`` that it has as arguments, and the other keys of ``[data.partition]``.
    columns : Mapping
        The examples' columns: "label", and "domain" and "group" where the data set has them.
    settings : DataSettings
        ``[data]``.
    seed : int
        For the function's random numbers.

    Raises
    ------
    InvalidExperimentError
        If it takes other arguments, or returns no partition.
    EngineError
        If it raises: with the place in the user's file.
    """
    name = settings.partition.name
    given = {
        "labels": columns["label"],
        "domains": columns.get("domain"),
        "groups": columns.get("group"),
        "clients": settings.clients,
        "seed": seed,
    }
    arguments = _arguments(split, name, given, settings.partition.arguments)
    subject = f"data.partition.name = {name!r}"
    with user_code(subject):
        returned = split(**arguments)
        if inspect.isgenerator(returned):
            returned = list(returned)
    try:
        return _parts(returned, settings.clients, len(columns["label"]))
    except InvalidExperimentError as error:
        raise InvalidExperimentError(f"{subject}: returned {error}") from error


def _arguments(
    split: Callable[..., Any], name: str, given: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    parameters = inspect.signature(split).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    settable = [key for key in parameters if key not in given]
    for key, value in own.items():
        if key in given or (key not in settable and not takes_all):
            hint = closest(key, settable, none="it takes no arguments")
            raise InvalidExperimentError(
                f"data.partition.{key} = {value!r}: {name} has no such argument; {hint}"
            )
    for key, parameter in parameters.items():
        is_one = parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        is_needed = is_one and parameter.default is parameter.empty
        if is_needed and key not in given and key not in own:
            raise InvalidExperimentError(f"data.partition.{key} is not set; {name} needs it")
    return {**{key: value for key, value in given.items() if key in parameters}, **own}


def _parts(returned: Any, clients: int, examples: int) -> list[NDArray[np.int64]]:
    if isinstance(returned, np.ndarray) and returned.ndim == 1 and returned.dtype != object:
        if len(returned) != examples:
            raise InvalidExperimentError(
                f"clients of {len(returned)} examples, and there are {examples}; {EXPECTED}"
            )
        owners = _whole(returned, -1, clients - 1, "clients")
        order = np.argsort(owners, kind="stable")
        cuts = np.searchsorted(owners[order], np.arange(clients + 1))
        return [order[start:end] for start, end in pairwise(cuts)]
    if not isinstance(returned, list | tuple):
        raise InvalidExperimentError(f"a {type(returned).__name__}; {EXPECTED}")
    if len(returned) != clients:
        raise InvalidExperimentError(
            f"the examples of {len(returned)} clients; expected data.clients = {clients}"
        )
    return [_whole(np.asarray(part), 0, examples - 1, "examples") for part in returned]


def _whole(values: NDArray[Any], low: int, high: int, what: str) -> NDArray[np.int64]:
    if values.size == 0:
        return np.zeros(0, np.int64)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise InvalidExperimentError(
            f"{what} of dtype {values.dtype} and shape {values.shape}; {EXPECTED}"
        )
    if values.min() < low or values.max() > high:
        raise InvalidExperimentError(
            f"{what} from {values.min()} to {values.max()}; expected {low} to {high}"
        )
    return values.astype(np.int64)
