"""Figures for papers, drawn by Matplotlib (the optional extra ``atoll[plot]``)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atoll.attacks.arena.arena_summary import Cell
from atoll.attacks.metrics.kinds import METRICS, TITLES
from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError, RunDirectoryError
from atoll.extras import require
from atoll.files.atomic import replacing
from atoll.lazy import LazyModule
from atoll.platform.reports.figures.arena_figures import attacker_of
from atoll.platform.reports.figures.drawing import axis_range
from atoll.platform.results.groups import Band, Group, Series, series_of

matplotlib = LazyModule("matplotlib")
backends = LazyModule("matplotlib.backends.backend_agg")
figures = LazyModule("matplotlib.figure")

SUFFIXES = (".pdf", ".svg", ".png")
# Colours that people with a weakness for red and green tell apart (Okabe and Ito, 2008).
COLORS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c564b"),
    *("#7f7f7f", "#6a3d9a"),
)
LINES = ("-", "--", ":", "-.")
# Inches: a column of a page of two, and how high a panel is beside its width.
WIDTH, RATIO = 3.4, 0.72
# The share of the range that is left free above and below the curves.
MARGIN = 0.06
STYLE = {
    "font.size": 8,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "svg.fonttype": "none",
    "svg.hashsalt": "atoll",
    "pdf.fonttype": 42,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
PARTITION = "partition"


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes
    ----------
    title : str
        What is only true of this panel; empty for a figure of one.
    y_label : str
        What is drawn, as a person reads it.
    series : tuple[Series, ...]
        The curves; empty where ``counts`` are drawn.
    counts : tuple of (classes, rows) or None
        Examples of each class, a row a client.
    """

    title: str
    y_label: str
    series: tuple[Series, ...] = ()
    counts: tuple[tuple[str, ...], tuple[tuple[int, ...], ...]] | None = None


@dataclass(frozen=True)
class Look:
    """How a figure looks.

    Attributes
    ----------
    width : float
        Inches of a panel.
    y_limits : tuple of two floats or None
        The axis' ends; by default those of what is drawn.
    from_round : int
        The first round that is drawn, and that the axis is for.
    log : bool
        Whether the y axis is logarithmic.
    title : str
        A title over all; by default none, as papers have captions.
    """

    width: float = WIDTH
    y_limits: tuple[float, float] | None = None
    from_round: int = 0
    log: bool = False
    title: str = ""


def check_picture(out: Path) -> None:
    """Refuse what cannot be drawn to, before anything is read.

    Raises
    ------
    InvalidExperimentError
        If Matplotlib is missing, or the suffix is of no picture.
    """
    require("matplotlib", what="atoll plot")
    if out.suffix.lower() not in SUFFIXES:
        raise InvalidExperimentError(
            f"--out = {str(out)!r}: expected a name that ends in {', '.join(SUFFIXES)}"
        )


def curve_panels(
    groups: Mapping[str, Sequence[Group]], metric: str, band: Band, from_round: int = 0
) -> list[Panel]:
    """Return a panel for each set of groups that may be drawn beside each other.

    Parameters
    ----------
    groups : Mapping[str, Sequence[Group]]
        Groups by what is true of their panel alone: the domains held out, say.
    metric : str
        A column of ``rounds.parquet``.
    band : "interval", "range" or "none"
        Over the seeds.
    from_round : int
        The first round that is drawn.

    Raises
    ------
    RunDirectoryError
        If no group has a value.
    """
    panels = []
    for title, own in groups.items():
        made = [s for group in own if (s := series_of(group, metric, band)) is not None]
        series = tuple(s for s in (_cut(one, from_round) for one in made) if len(s.rounds))
        if series:
            panels.append(Panel(title if len(groups) > 1 else "", readable(metric), series))
    if not panels:
        raise RunDirectoryError(
            f"--metric {metric}: there is no round from {from_round} on in which all runs of a "
            "method have a value; expected at least one"
        )
    return panels


def _cut(series: Series, first: int) -> Series:
    kept = series.rounds >= first
    return Series(
        series.label,
        series.rounds[kept],
        series.mean[kept],
        series.low[kept],
        series.high[kept],
        series.runs,
    )


def readable(metric: str) -> str:
    """Return a metric's name for an axis: "server_accuracy_e0.9" is "test accuracy, e0.9"."""
    group, _, rest = metric.partition("_")
    where = {"server": "test", "evaluate": "clients' test", "train": "training"}.get(group)
    if where is None:
        return metric.replace("_", " ")
    for kind in ("accuracy", "loss"):
        if rest == kind:
            return f"{where} {kind}"
        if rest.startswith(f"{kind}_"):
            return f"{where} {kind}, {rest.removeprefix(f'{kind}_')}"
    return f"{where} {rest.replace('_', ' ')}"


def draw_panels(panels: Sequence[Panel], out: Path, look: Look) -> None:
    """Draw panels side by side, with one legend below all of them."""
    with _figure(len(panels), out, look) as (figure, axes):
        named: dict[str, Any] = {}
        for place, panel in zip(axes, panels, strict=True):
            if panel.counts is not None:
                _draw_counts(figure, place, panel)
                continue
            for series in panel.series:
                style = _style([*named, series.label].index(series.label))
                [line] = place.plot(series.rounds, series.mean, **style)
                if not np.array_equal(series.low, series.high):
                    place.fill_between(
                        series.rounds,
                        series.low,
                        series.high,
                        color=style["color"],
                        alpha=0.18,
                        linewidth=0,
                    )
                named.setdefault(series.label, line)
            place.set(xlabel="round", ylabel=panel.y_label, title=panel.title)
            place.xaxis.get_major_locator().set_params(integer=True)
            _limit(place, panel.series, look)
        if len(named) > 1:
            # Outside of the axes, where it covers nothing.
            figure.legend(
                named.values(),
                named.keys(),
                loc="outside lower center",
                ncols=min(len(named), max(1, int(look.width * len(panels) / 1.6))),
            )


def draw_arena(cells: Sequence[Cell], metric: str, out: Path, look: Look) -> None:
    """Draw a metric of an arena's attacks by defense, with bootstrap intervals over victims.

    A panel for each setting and round, a row for each defense, a colour for each attacker.

    Raises
    ------
    InvalidExperimentError
        If the arena has no such metric.
    """
    own = [cell for cell in cells if metric in cell.metrics]
    if not own:
        measured = sorted({name for cell in cells for name in cell.metrics} or set(METRICS))
        raise InvalidExperimentError(f"--metric {metric}: {closest(metric, measured)}")
    places = list(dict.fromkeys((cell.setting, cell.server_round) for cell in own))
    defenses = list(dict.fromkeys(cell.defense for cell in own))
    attackers = list(dict.fromkeys(map(attacker_of, own)))
    height = 0.5 + 0.17 * len(defenses) * max(2, len(attackers)) ** 0.7
    with _figure(len(places), out, look, height, share_x=True) as (figure, axes):
        points = {}
        for place, (setting, server_round) in zip(axes, places, strict=True):
            for number, attacker in enumerate(attackers):
                found = {
                    cell.defense: cell.metrics[metric]
                    for cell in own
                    if (cell.setting, cell.server_round) == (setting, server_round)
                    and attacker_of(cell) == attacker
                }
                shift = 0.6 * ((number + 0.5) / len(attackers) - 0.5)
                rows = [defenses.index(name) + shift for name in found]
                means = np.array([i.mean for i in found.values()])
                ends = np.array([[i.low, i.high] for i in found.values()]).reshape(-1, 2)
                widths = np.nan_to_num(np.abs(ends.T - means)) if len(means) else None
                points[attacker] = place.errorbar(
                    means,
                    rows,
                    xerr=widths,
                    fmt="o",
                    markersize=3,
                    linewidth=1,
                    color=COLORS[number % len(COLORS)],
                )
            title = f"{setting}, round {server_round}" if len(places) > 1 else ""
            place.set_yticks(range(len(defenses)), defenses)
            place.set(xlabel=TITLES.get(metric, metric), title=title)
            place.set_ylim(len(defenses) - 0.5, -0.5)
        figure.legend(
            points.values(),
            points.keys(),
            loc="outside lower center",
            ncols=max(1, int(look.width * len(places) / 1.6)),
        )


def counts_panel(partition: Mapping[str, Any]) -> Panel:
    """Return a panel of the examples of each class that clients have.

    Parameters
    ----------
    partition : Mapping
        What ``partition.json`` holds.
    """
    rows = tuple(tuple(row) for row in partition["histogram"])
    return Panel("", "class", counts=(tuple(map(str, partition["classes"])), rows))


def _draw_counts(figure: Any, place: Any, panel: Panel) -> None:
    if panel.counts is None:
        return
    classes, rows = panel.counts
    shown = place.imshow(
        np.array(rows).T, aspect="auto", cmap="GnBu", interpolation="nearest", origin="upper"
    )
    place.xaxis.get_major_locator().set_params(integer=True)
    place.set(xlabel="client", ylabel=panel.y_label, title=panel.title)
    place.grid(visible=False)
    if len(classes) <= 20:
        place.set_yticks(range(len(classes)), classes)
    figure.colorbar(shown, label="examples")


@contextmanager
def _figure(
    panels: int, out: Path, look: Look, height: float | None = None, *, share_x: bool = False
) -> Iterator[tuple[Any, list[Any]]]:
    """Yield a figure with its axes; it is written when the block ends."""
    with matplotlib.rc_context(STYLE):
        size = (look.width * panels, look.width * RATIO if height is None else height)
        figure = figures.Figure(figsize=size, layout="constrained")
        backends.FigureCanvasAgg(figure)
        axes = figure.subplots(1, panels, squeeze=False, sharex=share_x)[0]
        yield figure, list(axes)
        if look.title:
            figure.suptitle(look.title)
        kind = out.suffix.lower().removeprefix(".")
        # Without a date the same runs give the same file.
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
        with replacing(out) as partial:
            figure.savefig(partial, format=kind, dpi=300, metadata=metadata)


def _style(number: int) -> dict[str, Any]:
    """Return a curve's colour and dashes: after all colours come the same ones, dashed."""
    dashes = LINES[number // len(COLORS) % len(LINES)]
    return {"color": COLORS[number % len(COLORS)], "linestyle": dashes}


def _limit(place: Any, series: Sequence[Series], look: Look) -> None:
    """Set the axis to what is drawn, so that what is between 0.95 and 0.98 is seen."""
    if look.log:
        place.set_yscale("log")
    if look.y_limits is not None:
        place.set_ylim(*look.y_limits)
        return
    if look.log:
        return
    low, high = y_range(series)
    room = MARGIN * (high - low) or MARGIN * max(abs(high), 1e-12)
    if math.isfinite(room):
        place.set_ylim(low - room, high + room)


def y_range(series: Sequence[Series]) -> tuple[float, float]:
    """Return the values that an axis is for, as in pages (:func:`axis_range`)."""
    return axis_range(
        [(one.rounds.tolist(), one.low.tolist(), one.high.tolist()) for one in series]
    )
