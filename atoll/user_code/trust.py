"""Trust in code that files name: a user's own is imported, other people's only on request.

An experiment can name any callable as ``module:attribute``. In the file that a user gives on the
command line that is the user's own choice. A capture, a run directory or what lies in a sweep's or
an arena's may come from another person, and what it names could be anything (``os:system``): it is
imported only when the user has said so. docs/guides/trust.md says which command reads what.

Two things keep to that. Whoever reads such a file asks with :func:`admitted` before anything is
built from it; and while its content is worked on, :func:`check_import` refuses whatever was not
asked about.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.credentials import tables_without_credentials
from atoll.errors import UntrustedCodeError
from atoll.files.atomic import atomic_file

logger = logging.getLogger("atoll")

REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
# Of sections' keys that hold places, and no code.
PLACES = {("data", "path"), ("run", "out"), ("run", "name")}
# Where a run reaches out to: a Ray of another person runs any code here.
ADDRESSES = {("ray", "address"): ("auto", "local"), ("log", "mlflow"): ()}
TO_DO = "expected --trust-code, if you trust who made it"

# ``module:attribute`` of everything that Atoll registers under a name of its own.
_own: set[str] = set()
# What may be imported at present beside Atoll's own; None is everything.
_admitted: frozenset[str] | None = None


@dataclass(frozen=True)
class CodeUse:
    """Use of code in a file: its reference, and the arguments.

    Attributes
    ----------
    key : str
        Where it stands ("model.name"), without places in lists.
    reference : str
        ``module:attribute``, a Flower app's folder, or an address.
    table : str
        The table that it stands in, as JSON: the arguments.

    Examples
    --------
    >>> from atoll import CodeUse
    >>> print(CodeUse("model.name", "my_models:net", '{"width": 16}'))
    model.name = 'my_models:net'
    """

    key: str
    reference: str
    table: str

    def __str__(self) -> str:
        return f"{self.key} = {self.reference!r}"


Ask = Callable[[Sequence[CodeUse]], bool]


def refuse(uses: Sequence[CodeUse]) -> bool:
    """Trust no file: the default."""
    return False


def trust(uses: Sequence[CodeUse]) -> bool:
    """Trust the author of the file, and log what is imported."""
    for use in uses:
        logger.info("trusted: %s", use)
    return True


def register(references: Iterable[str]) -> None:
    """Record the references that Atoll's registries hold."""
    _own.update(references)


def uses_in(tables: Mapping[str, Any]) -> list[CodeUse]:
    """Return the code that an experiment's tables, or a part of them, name; each use once."""
    found = dict.fromkeys(_uses(tables_without_credentials(tables), ()))
    return [use for use in found if use.reference not in _own]


def references_in(tables: Mapping[str, Any]) -> list[str]:
    """Return every ``module:attribute`` in tables."""
    return [use.reference for use in _uses(tables, ()) if REFERENCE.fullmatch(use.reference)]


def _uses(value: Any, path: tuple[str, ...], table: Any = None) -> Iterator[CodeUse]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _uses(item, (*path, str(name)), value)
    elif isinstance(value, list | tuple):
        for item in value:
            # An entry of client.mods is a name, or a table with one.
            is_entry = isinstance(item, str)
            yield from _uses(item, (*path, "name") if is_entry else path, {"name": item})
    elif isinstance(value, str) and _is_use(value, path):
        # A key that is not set is the same as none.
        settings = {key: item for key, item in (table or {}).items() if item is not None}
        yield CodeUse(".".join(path), value, json.dumps(settings, sort_keys=True, default=str))


def _is_use(value: str, path: tuple[str, ...]) -> bool:
    place = path[-2:]
    if place in ADDRESSES:
        return value not in ADDRESSES[place]
    if place == ("flower", "app_dir"):
        return True
    return place not in PLACES and REFERENCE.fullmatch(value) is not None


@contextmanager
def admitted(
    uses: Sequence[CodeUse], where: str | Path, ask: Ask = refuse, also: Iterable[str] = ()
) -> Iterator[None]:
    """Work on another person's file, whose code is imported only if that is trusted.

    Parameters
    ----------
    uses : Sequence[CodeUse]
        The code that the file names.
    where : str or Path
        The file, for the error.
    ask : callable
        Told what is not known to be the user's own; returns whether it may be imported.
    also : Iterable[str]
        What the user named, which may be imported in any case.

    Raises
    ------
    UntrustedCodeError
        Listing what would be imported, if that is not trusted.
    """
    unknown = [use for use in uses if not is_noted(use)]
    if unknown and not ask(unknown):
        named = ", ".join(map(str, unknown))
        raise UntrustedCodeError(f"{where}: names code that is not Atoll's: {named}; {TO_DO}")
    with importing_only([*(use.reference for use in uses), *also]):
        yield


@contextmanager
def importing_only(references: Collection[str]) -> Iterator[None]:
    """Restrict imports by name to these and Atoll's own within this context, in all threads."""
    global _admitted
    before = _admitted
    _admitted = frozenset(references)
    try:
        yield
    finally:
        _admitted = before


def is_restricted() -> bool:
    """Tell whether another person's file is worked on."""
    return _admitted is not None


def check_import(reference: str, key: str) -> None:
    """Refuse an import that is not admitted at present.

    Raises
    ------
    UntrustedCodeError
        Naming it.
    """
    if _admitted is not None and reference not in _admitted and reference not in _own:
        raise UntrustedCodeError(f"{key} = {reference!r}: is code that is not Atoll's; {TO_DO}")


# --- what is known to be the user's own ----------------------------------------------------------


def note(uses: Iterable[CodeUse]) -> None:
    """Remember code as the user's own: it is that of an experiment that the user runs.

    What is remembered is the use with its arguments, and where its module lies; so a file of
    another person's that names the same module beside another file of that name is not trusted.
    """
    folder = _notes()
    try:
        for use in uses:
            path = folder / f"{_key(use)}.json"
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                with atomic_file(path, sync=False) as partial:
                    partial.write_text(json.dumps(vars(use), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        logger.warning(
            "%s: cannot be written to (%s): 'atoll resume' will ask for --trust-code",
            folder,
            error.strerror or error,
        )


def is_noted(use: CodeUse) -> bool:
    """Tell whether code is known to be the user's own."""
    return (_notes() / f"{_key(use)}.json").is_file()


def _notes() -> Path:
    """Return the folder of notes: only the user writes to a user's state."""
    configured = os.environ.get("XDG_STATE_HOME")
    root = Path(configured) if configured else Path.home() / ".local" / "state"
    return root / "atoll" / "trusted"


def _key(use: CodeUse) -> str:
    module = use.reference.partition(":")[0] if REFERENCE.fullmatch(use.reference) else None
    place = None if module is None else str(locate(module))
    content = [use.key, use.reference, use.table, place]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def locate(module: str) -> Path | None:
    """Return the file that a module would be loaded from, or None; nothing is imported.

    Modules in the current folder are found too, after those that are installed.
    """
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top) or _spec_in([str(Path.cwd())], top)
        for place, _ in enumerate(inner):
            if spec is None or spec.submodule_search_locations is None:
                return None
            name = ".".join([top, *inner[: place + 1]])
            spec = _spec_in(list(spec.submodule_search_locations), name)
    except (ImportError, ValueError, AttributeError):
        return None
    origin = None if spec is None else spec.origin
    return Path(origin) if origin is not None and Path(origin).is_absolute() else None


def _spec_in(folders: list[str], name: str) -> importlib.machinery.ModuleSpec | None:
    return importlib.machinery.PathFinder.find_spec(name, folders)
