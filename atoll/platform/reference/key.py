"""A key of experiment files, as the command line, the documentation and completion show it."""

from __future__ import annotations

import dataclasses

# Defaults that are said in words.
UNSET, REQUIRED, SECTION = "unset", "required", "a section"


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of an experiment file.

    Attributes
    ----------
    name : str
        Its name within its section.
    type : str
        What it holds: "number", "list of string", '"sgd", "adam" or "adamw"'.
    range : str
        The values that are taken: "1 to 10,000,000"; empty if any is.
    default : str
        As TOML writes it; "unset" or "required".
    about : str
        Its meaning.
    example : str
        A value, as TOML writes it; empty if there is none to show.
    """

    name: str
    type: str
    range: str
    default: str
    about: str
    example: str = ""

    @property
    def values(self) -> str:
        """Type and range in one text."""
        return f"{self.type}, {self.range}" if self.range else self.type
