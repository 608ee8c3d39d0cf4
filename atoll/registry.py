"""Registries of objects by name, with the closest match when a name is wrong.

Data sets, models, partitioners, strategies and mods are each one :class:`Registry`. A user's own
object needs no registration: ``package.module:attribute`` is imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError, UnknownNameError
from atoll.user_code.main_module import MAIN
from atoll.user_code.trust import check_import, register

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping of names to objects of one kind.

    Parameters
    ----------
    kind : str
        What the objects are, for error messages ("model", "strategy", ...).
    entries : Mapping[str, T or str]
        The registered objects, or ``module:attribute`` for one that is imported when it is asked
        for: a name can be checked before what it stands for (and torch) is loaded.
    """

    def __init__(self, kind: str, entries: Mapping[str, T | str]) -> None:
        self.kind = kind
        self._entries = dict(entries)
        register(entry for entry in entries.values() if isinstance(entry, str) and ":" in entry)

    def __getitem__(self, name: str) -> T:
        entry: Any = self._entries[name]
        if isinstance(entry, str) and ":" in entry:
            return import_attribute(entry, self.kind)  # type: ignore[no-any-return]
        return entry  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, name: str, key: str) -> T | Any:
        """Return the object registered as ``name``, or imported if it is ``module:attribute``.

        Parameters
        ----------
        name : str
            A registered name (case does not matter) or ``module:attribute``.
        key : str
            The experiment key that held the name ("model.name"), for the error.

        Raises
        ------
        UnknownNameError
            If nothing has this name; the message gives the closest one.
        """
        if ":" in name:
            return import_attribute(name, key)
        return self[self.check(name, key)]

    def check(self, name: str, key: str) -> str:
        """Return the registered spelling of ``name``, without importing anything.

        ``module:attribute`` is returned as it is.

        Raises
        ------
        UnknownNameError
            If nothing has this name.
        """
        if ":" in name:
            return name
        by_folded_name = {known.casefold(): known for known in self._entries}
        known = by_folded_name.get(name.casefold())
        if known is None:
            raise UnknownNameError(
                f"{key} = {name!r}: no such {self.kind}; {closest(name, self._entries)}"
            )
        return known


def import_attribute(reference: str, key: str) -> Any:
    """Import ``module:attribute``; modules in the current directory are found too, last.

    Raises
    ------
    UntrustedCodeError
        If another person's file is worked on, and this is not to be imported for it.
    InvalidExperimentError
        If the module cannot be imported or has no such attribute.
    """
    check_import(reference, key)
    module_name, _, attribute = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == module_name
        where = f"; it is looked for in {here} and among what is installed" if is_missing else ""
        raise InvalidExperimentError(
            f"{key} = {reference!r}: module {module_name!r} cannot be imported "
            f"({type(error).__name__}: {error}){where}"
        ) from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            hint = "; expected the script or notebook that defines it" * (module_name == MAIN)
            raise InvalidExperimentError(
                f"{key} = {reference!r}: module {module_name!r} has no attribute "
                f"{attribute!r}{hint}"
            ) from error
    return found
