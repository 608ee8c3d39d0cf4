"""The report's figures of single clients: where they stand, and one client's curves at a click."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atoll.platform.reports.figures.drawing import Curve, Curves, Figure, Group, Strips, late_range

# What clients report.
MEASURED = ("accuracy", "loss", "epsilon")
TITLES = {"accuracy": "Clients' accuracy", "loss": "Clients' loss"}
# A page with the curves of a million clients would open in no browser.
MAX_CLIENTS, MAX_VALUES, MAX_POINTS = 500, 20_000, 1_000
QUARTILES = (25, 50, 75)

Rows = list[dict[str, Any]]
OneClient = tuple[list[int], list[float]]


def last_round_figures(clients: pa.Table) -> list[tuple[str, Figure]]:
    """Return what each client came to in the last round, a point a client."""
    if not len(clients):
        return []
    number = pc.max(clients.column("round")).as_py()
    rows = clients.filter(pc.field("round") == number).to_pylist()
    made: list[tuple[str, Figure]] = []
    for measure in ("accuracy", "loss"):
        groups = [
            _group(phase, [row for row in own if row[measure] is not None], measure)
            for phase, own in sorted(_by(rows, "phase").items())
        ]
        kept = [group for group in groups if group.values]
        if kept:
            made.append((f"{TITLES[measure]} in round {number}", Strips(kept, measure)))
    return made


def _group(phase: str, rows: Rows, measure: str) -> Group:
    every = max(1, -(-len(rows) // MAX_POINTS))
    shown = rows[::every]
    name = phase if every == 1 else f"{phase} (1 in {every})"
    return Group(
        name,
        [row[measure] for row in shown],
        [str(row["node_id"]) for row in shown],
        [name_of(row) for row in shown],
    )


def curve_figures(clients: pa.Table) -> list[tuple[str, Figure]]:
    """Return the quartiles over clients as the rounds went, to which one client's curves come."""
    made: list[tuple[str, Figure]] = []
    for measure, title in TITLES.items():
        curves = [
            medians(f"{phase}, median", own, place)
            for place, (phase, own) in enumerate(phases_with(clients, measure))
        ]
        if curves:
            spans = [(curve.x, curve.low or (), curve.high or ()) for curve in curves]
            drawn = Curves(curves, measure, range=late_range(spans), member=measure)
            made.append((title, drawn))
    return made


def medians(name: str, rows: pa.Table, color: int) -> Curve:
    """Return a curve of medians over clients, with a band of the quartiles."""
    values: dict[int, list[float]] = defaultdict(list)
    for number, value in zip(
        rows.column("round").to_pylist(), rows.column("value").to_pylist(), strict=True
    ):
        values[number].append(value)
    rounds = sorted(values)
    low, median, high = np.array([np.percentile(values[n], QUARTILES) for n in rounds]).T.tolist()
    return Curve(name, rounds, median, low=low, high=high, color=color, named=True)


def clients_curves(clients: pa.Table) -> dict[str, Any] | None:
    """Return single clients' curves for the page; None where there are no clients.

    Returns
    -------
    dict or None
        ``ids`` and ``names`` of clients; ``curves`` by measure, each of a phase, with rounds and
        values by client; ``left_out``, a sentence where not all are there.
    """
    if not len(clients):
        return None
    first: dict[int, dict[str, Any]] = {}
    for row in clients.select(["node_id", "partition", "domain"]).to_pylist():
        first.setdefault(row["node_id"], row)
    order = sorted(first, key=lambda node: (first[node]["partition"] is None, _place(first[node])))
    most = max(1, MAX_VALUES * len(order) // max(1, 2 * len(clients)))
    shown = order[: min(MAX_CLIENTS, most)]
    curves: dict[str, list[dict[str, Any]]] = {}
    for measure in MEASURED:
        for phase, own in phases_with(clients, measure):
            of = _by_client(own, shown)
            curves.setdefault(measure, []).append({"name": phase, "of": of})
    left_out = ""
    if len(shown) < len(order):
        left_out = (
            f"The first {len(shown)} of {len(order)} clients can be chosen; all are in "
            "clients.parquet."
        )
    return {
        "ids": list(map(str, shown)),
        "names": [name_of(first[node]) for node in shown],
        "curves": curves,
        "left_out": left_out,
    }


def name_of(row: dict[str, Any]) -> str:
    """Return what a client is called: its partition, its node, its domain."""
    parts = [f"node {row['node_id']}"]
    if row["partition"] is not None:
        parts.insert(0, f"client {row['partition']}")
    if row["domain"] is not None:
        parts.append(str(row["domain"]))
    return f"{parts[0]} ({', '.join(parts[1:])})" if len(parts) > 1 else parts[0]


def _place(row: dict[str, Any]) -> int:
    return int(row["node_id"] if row["partition"] is None else row["partition"])


def _by(rows: Rows, key: str) -> dict[Any, Rows]:
    found: dict[Any, Rows] = defaultdict(list)
    for row in rows:
        found[row[key]].append(row)
    return dict(found)


def phases_with(clients: pa.Table, measure: str) -> Iterator[tuple[str, pa.Table]]:
    """Yield the phases in which a measure was reported, with the rows that have it."""
    known = clients.filter(pc.is_finite(clients.column(measure)))
    for phase in sorted(set(known.column("phase").to_pylist())):
        yield (
            phase,
            known.filter(pc.field("phase") == phase)
            .select(["round", "node_id", measure])
            .rename_columns(["round", "node_id", "value"]),
        )


def _by_client(rows: pa.Table, nodes: Sequence[int]) -> list[OneClient | None]:
    found: dict[int, OneClient] = {node: ([], []) for node in nodes}
    for row in rows.to_pylist():
        if row["node_id"] in found:
            rounds, values = found[row["node_id"]]
            rounds.append(row["round"])
            values.append(row["value"])
    return [found[node] if found[node][0] else None for node in nodes]
