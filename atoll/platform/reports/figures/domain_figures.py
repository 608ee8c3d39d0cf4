"""The report's figures of domains: accuracies, distances between domains, statistics' bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from atoll.platform.callbacks.metric_names import (
    SERVER,
    SERVER_ACCURACY,
    TRAIN,
    column_of,
    domain_metric,
    group_of,
    label_of,
    main_metric,
)
from atoll.platform.reports.figures.drawing import Curve, Curves, Dash, Figure, bars, late_range
from atoll.platform.reports.figures.run_figures import column

# What is measured of domains, with the measure's name in the ledger.
MEASURES = {
    "gradient_distance": "Distance of head gradients",
    "hessian_distance": "Distance of head Hessians, Frobenius",
    "hessian_spectral_distance": "Distance of head Hessians, spectral",
    "transfer": "Transfer measure",
}
ROLES: dict[str, Dash] = {"held out": "solid", "training": "dot", "probe": "dash"}


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


def domain_figures(
    rounds: pa.Table, partition: Mapping[str, Any] | None
) -> list[tuple[str, Figure]]:
    """Return the figures with their titles, those that there are data for."""
    about = partition or {}
    named = _main_name(rounds)
    made: list[tuple[str, Figure | None]] = [
        (f"{named.capitalize()} by domain", _by_domain(rounds, about))
    ]
    if about.get("held_out"):
        for measure, title in MEASURES.items():
            titled = f"{title}, against unseen-domain {named}"
            made.append((titled, _against(rounds, measure)))
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


def _main(rounds: pa.Table) -> str:
    return main_metric(rounds.column_names) or SERVER_ACCURACY


def _main_name(rounds: pa.Table) -> str:
    return label_of(group_of(_main(rounds))[1])


def _by_domain(rounds: pa.Table, partition: Mapping[str, Any]) -> Curves | None:
    curves = []
    for place, (domain, role) in enumerate(_roles(partition).items()):
        name = domain_metric(_main(rounds), domain)
        if name not in rounds.column_names:
            continue
        x, y = column(rounds, name)
        width = 3.0 if role == "held out" else 1.5
        label = f"{domain} ({role})"
        curves.append(Curve(label, x, y, dash=ROLES[role], width=width, color=place, named=True))
    if not curves:
        return None
    return Curves(curves, _main_name(rounds), range=late_range([(c.x, c.y, c.y) for c in curves]))


def _roles(partition: Mapping[str, Any]) -> dict[str, str]:
    """Return each domain's part in the run: held out, training, or evaluated only."""
    roles = {}
    for domain in partition.get("domains", ()):
        role = "training" if domain in partition.get("training_domains", ()) else "probe"
        roles[domain] = "held out" if domain in partition.get("held_out", ()) else role
    return roles


def _against(rounds: pa.Table, measure: str) -> Curves | None:
    """Return a measure's mean over domains and the main metric at the end of the same round."""
    main = _main(rounds)
    if main not in rounds.column_names:
        return None
    reached = dict(zip(*column(rounds, main), strict=True))
    curves: list[Curve] = []
    for group, label in ((SERVER, "held-out domain"), (TRAIN, "training domains, mean")):
        values = _mean_of(rounds, column_of(group, f"{measure}_"))
        at = [number for number in values if number in reached]
        if at:
            points = Curve(
                label,
                [values[number] for number in at],
                [reached[number] for number in at],
                mark="both",
                width=0.7,
                color=len(curves),
                texts=[f"{label}, round {number}" for number in at],
                named=True,
            )
            curves.append(points)
    title = MEASURES[measure]
    x_title = title[0].lower() + title[1:]
    return Curves(curves, _main_name(rounds), x_title, whole=False) if curves else None


def _mean_of(rounds: pa.Table, prefix: str) -> dict[int, float]:
    """Return by round the mean of the columns that start with ``prefix``."""
    found: dict[int, list[float]] = {}
    for name in rounds.column_names:
        if name.startswith(prefix):
            for number, value in zip(*column(rounds, name), strict=True):
                found.setdefault(number, []).append(value)
    return {number: sum(values) / len(values) for number, values in sorted(found.items())}


def _bytes(rows: Sequence[StatisticRow]) -> Curves | None:
    if not rows:
        return None
    values = {way: [getattr(row, way) for row in rows] for way in ("up", "down")}
    return bars([row.name for row in rows], values, "bytes")
