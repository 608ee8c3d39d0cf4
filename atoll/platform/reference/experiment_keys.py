"""Every key of experiment, sweep and arena files by its full name, ``client.gradient_clip``."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cache

from pydantic import BaseModel

from atoll.error_messages import closest
from atoll.errors import UnknownNameError
from atoll.platform.reference.docstrings import plain, summary_of
from atoll.platform.reference.keys import Key, keys_of_settings, models_in

# Sections of a file, in the order in which they are shown, to their settings.
SECTIONS = {
    "run": "atoll.platform.config.sections:RunSettings",
    "data": "atoll.clients.settings:DataSettings",
    "model": "atoll.clients.settings:ModelSettings",
    "client": "atoll.clients.settings:ClientSettings",
    "strategy": "atoll.platform.config.sections:StrategySettings",
    "layers": "atoll.platform.config.sections:LayersSettings",
    "ray": "atoll.platform.config.sections:RaySettings",
    "log": "atoll.platform.config.sections:LogSettings",
    "capture": "atoll.platform.config.sections:CaptureSettings",
    "poison": "atoll.platform.config.sections:PoisonSettings",
    "privacy": "atoll.platform.config.privacy.settings:PrivacySettings",
    "audit": "atoll.platform.config.privacy.audit_settings:AuditSettings",
    "unlearn": "atoll.platform.config.unlearning.settings:UnlearnSettings",
    "sweep": "atoll.platform.config.sweep_sections:SweepSettings",
    "arena": "atoll.platform.config.sweep_sections:ArenaSettings",
}
# Tables whose other keys are the arguments of what they name, to the kind of that name.
OPEN = {
    "data.options": "datasets",
    "data.partition": "partitioners",
    "model": "models",
    "client.mods": "mods",
    "client.personal": "personal",
    "strategy": "strategies",
    "poison": "poisons",
    "arena.attacks": "attacks",
}


@cache
def sections() -> dict[str, type[BaseModel]]:
    """Return the settings class of every section, tables within sections among them."""
    return {
        section: kind
        for name, place in SECTIONS.items()
        for section, kind in _nested(name, _class_at(place))
    }


def _class_at(place: str) -> type[BaseModel]:
    module, _, attribute = place.partition(":")
    found: type[BaseModel] = getattr(importlib.import_module(module), attribute)
    return found


def _nested(name: str, kind: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield name, kind
    for key, field in kind.model_fields.items():
        for inner in models_in(field.annotation):
            yield from _nested(f"{name}.{key}", inner)


@cache
def keys_in(section: str) -> tuple[Key, ...]:
    """Return the keys of a section."""
    return tuple(keys_of_settings(sections()[section]))


def own_keys(section: str) -> list[str]:
    """Return the names of a section's keys; none of a table that has only others' keys."""
    return [key.name for key in keys_in(section)] if section in sections() else []


@cache
def all_keys() -> dict[str, Key]:
    """Return every key by its full name."""
    return {f"{section}.{key.name}": key for section in sections() for key in keys_in(section)}


def about_section(section: str) -> str:
    """Return the line that says what a section is for."""
    return summary_of(sections()[section]).partition(": ")[2]


def find(name: str) -> str:
    """Return the full name of a section or a key; the last part of a key is enough if it is one's.

    Raises
    ------
    UnknownNameError
        If nothing has this name; the message gives the nearest, or all that end so.
    """
    known = [*sections(), *all_keys()]
    by_folded_name = {candidate.casefold(): candidate for candidate in known}
    folded = name.strip("[]").casefold()
    if folded in by_folded_name:
        return by_folded_name[folded]
    ending = [candidate for candidate in known if candidate.casefold().endswith(f".{folded}")]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise UnknownNameError(f"{name!r} is the name of several keys: {', '.join(ending)}")
    hint = closest(name, known)
    if "did you mean" not in hint:
        last = {candidate.rpartition(".")[2]: candidate for candidate in known}
        hint = closest(name.rpartition(".")[2], last)
        if "did you mean" in hint:
            hint = f"did you mean {last[hint.split(chr(39))[1]]!r}?"
        else:
            hint = "'atoll explain' lists the sections"
    raise UnknownNameError(f"{name!r}: no such key; {hint}")


def description_of_section(section: str) -> str:
    """Return all that a section's docstring says before its keys."""
    text = (sections()[section].__doc__ or "").partition("Attributes\n")[0]
    text = plain(" ".join(text.split())).partition(": ")[2]
    return text[:1].upper() + text[1:]
