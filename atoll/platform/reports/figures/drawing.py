"""Figures as data: what the page's scripts (``templates/figures.js``, ``grids.js``) draw."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Number = float | int | None
Mark = Literal["line", "points", "both", "bar"]
Dash = Literal["solid", "dot", "dash"]

# More digits than a figure shows, and fewer than a float has.
DIGITS = 6
# The share of the rounds that the axis need not be for, where the others take half of it or less.
EARLY = 0.25
# A run of fewer rounds is short enough to see all of.
SHORT = 10


@dataclass(frozen=True)
class Curve:
    """Series of a figure.

    Attributes
    ----------
    name : str
        As the legend has it.
    x : Sequence
        Numbers, or places in the figure's categories.
    y : Sequence
        The values; None where there is none.
    mark : "line", "points", "both" or "bar"
        How it is drawn.
    dash : "solid", "dot" or "dash"
        Of the line.
    width : float
        Of the line, in pixels.
    color : int
        Which of the page's colours.
    low, high : Sequence, optional
        Ends of a band around the line.
    error : bool
        Whether these are error bars of points instead.
    symbol : int
        Which of the marks the points have.
    symbols : Sequence[int], optional
        Each point's own.
    texts : Sequence[str], optional
        What each point is, for whoever points at it.
    named : bool
        Whether it has a legend even if it is the only one.
    """

    name: str
    x: Sequence[Number]
    y: Sequence[Number]
    mark: Mark = "line"
    dash: Dash = "solid"
    width: float = 2.0
    color: int = 0
    low: Sequence[Number] | None = None
    high: Sequence[Number] | None = None
    error: bool = False
    symbol: int = 0
    symbols: Sequence[int] | None = None
    texts: Sequence[str] | None = None
    named: bool = False


@dataclass(frozen=True)
class Level:
    """Horizontal line of a figure, and what it stands for."""

    name: str
    y: float


@dataclass(frozen=True)
class Curves:
    """Figure of curves, points or bars.

    Attributes
    ----------
    series : Sequence[Curve]
        What is drawn.
    y_title, x_title : str
        Of the axes.
    categories : Sequence[str], optional
        Names along the x axis, where that is none of numbers.
    range : (float, float), optional
        What the y axis shows at first, where that is not all.
    level : Level, optional
        A line across.
    height : int
        Of the axes, in pixels.
    whole : bool
        Whether x is of whole numbers.
    member : str
        Which of the clients' curves are added at a click; none if empty.
    powers : bool
        Whether x and y are exponents of ten, of which the axes show the powers.
    """

    series: Sequence[Curve]
    y_title: str
    x_title: str = "round"
    categories: Sequence[str] | None = None
    range: tuple[float, float] | None = None
    level: Level | None = None
    height: int = 230
    whole: bool = True
    member: str = ""
    powers: bool = False
    kind: str = field(default="curves", init=False)


@dataclass(frozen=True)
class Cells:
    """Figure of a matrix.

    Attributes
    ----------
    values : Sequence of rows
        The larger, the stronger the colour; None is left out.
    rows, columns : Sequence[str]
        Their names.
    unit : str
        What a value is.
    y_title, x_title : str
        Of the rows, and of the columns.
    texts : Sequence of rows, optional
        What is written into the cells.
    ids : Sequence[str], optional
        The clients that the columns are of.
    range : (float, float), optional
        Values of the weakest and the strongest colour.
    """

    values: Sequence[Sequence[Number]]
    rows: Sequence[str]
    columns: Sequence[str]
    unit: str
    y_title: str
    x_title: str
    texts: Sequence[Sequence[str]] | None = None
    ids: Sequence[str] | None = None
    range: tuple[float, float] | None = None
    height: int | None = None
    kind: str = field(default="cells", init=False)


@dataclass(frozen=True)
class Group:
    """Values of a strip, the client of each and its name."""

    name: str
    values: Sequence[float]
    ids: Sequence[str]
    labels: Sequence[str]


@dataclass(frozen=True)
class Strips:
    """Figure of a strip of points for each group."""

    groups: Sequence[Group]
    x_title: str
    y_title: str = ""
    kind: str = field(default="strips", init=False)


Figure = Curves | Cells | Strips


def lines(series: Mapping[str, tuple[Sequence[Any], Sequence[Any]]], y_title: str) -> Curves:
    """Return the figure of curves over the rounds, each a colour."""
    curves = [
        Curve(name, x, y, color=place, named=True)
        for place, (name, (x, y)) in enumerate(series.items())
    ]
    return Curves(curves, y_title, range=late_range([(c.x, c.y, c.y) for c in curves]))


def bars(names: Sequence[str], values: Mapping[str, Sequence[Number]], y_title: str) -> Curves:
    """Return the figure of bars by name."""
    places = range(len(names))
    series = [
        Curve(name, places, own, mark="bar", color=place)
        for place, (name, own) in enumerate(values.items())
    ]
    return Curves(series, y_title, "", categories=names)


def axis_range(
    curves: Sequence[tuple[Sequence[Any], Sequence[Any], Sequence[Any]]],
) -> tuple[float, float]:
    """Return the values that an axis is for: those of all rounds, or of all but the early ones.

    Curves that begin far from where they end would leave nothing to see of their differences. So
    where the rounds after the first quarter take half of the range or less, the axis is for these,
    and as much again on the side that the curves come from.

    Parameters
    ----------
    curves : Sequence of (rounds, low, high)
        Each with the ends of its band.
    """
    rounds = [number for x, _, _ in curves for number in x]
    first, last = min(rounds), max(rounds)
    low, high = _ends(curves, first)
    late_low, late_high = _ends(curves, first + EARLY * (last - first))
    spread = late_high - late_low
    if last - first < SHORT or not 0.0 < 2 * spread <= high - low:
        return low, high
    return max(low, late_low - spread), min(high, late_high + spread)


def late_range(
    curves: Sequence[tuple[Sequence[Any], Sequence[Any], Sequence[Any]]],
) -> tuple[float, float] | None:
    """Return :func:`axis_range` where that is not all there is; else None."""
    known = [each for x, low, high in curves if (each := _finite(x, low, high))[0]]
    if not known:
        return None
    found = axis_range(known)
    return None if found == _ends(known, -math.inf) else found


def _finite(
    x: Sequence[Any], low: Sequence[Any], high: Sequence[Any]
) -> tuple[list[Any], list[Any], list[Any]]:
    rows = [
        row
        for row in zip(x, low, high, strict=True)
        if all(value is not None and math.isfinite(value) for value in row)
    ]
    return [a for a, _, _ in rows], [b for _, b, _ in rows], [c for _, _, c in rows]


def _ends(
    curves: Sequence[tuple[Sequence[Any], Sequence[Any], Sequence[Any]]], first: float
) -> tuple[float, float]:
    """Return the least and the largest value of the rounds from ``first`` on."""
    kept = [row for curve in curves for row in zip(*curve, strict=True) if row[0] >= first]
    return float(min(low for _, low, _ in kept)), float(max(high for _, _, high in kept))


def figures_json(
    figures: Sequence[tuple[str, Figure]], clients: Mapping[str, Any] | None = None
) -> str:
    """Return figures with their titles, for an element of the page.

    Nothing in it ends the element, or is markup: ``<``, ``>`` and ``&`` are written as escapes.

    Parameters
    ----------
    figures : Sequence of (title, Figure)
        What is drawn.
    clients : Mapping, optional
        Curves of single clients (:mod:`~atoll.platform.reports.figures.client_figures`).
    """
    content = {
        "figures": [{"title": title, **asdict(figure)} for title, figure in figures],
        "clients": clients,
    }
    text = json.dumps(_plain(content), separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: finite, and not longer than it must be."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, list | tuple | range):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
