"""The report's figure and table of clients' own models, beside the global one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atoll.platform.callbacks.worst_tenth import worst_tenth
from atoll.platform.reports.figures.client_figures import MAX_POINTS, name_of
from atoll.platform.reports.figures.drawing import Figure, Group, Strips

# In the order in which one of them is taken, with the sign that makes larger better.
MEASURES = (("accuracy", 1.0), ("loss", -1.0))


def personal_figures(clients: pa.Table) -> list[tuple[str, Figure]]:
    """Return what each client's own model and the global one came to, and the gain."""
    found = _last(clients)
    if found is None:
        return []
    measure, sign, rows = found
    number = rows[0]["round"]
    shown = rows[:: max(1, -(-len(rows) // MAX_POINTS))]
    shared = [row[measure] for row in shown]
    own = [row[f"personal_{measure}"] for row in shown]
    gain = [sign * (b - a) for a, b in zip(shared, own, strict=True)]
    ids, names = [str(row["node_id"]) for row in shown], [name_of(row) for row in shown]
    both = [Group("global model", shared, ids, names), Group("own model", own, ids, names)]
    return [
        (f"Clients' own models in round {number}", Strips(both, measure)),
        (
            f"Gain over the global model in round {number}",
            Strips([Group("clients", gain, ids, names)], f"gain in {measure}"),
        ),
    ]


def personal_rows(clients: pa.Table) -> list[list[str]]:
    """Return rows of a table: mean, worst tenth, and the share of clients that gain."""
    found = _last(clients)
    if found is None:
        return []
    measure, sign, rows = found
    shared = np.array([row[measure] for row in rows])
    own = np.array([row[f"personal_{measure}"] for row in rows])
    gain = sign * (own - shared)
    pairs = [
        (f"{measure}, mean over {len(rows)} clients", shared.mean(), own.mean(), gain.mean()),
        (
            f"{measure}, worst tenth of them",
            *(low := (worst_tenth(shared, sign), worst_tenth(own, sign))),
            sign * (low[1] - low[0]),
        ),
    ]
    table = [[name, *(f"{value:.4f}" for value in values)] for name, *values in pairs]
    return [*table, ["clients whose own model is better", "", "", f"{(gain > 0).mean():.1%}"]]


def _last(clients: pa.Table) -> tuple[str, float, list[dict[str, Any]]] | None:
    """Return the rows of the last round in which clients evaluated models of their own."""
    for measure, sign in MEASURES:
        known = clients.filter(
            pc.and_(
                pc.is_finite(clients.column(measure)),
                pc.is_finite(clients.column(f"personal_{measure}")),
            )
        )
        if len(known):
            last = pc.max(known.column("round")).as_py()
            return measure, sign, known.filter(pc.field("round") == last).to_pylist()
    return None
