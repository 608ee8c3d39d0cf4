"""Personal methods by name: ours, and the user's own by ``module:Class``."""

from __future__ import annotations

import inspect
from typing import Any

from atoll.clients.personal.method import PersonalMethod
from atoll.clients.settings import ClientSettings, PersonalSettings
from atoll.errors import InvalidExperimentError
from atoll.registry import Registry
from atoll.validation import validated

KEY = "client.personal"
_PLACE = "atoll.clients.personal"
PERSONAL_METHODS: Registry[type[PersonalMethod]] = Registry(
    "personal method",
    {
        "fine-tuning": f"{_PLACE}.fine_tuning:FineTuning",
        "fedrep": f"{_PLACE}.fed_rep:FedRep",
        "ditto": f"{_PLACE}.ditto:Ditto",
        "pfedme": f"{_PLACE}.p_fed_me:PFedMe",
        "apfl": f"{_PLACE}.apfl:APFL",
    },
)


def find_method(settings: PersonalSettings | None) -> PersonalMethod | None:
    """Return the method of ``[client.personal]``; None without one.

    Raises
    ------
    InvalidExperimentError
        If the name is neither known nor importable, or arguments are wrong.
    """
    if settings is None:
        return None
    found: Any = PERSONAL_METHODS.find(settings.name, f"{KEY}.name")
    if inspect.isclass(found) and issubclass(found, PersonalMethod):
        return validated(found, settings.arguments, prefix=f"{KEY}.")
    raise InvalidExperimentError(
        f"{KEY}.name = {settings.name!r}: is not a class derived from PersonalMethod"
    )


def check_method(client: ClientSettings) -> PersonalMethod | None:
    """Return the method of ``[client]``, checked against the section's other keys.

    Raises
    ------
    InvalidExperimentError
        With the key, the value and what was expected.
    """
    method, settings = find_method(client.personal), client.personal
    if method is None or settings is None:
        return None
    name = f"{KEY}.name = {settings.name!r}"
    if method.takes_local is True and not client.local:
        raise InvalidExperimentError(
            f"{name}: trains local parameters apart; expected client.local, such as 'head'"
        )
    if method.takes_local is False and client.local:
        raise InvalidExperimentError(
            f"{name}: keeps a whole model with each client, and client.local = "
            f"{list(client.local)!r} keeps a part of one; expected one of both"
        )
    if method.own_steps and client.mods:
        raise InvalidExperimentError(
            f"client.mods: {name} takes steps of its own, on which mods do not act; expected one "
            "of both"
        )
    if method.own_steps and client.objective:
        raise InvalidExperimentError(
            f"client.objective: {name} takes steps of its own, which have no other terms; expected "
            "one of both"
        )
    try:
        method.check(client)
    except ValueError as error:
        raise InvalidExperimentError(f"{name}: {error}") from None
    return method
