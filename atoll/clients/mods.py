"""Mods by name: Flower's, SecAgg+, and the user's own by ``module:callable``.

A mod that a class makes (Flower's ``LocalDpMod``, our defenses) takes the other keys of its entry
in ``client.mods`` as arguments. This package knows no defense: the platform gives those as
``module:Class`` (:mod:`atoll.platform.config.client_mods`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from flwr.clientapp import mod
from pydantic import ValidationError
from torch import nn

from atoll.clients.ranges import Delta, Epsilon, Norm, check_value, short
from atoll.clients.settings import ModSettings
from atoll.errors import InvalidExperimentError
from atoll.registry import Registry, closest

KEY = "client.mods"
CLIENT_MODS: dict[str, Any] = {
    **{
        name: getattr(mod, name)
        for name in (
            "fixedclipping_mod",
            "adaptiveclipping_mod",
            "message_size_mod",
            "arrays_size_mod",
            "LocalDpMod",
        )
    },
    "secure-aggregation": "atoll.clients.secure_aggregation:SecureAggregationMod",
}
MODS: Registry[Any] = Registry("mod", CLIENT_MODS)
# Flower's mods take any number. With an epsilon or a sensitivity of 0 there is no noise.
FLOWER_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "LocalDpMod": {
        "clipping_norm": Norm,
        "sensitivity": Norm,
        "epsilon": Epsilon,
        "delta": Delta,
    }
}


@runtime_checkable
class ModelChecker(Protocol):
    """A mod that cannot act on every model."""

    def check_model(self, model: nn.Module) -> None:
        """Raise a ``ValueError`` if the model lacks something that the mod needs."""


def find_mods(entries: Sequence[str | ModSettings], known: Registry[Any] = MODS) -> list[Any]:
    """Return the mods of ``client.mods``, the outermost first.

    Parameters
    ----------
    entries : Sequence[str or ModSettings]
        The entries.
    known : Registry
        The names that they may have.

    Raises
    ------
    InvalidExperimentError
        If a name is neither known nor importable, it is no callable, or arguments are wrong.
    """
    return [_make(as_settings(entry), known) for entry in entries]


def as_settings(entry: str | ModSettings) -> ModSettings:
    """Return an entry of ``client.mods`` as a table."""
    return ModSettings(name=entry) if isinstance(entry, str) else entry


def check_mods(entries: Sequence[str | ModSettings], model: nn.Module) -> None:
    """Refuse mods that cannot act on ``model``.

    Raises
    ------
    InvalidExperimentError
        With the mod's name and what the model lacks.
    """
    for entry, found in zip(entries, find_mods(entries), strict=True):
        if isinstance(found, ModelChecker):
            try:
                found.check_model(model)
            except ValueError as error:
                name = getattr(found, "name", as_settings(entry).name)
                raise InvalidExperimentError(f"{KEY} has {name!r}: {error}") from error


def _make(entry: ModSettings, known: Registry[Any]) -> Any:
    found = known.find(entry.name, KEY)
    subject = f"{KEY} has {entry.name!r}"
    if not callable(found):
        raise InvalidExperimentError(f"{subject}: a {type(found).__name__}, expected a callable")
    if not inspect.isclass(found):
        for name, value in entry.arguments.items():
            raise InvalidExperimentError(
                f"{subject} with {name} = {value!r}: it is a function; expected no arguments"
            )
        return found
    accepted = list(inspect.signature(found).parameters)
    for name, value in entry.arguments.items():
        if name not in accepted:
            hint = closest(name, accepted) if accepted else "it takes no arguments"
            raise InvalidExperimentError(
                f"{subject} with {name} = {value!r}: no such argument; {hint}"
            )
        kind = FLOWER_ARGUMENTS.get(getattr(found, "__name__", ""), {}).get(name)
        if kind is not None:
            check_value(f"{subject} with {name}", value, kind)
    try:
        return found(**entry.arguments)
    except ValidationError as error:
        raise InvalidExperimentError(_refused(subject, error)) from None
    except Exception as error:
        raise InvalidExperimentError(f"{subject}: {error}") from error


def _refused(subject: str, error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "missing":
            lines.append(f"{subject}: {key} is not set")
            continue
        message = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        lines.append(
            f"{subject} with {key} = {short(problem['input'])}: expected "
            f"{message[:1].lower() + message[1:]}"
        )
    return "\n".join(lines)
