"""The settings class of every section of experiment files, and its keys."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from pydantic import BaseModel

from atoll.platform.reference.docstrings import plain, summary_of
from atoll.platform.reference.experiment_keys import Section
from atoll.platform.reference.keys import keys_of_settings, models_in

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


def settings_classes() -> dict[str, type[BaseModel]]:
    """Return the settings class of every section, tables within sections among them."""
    return {
        section: kind
        for name, place in SECTIONS.items()
        for section, kind in _nested(name, _class_at(place))
    }


def described_sections() -> dict[str, Section]:
    """Return every section, as its settings class and that class's documentation describe it."""
    return {
        name: Section(
            summary_of(kind).partition(": ")[2], _description(kind), tuple(keys_of_settings(kind))
        )
        for name, kind in settings_classes().items()
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


def _description(kind: type[BaseModel]) -> str:
    text = (kind.__doc__ or "").partition("Attributes\n")[0]
    text = plain(" ".join(text.split())).partition(": ")[2]
    return text[:1].upper() + text[1:]
