"""Every key of experiment, sweep and arena files by its full name, ``client.gradient_clip``.

They are read from a file that ``python -m atoll.platform.reference`` writes: importing the settings
classes takes most of the time of ``atoll explain``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from atoll.error_messages import closest
from atoll.errors import UnknownNameError
from atoll.platform.reference.key import Key

FILE = Path(__file__).with_name("experiment_keys.json")
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


@dataclass(frozen=True)
class Section:
    """A table of experiment files.

    Attributes
    ----------
    about : str
        The line that says what it is for.
    description : str
        All that its documentation says before its keys.
    keys : tuple[Key, ...]
        Its keys.
    """

    about: str
    description: str
    keys: tuple[Key, ...]


@cache
def sections() -> dict[str, Section]:
    """Return every section by its name, tables within sections among them."""
    read = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        name: Section(
            section["about"], section["description"], tuple(Key(**key) for key in section["keys"])
        )
        for name, section in read.items()
    }


def own_keys(section: str) -> list[str]:
    """Return the names of a section's keys; none of a table that has only others' keys."""
    return [key.name for key in sections()[section].keys] if section in sections() else []


@cache
def all_keys() -> dict[str, Key]:
    """Return every key by its full name."""
    return {
        f"{name}.{key.name}": key for name, section in sections().items() for key in section.keys
    }


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
