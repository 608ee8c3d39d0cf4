"""The page of a comparison: curves over each other and tables, in one file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atoll.files.atomic import write_text
from atoll.platform.reports.figures.drawing import Curve, Curves, Dash, Figure, late_range
from atoll.platform.reports.page import render
from atoll.platform.results.comparison import Comparison, Section
from atoll.platform.results.groups import Series, series_of
from atoll.platform.results.plots import readable

PAGE = "comparison.html"
BAND = "Lines are means over seeds; bands reach from the least to the largest."
HEIGHT = 280
# The page has so many colours; more curves have other dashes.
COLORS = 10
DASHES: tuple[Dash, ...] = ("solid", "dash", "dot")


def free_page(folder: Path) -> Path:
    """Return the first free name of a page in a folder: comparison.html, comparison-2.html, ..."""
    candidate, count = folder / PAGE, 1
    while candidate.exists():
        count += 1
        candidate = folder / f"comparison-{count}.html"
    return candidate


def write_page(comparison: Comparison, out: Path) -> None:
    """Write the page of a comparison."""
    figures: list[tuple[str, Figure]] = []
    sections = []
    for section in comparison.sections:
        own = _figures(section, comparison.metrics)
        sections.append(
            {
                "title": section.title,
                "figures": range(len(figures), len(figures) + len(own)),
                "tables": [t for t in (section.metrics, section.differences) if t.rows],
            }
        )
        figures += own
    page = render(
        "comparison.html.jinja",
        kind="Atoll",
        figures=figures,
        title=comparison.title,
        runs=sum(len(g.runs) for section in comparison.sections for g in section.groups),
        warnings=comparison.warnings,
        sections=sections,
        band=BAND,
    )
    write_text(out, page)


def _figures(section: Section, metrics: Sequence[str]) -> list[tuple[str, Figure]]:
    found: list[tuple[str, Figure]] = []
    for metric in metrics:
        series = [s for group in section.groups if (s := series_of(group, metric)) is not None]
        if series:
            found.append((readable(metric).capitalize(), _drawn(series, readable(metric))))
    return found


def _drawn(series: Sequence[Series], y_title: str) -> Curves:
    curves = []
    for place, one in enumerate(series):
        seeds = "" if one.runs == 1 else f" ({one.runs} seeds)"
        has_band = one.runs > 1
        curves.append(
            Curve(
                f"{one.label}{seeds}",
                one.rounds.tolist(),
                one.mean.tolist(),
                dash=DASHES[place // COLORS % len(DASHES)],
                color=place,
                low=one.low.tolist() if has_band else None,
                high=one.high.tolist() if has_band else None,
                named=True,
            )
        )
    spans = [(one.rounds.tolist(), one.low.tolist(), one.high.tolist()) for one in series]
    return Curves(curves, y_title, range=late_range(spans), height=HEIGHT)
