"""A name that experiment files can use, with its keys."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.platform.reference.key import Key


@dataclass(frozen=True)
class Named:
    """What a name stands for.

    Attributes
    ----------
    name : str
        The name.
    about : str
        One line about it.
    text : str
        The first paragraphs of its documentation.
    section : str
        The table of an experiment file that holds its keys; empty if it has none.
    keys : tuple[Key, ...]
        The keys that it takes there.
    takes_more : str
        Where other keys go: "model.base", say; empty if there are no others.
    """

    name: str
    about: str
    text: str = ""
    section: str = ""
    keys: tuple[Key, ...] = ()
    takes_more: str = ""
