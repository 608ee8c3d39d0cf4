"""Parts of error messages: a value, and the closest known name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST_SHOWN = 60


def short(value: object, *, quoted: bool = True) -> str:
    """Return a value's text for an error: one line, not long."""
    text = repr(value) if quoted else "".join(c if c.isprintable() else "?" for c in str(value))
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def closest(name: str, known: Iterable[str], *, none: str = "expected none") -> str:
    """Return "did you mean 'x'?" for the known name nearest to ``name``, or the list of names.

    Parameters
    ----------
    name : str
        What was given.
    known : Iterable[str]
        What there is.
    none : str
        The text if there is nothing.
    """
    folded = {candidate.casefold(): candidate for candidate in known}
    if not folded:
        return none
    matches = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    if matches:
        return f"did you mean {folded[matches[0]]!r}?"
    return "expected one of " + ", ".join(sorted(folded.values()))
