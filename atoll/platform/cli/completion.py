"""Completion of names and keys in a shell (``atoll --install-completion``)."""

from __future__ import annotations

import click

Choices = list[tuple[str, str]]


def complete_kind(incomplete: str) -> Choices:
    """Complete a kind of names."""
    from atoll.platform.reference.kinds import kinds

    return _beginning(kinds(), incomplete)


def complete_name(ctx: click.Context, incomplete: str) -> Choices:
    """Complete a name of the kind that the command line has already."""
    return _names(str(ctx.params.get("kind")), incomplete)


def complete_starter(incomplete: str) -> Choices:
    """Complete a kind of ``atoll init``."""
    from atoll.platform.starters.starter import STARTERS

    return _beginning([(name, starter.about) for name, starter in STARTERS.items()], incomplete)


def complete_attack(incomplete: str) -> Choices:
    """Complete an attack's name."""
    return _names("attacks", incomplete)


def complete_dataset(incomplete: str) -> Choices:
    """Complete a data set's name."""
    return _names("datasets", incomplete)


def complete_key(incomplete: str) -> Choices:
    """Complete an experiment key or a section."""
    from atoll.platform.reference.experiment_keys import all_keys, sections

    named = [(name, section.about) for name, section in sections().items()]
    named += [(name, key.about) for name, key in all_keys().items()]
    return _beginning(named, incomplete)


def complete_setting(incomplete: str) -> Choices:
    """Complete ``--set``: a key, and after ``KEY.name=`` the names that it can have."""
    from atoll.platform.reference.experiment_keys import OPEN, all_keys

    key, separator, value = incomplete.partition("=")
    if not separator:
        return _beginning([(f"{name}=", k.about) for name, k in all_keys().items()], incomplete)
    section = "data.options" if key == "data.dataset" else key.removesuffix(".name")
    if key != "data.dataset" and not key.endswith(".name"):
        return []
    names = _names(OPEN.get(section, ""), value)
    return [(f"{key}={name}", about) for name, about in names]


def _names(kind: str, incomplete: str) -> Choices:
    from atoll.errors import UnknownNameError
    from atoll.platform.reference.names import names_of

    try:
        return _beginning(names_of(kind), incomplete)
    except UnknownNameError:
        return []


def _beginning(choices: Choices, incomplete: str) -> Choices:
    folded = incomplete.casefold()
    return [choice for choice in choices if choice[0].casefold().startswith(folded)]
