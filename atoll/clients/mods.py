"""Mods by name: Flower's, and the user's own by ``module:callable``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flwr.clientapp import mod

from atoll.errors import InvalidExperimentError
from atoll.registry import Registry

MODS: Registry[Any] = Registry(
    "mod",
    {
        name: getattr(mod, name)
        for name in (
            "fixedclipping_mod",
            "adaptiveclipping_mod",
            "message_size_mod",
            "arrays_size_mod",
        )
    },
)


def find_mods(names: Sequence[str]) -> list[Any]:
    """Return the mods of ``client.mods``, the outermost first.

    Raises
    ------
    InvalidExperimentError
        If a name is neither a mod of Flower's nor importable, or no callable.
    """
    mods = [MODS.find(name, "client.mods") for name in names]
    for name, found in zip(names, mods, strict=True):
        if not callable(found):
            raise InvalidExperimentError(
                f"client.mods has {name!r}: a {type(found).__name__}, expected a callable"
            )
    return mods
