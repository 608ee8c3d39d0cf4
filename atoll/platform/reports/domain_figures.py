"""The report's figures of domains: accuracies, distances between domains, statistics' bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from atoll.lazy import LazyModule
from atoll.platform.callbacks.metric_names import (
    SERVER,
    SERVER_ACCURACY,
    TRAIN,
    column_of,
    domain_accuracy,
    label_of,
)
from atoll.platform.reports.figures import COLORS, column, figure

go = LazyModule("plotly.graph_objects")

# What is measured of domains, with the measure's name in the ledger.
MEASURES = {
    "gradient_distance": "Distance of head gradients",
    "hessian_distance": "Distance of head Hessians, Frobenius",
    "hessian_spectral_distance": "Distance of head Hessians, spectral",
    "transfer": "Transfer measure",
}
ROLES = {"held out": "solid", "training": "dot", "probe": "dash"}


@dataclass(frozen=True)
class StatisticRow:
    """Cost of a statistic in a run.

    Attributes
    ----------
    name : str
        The statistic.
    up, down : float
        Bytes a round, over all clients, in the mean of the rounds in which it was asked for.
    survives : str
        Whether secure aggregation of the clients' answers would do.
    """

    name: str
    up: float
    down: float
    survives: str


def domain_figures(rounds: pa.Table, partition: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    """Return the figures with their titles, those that there are data for."""
    about = partition or {}
    made = [("Accuracy by domain", _accuracies(rounds, about))]
    if about.get("held_out"):
        for measure, title in MEASURES.items():
            made.append((f"{title}, against unseen-domain accuracy", _against(rounds, measure)))
    made.append(("Bytes of statistics a round", _bytes(statistic_rows(rounds))))
    return [(title, drawn) for title, drawn in made if drawn is not None]


def statistic_rows(rounds: pa.Table) -> list[StatisticRow]:
    """Return a row a statistic that clients were asked for."""
    found: dict[str, dict[str, float]] = {}
    for name in rounds.column_names:
        match = re.fullmatch(r"train_bytes_(up|down)_(.+)", name)
        if match is not None:
            _, values = column(rounds, name)
            if values:
                found.setdefault(match[2], {})[match[1]] = sum(values) / len(values)
    survives = "unknown"
    if "train_sums_suffice" in rounds.column_names:
        _, flags = column(rounds, "train_sums_suffice")
        survives = "yes: only sums over clients are used"
        if not all(flags):
            survives = "no: single clients' answers are used"
    return [
        StatisticRow(label_of(name), ways.get("up", 0.0), ways.get("down", 0.0), survives)
        for name, ways in sorted(found.items())
    ]


def _accuracies(rounds: pa.Table, partition: Mapping[str, Any]) -> Any:
    traces = []
    for place, (domain, role) in enumerate(_roles(partition).items()):
        name = domain_accuracy(domain)
        if name not in rounds.column_names:
            continue
        x, y = column(rounds, name)
        line = {
            "dash": ROLES[role],
            "width": 3 if role == "held out" else 1.5,
            "color": COLORS[place % len(COLORS)],
        }
        traces.append(go.Scatter(x=x, y=y, name=f"{domain} ({role})", mode="lines", line=line))
    if not traces:
        return None
    drawn = figure(traces, "accuracy")
    # Domains can be many: their names go beside the plot.
    return drawn.update_layout(legend={"orientation": "v", "x": 1.02, "y": 1.0})


def _roles(partition: Mapping[str, Any]) -> dict[str, str]:
    """Return each domain's part in the run: held out, training, or evaluated only."""
    roles = {}
    for domain in partition.get("domains", ()):
        role = "training" if domain in partition.get("training_domains", ()) else "probe"
        roles[domain] = "held out" if domain in partition.get("held_out", ()) else role
    return roles


def _against(rounds: pa.Table, measure: str) -> Any:
    """Return a measure's mean over domains and the accuracy at the end of the same round."""
    if SERVER_ACCURACY not in rounds.column_names:
        return None
    accuracy = dict(zip(*column(rounds, SERVER_ACCURACY), strict=True))
    traces = []
    for group, label in ((SERVER, "held-out domain"), (TRAIN, "training domains, mean")):
        values = _mean_of(rounds, column_of(group, f"{measure}_"))
        at = [number for number in values if number in accuracy]
        if at:
            points = go.Scatter(
                x=[values[number] for number in at],
                y=[accuracy[number] for number in at],
                name=label,
                mode="lines+markers",
                line={"width": 0.7},
                text=[f"round {number}" for number in at],
            )
            traces.append(points)
    title = MEASURES[measure]
    return figure(traces, "accuracy", title[0].lower() + title[1:]) if traces else None


def _mean_of(rounds: pa.Table, prefix: str) -> dict[int, float]:
    """Return by round the mean of the columns that start with ``prefix``."""
    found: dict[int, list[float]] = {}
    for name in rounds.column_names:
        if name.startswith(prefix):
            for number, value in zip(*column(rounds, name), strict=True):
                found.setdefault(number, []).append(value)
    return {number: sum(values) / len(values) for number, values in sorted(found.items())}


def _bytes(rows: Sequence[StatisticRow]) -> Any:
    if not rows:
        return None
    names = [row.name for row in rows]
    bars = [
        go.Bar(x=names, y=[getattr(row, way) for row in rows], name=way) for way in ("up", "down")
    ]
    return figure(bars, "bytes", "statistic")
