"""Tables of figures, written as text, Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Form = Literal["text", "markdown", "latex", "csv"]
# What LaTeX takes for its own, outside of mathematics.
_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
}
_SPECIALS = re.compile("|".join(map(re.escape, _SPECIAL)))


@dataclass(frozen=True)
class Estimate:
    """Cell of a mean over several runs or victims, with how sure it is.

    Attributes
    ----------
    mean : float
        In the unit of the data.
    count : int
        What it is over: seeds, victims.
    error : float
        The standard error; NaN where that is not what is known.
    low, high : float
        The interval's ends; NaN where there is none.
    digits : int
        Digits after the point, as it is shown.
    scale : float
        What it is multiplied by where it is shown (100 for per cent); in CSV it is as it is.
    of : str
        What is counted, where the count is shown; else it is not.
    """

    mean: float
    count: int
    error: float = math.nan
    low: float = math.nan
    high: float = math.nan
    digits: int = 4
    scale: float = 1.0
    of: str = ""

    def __str__(self) -> str:
        return f"{self._figure('±')}{self._count()}"

    def latex(self) -> str:
        """Return it as LaTeX."""
        return f"${self._figure(chr(92) + 'pm')}${self._count()}"

    def values(self) -> dict[str, float | int]:
        """Return its numbers by what comes after the column's name in CSV."""
        named = {"": self.mean, " standard error": self.error}
        named |= {" low": self.low, " high": self.high}
        known: dict[str, float | int] = {k: v for k, v in named.items() if not math.isnan(v)}
        return {**({"": math.nan} if "" not in known else {}), **known, " n": self.count}

    def _figure(self, plus_minus: str) -> str:
        def shown(value: float) -> str:
            return f"{self.scale * value:.{self.digits}f}"

        if not math.isnan(self.error):
            return f"{shown(self.mean)} {plus_minus} {shown(self.error)}"
        if math.isnan(self.low):
            return shown(self.mean)
        if math.isclose(self.high - self.mean, self.mean - self.low, rel_tol=1e-6, abs_tol=1e-12):
            return f"{shown(self.mean)} {plus_minus} {shown(self.high - self.mean)}"
        return f"{shown(self.mean)} [{shown(self.low)}, {shown(self.high)}]"

    def _count(self) -> str:
        if not self.of:
            return ""
        return f" ({self.count} {self.of if self.count == 1 else f'{self.of}s'})"


Cell = str | int | float | Estimate | None


@dataclass(frozen=True)
class Table:
    """A table to print.

    Attributes
    ----------
    title : str
        What it is of.
    header : list[str]
        The columns.
    rows : list[list[Cell]]
        The cells; None is shown as "-".
    note : str
        What its figures are.
    """

    title: str
    header: list[str]
    rows: list[list[Cell]]
    note: str = ""

    @property
    def caption(self) -> str:
        """The title, with the note in parentheses."""
        return f"{self.title} ({self.note})" if self.note else self.title


def as_text(table: Table) -> str:
    """Return a table as aligned text, its title in a line before."""
    rows = [table.header, *([_text(cell) for cell in row] for row in table.rows)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(table.header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([table.caption, *lines]) + "\n"


def as_markdown(table: Table) -> str:
    """Return a table as Markdown, its title in a line before."""
    lines = [
        f"**{table.title}**{table.caption.removeprefix(table.title)}",
        "",
        f"| {' | '.join(table.header)} |",
        f"|{'---|' * len(table.header)}",
        *(f"| {' | '.join(map(_text, row))} |" for row in table.rows),
    ]
    return "\n".join(lines) + "\n"


def as_latex(table: Table) -> str:
    """Return a table as LaTeX for the package ``booktabs``; columns of figures to the right."""
    columns = "".join("r" if _is_of_figures(table, c) else "l" for c in range(len(table.header)))
    lines = [
        f"% {table.caption}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        rf"{' & '.join(map(_escaped, table.header))} \\",
        r"\midrule",
        *(rf"{' & '.join(map(_latex, row))} \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def as_csv(tables: Sequence[Table]) -> str:
    """Return tables as one CSV file; of several each row begins with its table's title.

    An :class:`Estimate` is several columns: the mean, what it is known by, and its count.
    """
    several = len(tables) > 1
    rows: list[dict[str, str | int | float | None]] = []
    for table in tables:
        for cells in table.rows:
            row: dict[str, str | int | float | None] = {"table": table.title} if several else {}
            for name, cell in zip(table.header, cells, strict=True):
                if isinstance(cell, Estimate):
                    row |= {f"{name}{part}": value for part, value in cell.values().items()}
                else:
                    row[name] = cell
            rows.append(row)
    named = ["table"] if several else []
    named += _in_order(tables, [name for row in rows for name in row])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(named)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def written(tables: Sequence[Table], form: Form) -> str:
    """Return tables in one of the forms."""
    if form == "csv":
        return as_csv(tables)
    write = {"text": as_text, "markdown": as_markdown, "latex": as_latex}[form]
    return "\n".join(map(write, tables))


def _in_order(tables: Sequence[Table], names: Sequence[str]) -> list[str]:
    """Return CSV's columns: those that a header became stay together, in the headers' order."""
    found = list(dict.fromkeys(names))
    headers = dict.fromkeys(name for table in tables for name in table.header)
    parts = ("", " standard error", " low", " high", " n")
    known = [f"{h}{part}" for h in headers for part in parts if f"{h}{part}" in found]
    # A table without rows has its header.
    return known or list(headers)


def _is_of_figures(table: Table, column: int) -> bool:
    cells = [row[column] for row in table.rows if row[column] is not None]
    return bool(cells) and not any(isinstance(cell, str) for cell in cells)


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    text = f"{cell:.6g}" if isinstance(cell, float) else str(cell)
    # Names come from files, which may be another person's.
    return "".join(character if character.isprintable() else "?" for character in text)


def _latex(cell: Cell) -> str:
    return cell.latex() if isinstance(cell, Estimate) else _escaped(_text(cell))


def _escaped(text: str) -> str:
    return _SPECIALS.sub(lambda found: _SPECIAL[found[0]], text)
