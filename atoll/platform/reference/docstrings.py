"""Descriptions of arguments and attributes, read from numpydoc docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

SECTIONS = ("Parameters", "Attributes")
# "As Flower's FedAvg.": a base class says more.
SEE_BASE = "As "
ROLE = re.compile(r":(?:\w+:)?\w+:`(?:[^`<]*<)?[~!]?([\w.]+)>?`")


def summary_of(described: Any) -> str:
    """Return the first line of a docstring, without markup; what a function returns, as a noun."""
    lines = (inspect.getdoc(described) or "").splitlines()
    line = plain(lines[0]).removeprefix("Return ") if lines else ""
    return line[:1].upper() + line[1:]


def descriptions_of(described: Any) -> dict[str, str]:
    """Return the description of each argument and attribute that a docstring lists.

    Parameters
    ----------
    described : class or callable
        What has the docstring. Of a class, the docstrings of its bases and of its ``__init__``
        count too; the most derived one wins, unless it refers to a base.
    """
    found: dict[str, str] = {}
    for text in _docstrings(described):
        for name, about in _entries(text):
            if about and (name not in found or found[name].startswith(SEE_BASE)):
                found[name] = about
    return found


def plain(text: str) -> str:
    """Return a docstring's text without its reStructuredText markup."""
    named = ROLE.sub(lambda role: role[1].rpartition(".")[2], text)
    return named.replace("``", "").replace("`", "")


def _docstrings(described: Any) -> Iterator[str]:
    if not inspect.isclass(described):
        yield inspect.getdoc(described) or ""
        return
    for kind in inspect.getmro(described):
        for own in (vars(kind).get("__doc__"), getattr(vars(kind).get("__init__"), "__doc__", "")):
            yield inspect.cleandoc(own or "")


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield the names and the collapsed descriptions of a docstring's lists of arguments."""
    lines, names, about, inside = text.splitlines(), [""], [""], False
    for place, line in enumerate(lines):
        is_title = set(lines[place + 1 : place + 2]) and set(lines[place + 1]) == {"-"}
        is_entry = bool(line) and not line.startswith(" ")
        if inside and (is_title or is_entry):
            yield from _named(names, about)
            names, about = [""], [""]
        if is_title:
            inside = line in SECTIONS
        elif inside and is_entry and set(line) != {"-"}:
            names = [name.strip().lstrip("*") for name in line.partition(":")[0].split(",")]
        elif inside:
            about.append(line.strip())
    if inside:
        yield from _named(names, about)


def _named(names: list[str], about: list[str]) -> Iterator[tuple[str, str]]:
    for name in filter(None, names):
        yield name, plain(" ".join(" ".join(about).split()))
