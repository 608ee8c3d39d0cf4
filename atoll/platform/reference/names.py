"""Names that experiment files can use, by kind, and the keys that each of them takes.

They are read from a file that ``python -m atoll.platform.reference`` writes. With another version
of Flower than it was written with, whose strategies and partitioners may have changed, names are
described anew.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import version
from pathlib import Path

from atoll.error_messages import closest
from atoll.errors import UnknownNameError
from atoll.platform.reference.key import Key
from atoll.platform.reference.kinds import KINDS
from atoll.platform.reference.named import Named

FILE = Path(__file__).with_name("names.json")
# Whose classes have names, beside our own.
OTHERS = ("flwr", "flwr-datasets")


def names_of(kind: str) -> list[tuple[str, str]]:
    """Return the names of a kind, and one line about each.

    Raises
    ------
    UnknownNameError
        If there is no such kind.
    """
    return [(named.name, named.about) for named in _all_names()[_kind(kind)].values()]


def describe_name(kind: str, name: str) -> Named:
    """Return what a name stands for, and its keys.

    Raises
    ------
    UnknownNameError
        If there is no such kind, or no such name of that kind; the message gives the nearest.
    """
    chosen = _kind(kind)
    named = _all_names()[chosen]
    by_folded_name = {known.casefold(): known for known in named}
    known = by_folded_name.get(name.casefold())
    if known is None:
        hint = closest(name, list(named))
        raise UnknownNameError(f"atoll list {chosen} {name}: no such name; {hint}")
    return named[known]


def keys_of_kind(kind: str) -> set[str]:
    """Return the names of all keys that the names of a kind take."""
    return {key.name for named in _all_names()[_kind(kind)].values() for key in named.keys}


def names_with(kind: str, key: str) -> dict[str, Key]:
    """Return the names of a kind that take a key, each with that key."""
    return {
        named.name: own
        for named in _all_names()[_kind(kind)].values()
        for own in named.keys
        if own.name == key
    }


def versions() -> dict[str, str]:
    """Return the versions of the other packages whose classes have names."""
    return {name: version(name) for name in OTHERS}


@cache
def _all_names() -> dict[str, dict[str, Named]]:
    recorded = json.loads(FILE.read_text(encoding="utf-8"))
    if recorded["versions"] != versions():
        # It imports all that has a name.
        from atoll.platform.reference.described_names import described_names

        return described_names()
    # Many names take the same keys, which the file has once.
    keys = [Key(**fields) for fields in recorded["keys"]]
    return {
        kind: {
            name: Named(**{**fields, "keys": tuple(keys[place] for place in fields["keys"])})
            for name, fields in names.items()
        }
        for kind, names in recorded["names"].items()
    }


def _kind(name: str) -> str:
    by_folded_name = {known.casefold(): known for known in KINDS}
    known = by_folded_name.get(name.casefold()) or by_folded_name.get(f"{name.casefold()}s")
    if known is None:
        hint = closest(name, list(KINDS))
        raise UnknownNameError(f"atoll list {name}: no such kind; {hint}")
    return known
