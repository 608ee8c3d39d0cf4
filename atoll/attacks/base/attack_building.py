"""Attacks by name, with their settings: the one place where they are built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.attacks.base.attack import Attack
from atoll.attacks.base.attack_names import ATTACKS
from atoll.errors import AttackError


def find_attack(name: str, key: str) -> type[Attack]:
    """Return the class of a registered attack, or the user's own by ``module:Class``.

    Parameters
    ----------
    name : str
        A name in :data:`~atoll.attacks.ATTACKS`, or ``module:Class``.
    key : str
        Where the name stands ("--attack", or an experiment key), for errors.

    Raises
    ------
    UnknownNameError
        If there is no such attack.
    AttackError
        If it is something else than an attack.
    """
    kind = ATTACKS.find(name, key)
    if not (isinstance(kind, type) and issubclass(kind, Attack)):
        raise AttackError(f"{key} {name}: is not an attack; expected a subclass of Attack")
    return kind


def build_attack(name: str, settings: Mapping[str, Any], key: str) -> Attack:
    """Return an attack with its settings.

    Parameters
    ----------
    name, key : str
        As for :func:`find_attack`.
    settings : Mapping
        Values of the attack's fields; the others have their defaults.

    Raises
    ------
    UnknownNameError, AttackError
        As for :func:`find_attack`.
    pydantic.ValidationError
        If the attack has no such setting, or a value is out of range.
    """
    return find_attack(name, key).model_validate(dict(settings))


def can_adapt(kind: type[Attack]) -> bool:
    """Tell whether an attack can use knowledge of a defense."""
    return "defense" in kind.model_fields
