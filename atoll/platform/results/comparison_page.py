"""The page of a comparison: curves over each other and tables, in one file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from atoll.files.atomic import write_text
from atoll.lazy import LazyModule
from atoll.platform.reports.figures import figure
from atoll.platform.results.comparison import Comparison, Section
from atoll.platform.results.groups import Series, series_of
from atoll.platform.results.plots import COLORS, readable, y_range

go = LazyModule("plotly.graph_objects")
plotly_offline = LazyModule("plotly.offline")

PAGE = "comparison.html"
PLOTLY = {"responsive": True, "displayModeBar": False}
BAND = "Lines are means over seeds; bands reach from the least to the largest."
# A legend of more takes the place of the curves.
HEIGHT, LINE_HEIGHT = 300, 19


def free_page(folder: Path) -> Path:
    """Return the first free name of a page in a folder: comparison.html, comparison-2.html, ..."""
    candidate, count = folder / PAGE, 1
    while candidate.exists():
        count += 1
        candidate = folder / f"comparison-{count}.html"
    return candidate


def write_page(comparison: Comparison, out: Path) -> None:
    """Write the page of a comparison."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("atoll.platform.reports"), autoescape=True, trim_blocks=True
    )
    page = environment.get_template("comparison.html.jinja").render(
        title=comparison.title,
        warnings=comparison.warnings,
        sections=[
            {
                "title": section.title,
                "figures": _figures(section, comparison.metrics),
                "tables": [t for t in (section.metrics, section.differences) if t.rows],
            }
            for section in comparison.sections
        ],
        band=BAND,
        plotly=plotly_offline.get_plotlyjs(),
    )
    write_text(out, page)


def _figures(section: Section, metrics: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for metric in metrics:
        series = [s for group in section.groups if (s := series_of(group, metric)) is not None]
        if series:
            drawn = _drawn(series, readable(metric))
            text = drawn.to_html(full_html=False, include_plotlyjs=False, config=PLOTLY)
            found.append((readable(metric).capitalize(), text))
    return found


def _drawn(series: Sequence[Series], y_title: str) -> Any:
    traces = []
    for number, one in enumerate(series):
        color = COLORS[number % len(COLORS)]
        rounds = one.rounds.tolist()
        if one.runs > 1:
            traces.append(
                go.Scatter(
                    x=[*rounds, *reversed(rounds)],
                    y=[*one.high.tolist(), *reversed(one.low.tolist())],
                    fill="toself",
                    fillcolor=color,
                    opacity=0.18,
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                    legendgroup=str(number),
                )
            )
        seeds = "" if one.runs == 1 else f" ({one.runs} seeds)"
        traces.append(
            go.Scatter(
                x=rounds,
                y=one.mean.tolist(),
                name=f"{one.label}{seeds}",
                mode="lines",
                line={"color": color},
                legendgroup=str(number),
            )
        )
    drawn = figure(traces, y_title)
    low, high = y_range(series)
    room = 0.06 * (high - low) or 0.01
    # Below the axes, where it covers nothing at any width.
    drawn.update_layout(
        height=HEIGHT + LINE_HEIGHT * len(series),
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": -0.22, "yanchor": "top"},
        margin={"b": 60 + LINE_HEIGHT * len(series)},
        showlegend=True,
        yaxis={"title": y_title, "range": [low - room, high + room]},
    )
    return drawn
