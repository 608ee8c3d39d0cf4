"""The figures of an arena's report, made from its cells."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from atoll.attacks.arena.arena_summary import Cell
from atoll.attacks.base.attack_names import BASELINES
from atoll.lazy import LazyModule
from atoll.platform.reports.figures import COLORS, literal

go = LazyModule("plotly.graph_objects")

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
GREY = "#868e96"
DEFENSE_COLORS = (
    *COLORS,
    *("#12303a", "#f08c00", "#9c36b5", "#74b816", "#1971c2", "#a61e4d", "#ffa8a8", "#6741d9"),
    *("#e03131", "#66a80f", "#99e9f2"),
)


def attacker_of(cell: Cell) -> str:
    """Return a cell's attack with what it knows."""
    return cell.attack if cell.knowledge == "naive" else f"{cell.attack} ({cell.knowledge})"


def heat_map(cells: Sequence[Cell], metric: str = "psnr") -> Any:
    """Return attackers by defenses, in colours of the mean of a metric.

    Parameters
    ----------
    cells : Sequence[Cell]
        Of one setting and round.
    metric : str
        The metric.
    """
    attackers = list(dict.fromkeys(map(attacker_of, cells)))
    defenses = list(dict.fromkeys(cell.defense for cell in cells))
    found = {(attacker_of(c), c.defense): c.metrics.get(metric) for c in cells}
    means = [
        [None if (i := found.get((a, d))) is None else i.mean for d in defenses] for a in attackers
    ]
    texts = [["-" if value is None else f"{value:.1f}" for value in row] for row in means]
    heat = go.Heatmap(
        z=means,
        x=defenses,
        y=attackers,
        text=texts,
        texttemplate="%{text}",
        colorscale="YlOrRd",
        colorbar={"title": "dB"},
    )
    layout = _layout("", "") | {"height": 140 + 36 * len(attackers)}
    return go.Figure([literal(heat)], layout=layout)


def frontier(cells: Sequence[Cell], metric: str, title: str) -> Any:
    """Return accuracy against leakage: each defense's strongest attacker, baselines set aside.

    Parameters
    ----------
    cells : Sequence[Cell]
        Of one setting. A colour a defense, a symbol a round.
    metric : str
        What leakage is measured by: more is worse.
    title : str
        The metric with its unit.

    Returns
    -------
    Figure or None
        None where no accuracy is known, or the metric was not measured.
    """
    measured = [cell for cell in cells if cell.accuracy and metric in cell.metrics]
    baselines = [cell for cell in measured if cell.method in BASELINES]
    attacks = [cell for cell in measured if cell.method not in BASELINES] or baselines
    if not attacks:
        return None
    rounds = sorted({cell.server_round for cell in attacks})
    symbols = {r: SYMBOLS[place % len(SYMBOLS)] for place, r in enumerate(rounds)}
    defenses = list(dict.fromkeys(cell.defense for cell in attacks))
    traces = [
        _defense_points(_strongest(attacks, defense, metric), metric, color, symbols)
        for defense, color in zip(defenses, itertools.cycle(DEFENSE_COLORS), strict=False)
    ]
    traces += [_round_key(server_round, symbol) for server_round, symbol in symbols.items()]
    drawn = go.Figure(
        [literal(trace) for trace in traces], layout=_layout("accuracy of the federation", title)
    )
    drawn.update_layout(height=520, legend={"orientation": "v", "x": 1.02, "y": 0.94})
    if baselines and attacks is not baselines:
        highest = max(baselines, key=lambda cell: cell.metrics[metric].mean)
        drawn.add_hline(
            highest.metrics[metric].mean,
            line_dash="dot",
            line_width=1.5,
            opacity=1.0,
            line_color=GREY,
            annotation_text=f"highest baseline: {html.escape(highest.attack, quote=False)}",
            annotation_position="top left",
            annotation_font_color=GREY,
        )
    return drawn


def _strongest(cells: Sequence[Cell], defense: str, metric: str) -> list[Cell]:
    """Return a defense's cell of the largest mean in each round."""
    best: dict[int, Cell] = {}
    for cell in cells:
        known = best.get(cell.server_round)
        if cell.defense == defense and (
            known is None or cell.metrics[metric].mean > known.metrics[metric].mean
        ):
            best[cell.server_round] = cell
    return [best[server_round] for server_round in sorted(best)]


def _defense_points(
    points: Sequence[Cell], metric: str, color: str, symbols: Mapping[int, str]
) -> Any:
    intervals = [cell.metrics[metric] for cell in points]
    return go.Scatter(
        x=[cell.accuracy.mean for cell in points if cell.accuracy],
        y=[interval.mean for interval in intervals],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [_or_nothing(i.high - i.mean) for i in intervals],
            "arrayminus": [_or_nothing(i.mean - i.low) for i in intervals],
            "thickness": 1,
        },
        hovertext=[f"{c.defense}, round {c.server_round}: {attacker_of(c)}" for c in points],
        mode="lines+markers",
        line={"width": 1, "color": color},
        name=points[0].defense,
        marker={
            "size": 10,
            "color": color,
            "symbol": [symbols[cell.server_round] for cell in points],
        },
    )


def _round_key(server_round: int, symbol: str) -> Any:
    """Return a line of the legend: which symbol a round has."""
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        name=f"round {server_round}",
        marker={"size": 10, "color": GREY, "symbol": symbol},
    )


def _or_nothing(width: float) -> float:
    return 0.0 if math.isnan(width) else width


def _layout(x_title: str, y_title: str) -> dict[str, Any]:
    return {
        "template": "simple_white",
        "height": 420,
        "margin": {"l": 56, "r": 16, "t": 16, "b": 44},
        "xaxis": {"title": x_title},
        "yaxis": {"title": y_title, "automargin": True},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {"orientation": "h", "y": 1.1},
    }
