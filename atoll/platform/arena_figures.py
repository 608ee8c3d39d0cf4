"""The figures of an arena's report, made from its cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atoll.attacks.arena.summary import Cell
from atoll.platform.figures import COLORS

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")


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
    import plotly.graph_objects as go

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
    return go.Figure([heat], layout=layout)


def frontier(cells: Sequence[Cell]) -> Any:
    """Return accuracy against leakage: a point a defense, that of its strongest attacker.

    Parameters
    ----------
    cells : Sequence[Cell]
        Of one setting; a colour a round.

    Returns
    -------
    Figure or None
        None where no accuracy is known.
    """
    import plotly.graph_objects as go

    traces = []
    for place, server_round in enumerate(dict.fromkeys(cell.server_round for cell in cells)):
        points = [strongest for strongest in _strongest(cells, server_round) if strongest.accuracy]
        if not points:
            continue
        color = COLORS[place % len(COLORS)]
        traces.append(
            go.Scatter(
                x=[cell.accuracy.mean for cell in points if cell.accuracy],
                y=[cell.metrics["psnr"].mean for cell in points],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [_width(c, upper=True) for c in points],
                    "arrayminus": [_width(c, upper=False) for c in points],
                    "thickness": 1,
                },
                text=[cell.defense for cell in points],
                hovertext=[f"{cell.defense}: {attacker_of(cell)}" for cell in points],
                mode="markers+text",
                textposition="top center",
                name=f"round {server_round}",
                marker={"size": 9, "color": color, "symbol": SYMBOLS[place % len(SYMBOLS)]},
            )
        )
    if not traces:
        return None
    return go.Figure(
        traces,
        layout=_layout("accuracy of the federation", "PSNR of the strongest attack (dB)"),
    )


def _strongest(cells: Sequence[Cell], server_round: int) -> list[Cell]:
    """Return each defense's cell of the largest mean PSNR in a round."""
    best: dict[str, Cell] = {}
    for cell in cells:
        if cell.server_round != server_round or "psnr" not in cell.metrics:
            continue
        known = best.get(cell.defense)
        if known is None or cell.metrics["psnr"].mean > known.metrics["psnr"].mean:
            best[cell.defense] = cell
    return list(best.values())


def _width(cell: Cell, *, upper: bool) -> float:
    interval = cell.metrics["psnr"]
    width = interval.high - interval.mean if upper else interval.mean - interval.low
    return width if width == width else 0.0


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
