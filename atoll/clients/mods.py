"""Mods by name: Flower's, SecAgg+, and the user's own by ``module:callable``.

A mod that a class makes (Flower's ``LocalDpMod``, our defenses) takes the other keys of its entry
in ``client.mods`` as arguments. This package knows no defense: the platform gives those as
``module:Class`` (:mod:`atoll.platform.config.client_mods`).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from flwr.app import Context, Message
from flwr.clientapp import mod
from pydantic import BaseModel, ValidationError
from torch import nn

from atoll import flower
from atoll.clients.ranges import Delta, Epsilon, Norm, check_value
from atoll.clients.settings import ModSettings
from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError
from atoll.registry import Registry
from atoll.validation import findings

KEY = "client.mods"
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
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
    "mask-bits": "atoll.clients.mask_bits:MaskBits",
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


class QueryMod(ABC):
    """A mod that also acts on queries for moments; others see training messages alone."""

    @abstractmethod
    def __call__(
        self, message: Message, context: Context, call_next: flower.ClientAppCallable
    ) -> Message:
        """Answer a message."""


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
    parameters = inspect.signature(found).parameters
    accepted = list(parameters)
    for name, value in entry.arguments.items():
        if name not in accepted:
            hint = closest(name, accepted, none="it takes no arguments")
            raise InvalidExperimentError(
                f"{subject} with {name} = {value!r}: no such argument; {hint}"
            )
        kind = FLOWER_ARGUMENTS.get(getattr(found, "__name__", ""), {}).get(name)
        if kind is not None:
            check_value(f"{subject} with {name}", value, kind)
    for name, parameter in parameters.items():
        is_required = parameter.default is parameter.empty and parameter.kind not in VARIADIC
        if is_required and name not in entry.arguments:
            raise InvalidExperimentError(f"{subject}: {name} is not set")
    try:
        return found(**entry.arguments)
    except ValidationError as error:
        model = found if issubclass(found, BaseModel) else BaseModel
        lines = findings(error, model, prefix=f"{subject} with ")
        raise InvalidExperimentError("\n".join(lines)) from None
    except Exception as error:
        raise InvalidExperimentError(f"{subject}: {error}") from error
