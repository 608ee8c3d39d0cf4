"""Tables on the terminal: as text, or with ``--latex`` or ``--csv``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.errors import InvalidExperimentError
from atoll.platform.cli.terminal import console

if TYPE_CHECKING:
    from atoll.platform.reports.tables import Form, Table

LatexOption = Annotated[bool, typer.Option("--latex", help="Tables as LaTeX (booktabs).")]
CsvOption = Annotated[bool, typer.Option("--csv", help="Tables as CSV, figures unrounded.")]


def form_of(*, latex: bool, csv: bool) -> Form:
    """Return the form of tables that the options ask for.

    Raises
    ------
    InvalidExperimentError
        If they ask for two.
    """
    if latex and csv:
        raise InvalidExperimentError("--latex and --csv: expected one of the two")
    return "latex" if latex else "csv" if csv else "text"


def print_tables(tables: Sequence[Table], form: Form) -> None:
    """Print tables, whatever the width of the terminal."""
    from atoll.platform.reports.tables import written

    console.out(written(tables, form), highlight=False, end="")
