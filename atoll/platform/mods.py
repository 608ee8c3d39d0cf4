"""All mods that an experiment can name: Flower's, and the defenses of :mod:`atoll.attacks`.

Clients know no defense: what they are given says ``module:Class`` where the experiment has a name.
"""

from __future__ import annotations

from typing import Any

from atoll.attacks.defenses import REFERENCES
from atoll.clients.mods import CLIENT_MODS, KEY, as_settings
from atoll.clients.settings import ClientSettings
from atoll.registry import Registry

MODS: Registry[Any] = Registry("mod", {**CLIENT_MODS, **REFERENCES})


def with_references(client: ClientSettings) -> ClientSettings:
    """Return ``[client]`` with each defense's name replaced by the place of its class."""
    entries = []
    for entry in client.mods:
        settings = as_settings(entry)
        name = MODS.check(settings.name, KEY)
        entries.append(settings.model_copy(update={"name": REFERENCES.get(name, name)}))
    return client.model_copy(update={"mods": tuple(entries)})
