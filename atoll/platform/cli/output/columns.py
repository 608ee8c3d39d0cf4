"""Text in columns for the terminal: the first is never cut, the last continues below itself."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

# Narrower than this, a column of text is not worth having.
LEAST_TEXT = 24
INDENT = 4


def name_lines(rows: Sequence[tuple[str, str]], width: int | None) -> Iterator[str]:
    """Yield names and what is said of them, side by side; below each other if it is narrow.

    Parameters
    ----------
    rows : Sequence[tuple[str, str]]
        Names and texts.
    width : int or None
        The terminal's columns; None for no limit: a line a name.
    """
    longest = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        if width is None:
            yield f"{name:<{longest}}  {text}".rstrip()
        elif width - longest - 2 >= LEAST_TEXT:
            first, *rest = textwrap.wrap(text, width - longest - 2) or [""]
            yield f"{name:<{longest}}  {first}".rstrip()
            yield from (" " * (longest + 2) + line for line in rest)
        else:
            yield name
            yield from indented(text, width, INDENT)


def indented(text: str, width: int | None, indent: int) -> Iterator[str]:
    """Yield a text's lines, each indented; nothing of it is cut."""
    for paragraph in text.split("\n\n"):
        if width is None:
            yield " " * indent + paragraph
        else:
            within = max(width - indent, LEAST_TEXT)
            lines = textwrap.wrap(paragraph, within, break_long_words=False, break_on_hyphens=False)
            yield from (" " * indent + line for line in lines)
