"""Attacks by name, with their settings: the one place where they are built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.attacks.base.attack import Attack
from atoll.attacks.base.attack_names import ATTACKS
from atoll.errors import AtollError, AttackError
from atoll.validation import validated


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


def build_attack(
    name: str,
    settings: Mapping[str, Any],
    key: str = "--attack",
    *,
    prefix: str = "",
    error: type[AtollError] = AttackError,
) -> Attack:
    """Return an attack with its settings.

    Parameters
    ----------
    name, key : str
        As for :func:`find_attack`.
    settings : Mapping
        Values of the attack's fields; the others have their defaults.
    prefix : str
        What stands before the names of settings in errors ("arena.attacks.idlg.").
    error : type[AtollError]
        What is raised if a setting is refused.

    Raises
    ------
    UnknownNameError, AttackError
        As for :func:`find_attack`.
    AtollError
        Of the kind ``error``, with a line per setting that the attack does not have or that is out
        of range.
    """
    return validated(find_attack(name, key), settings, prefix=prefix, error=error)


def can_adapt(kind: type[Attack]) -> bool:
    """Tell whether an attack can use knowledge of a defense."""
    return "defense" in kind.model_fields
