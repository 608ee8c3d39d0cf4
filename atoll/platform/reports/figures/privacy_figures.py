"""The report's figures of the privacy that was spent: under the server's noise, and by clients."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atoll.platform.callbacks.metric_names import EPSILON_SPENT
from atoll.platform.reports.figures.client_figures import medians, phases_with
from atoll.platform.reports.figures.drawing import Curve, Curves, Figure, Level

CENTRAL, BY_CLIENTS = "Privacy spent", "Privacy spent by clients"


def privacy_figures(
    rounds: pa.Table, clients: pa.Table, privacy: Mapping[str, Any]
) -> list[tuple[str, Figure]]:
    """Return the epsilon that was spent as the rounds went, where any was.

    Parameters
    ----------
    rounds, clients : Table
        ``rounds.parquet`` and ``clients.parquet``.
    privacy : Mapping
        The run's ``[privacy]``; empty without one.
    """
    budget = _budget(privacy)
    made: list[tuple[str, Figure]] = []
    if EPSILON_SPENT in rounds.column_names:
        spent = rounds.filter(pc.field(EPSILON_SPENT).is_valid())
        numbers, values = (spent.column(n).to_pylist() for n in ("round", EPSILON_SPENT))
        made.append((CENTRAL, Curves([Curve("spent", numbers, values)], "epsilon", level=budget)))
    for phase, own in phases_with(clients, "epsilon"):
        largest = own.group_by("round").aggregate([("value", "max")]).sort_by("round")
        so_far = list(accumulate(largest.column("value_max").to_pylist(), max))
        curves = [
            Curve("largest of any client so far", largest.column("round").to_pylist(), so_far),
            medians("median over the round's clients", own, 1),
        ]
        title = BY_CLIENTS if phase == "train" else f"{BY_CLIENTS}, {phase}"
        made.append((title, Curves(curves, "epsilon", member="epsilon", level=budget)))
    return made


def _budget(privacy: Mapping[str, Any]) -> Level | None:
    epsilon = privacy.get("epsilon")
    return Level("budget", float(epsilon)) if isinstance(epsilon, int | float) else None
