"""Modules that are imported when they are first used: large ones, and optional ones."""

from __future__ import annotations

import importlib
from typing import Any


class LazyModule:
    """A module's stand-in, which imports it when an attribute is first asked for.

    Parameters
    ----------
    name : str
        The module's full name.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            # What copies, pickles or inspects the stand-in asks for these; none is the module's.
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)
