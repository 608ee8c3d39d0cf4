"""Lazy imports: public names of a package, and large modules, are imported at their first use.

``import atoll`` must stay quick: the modules behind its names load PyTorch, Flower and Ray.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attach(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__`` for names that live in its modules.

    Parameters
    ----------
    package : str
        The package's ``__name__``.
    modules : Mapping[str, Sequence[str]]
        By module, the public names that it defines.

    Returns
    -------
    tuple
        ``__getattr__``, which imports the module of a name, and ``__dir__``, which lists the names
        without importing anything.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names


class LazyObject:
    """An object's stand-in, which makes it when an attribute is first asked for.

    Parameters
    ----------
    make : callable
        Makes the object.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._made = functools.cache(make)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            # What copies, pickles or inspects the stand-in asks for these; none is the object's.
            raise AttributeError(attribute)
        return getattr(self._made(), attribute)


class LazyModule(LazyObject):
    """A module's stand-in, which imports it when an attribute is first asked for.

    Parameters
    ----------
    name : str
        The module's full name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(functools.partial(importlib.import_module, name))
