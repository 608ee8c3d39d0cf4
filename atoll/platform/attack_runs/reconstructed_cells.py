"""Reconstructed rows of tables and sequences of tokens beside the true ones, cell by cell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from atoll.attacks.metrics.table_cells import cells_right
from atoll.attacks.victims import Attacked
from atoll.clients.data.inputs.table import CategoryColumn, Column, TableInputs


def reconstructed_cells(attacked: Attacked) -> Iterator[dict[str, Any]]:
    """Yield a row for each cell of a victim's rows, or place of its sequences.

    It holds: round, node_id, example (its place), column (its name, or the place in the sequence),
    truth and found (as text; missing numbers and categories are empty), right (numbers within the
    tolerance), and entropy (None if the attack does not tell).
    """
    inputs = attacked.victim.capture.federation.inputs
    columns = inputs.columns if isinstance(inputs, TableInputs) else None
    truth, found, entropy = attacked.truth, attacked.examples, attacked.entropy
    right = cells_right(inputs, found, truth) if isinstance(inputs, TableInputs) else found == truth
    for example, row in enumerate(truth.tolist()):
        for place, value in enumerate(row):
            column = None if columns is None else columns[place]
            yield {
                "round": attacked.victim.capture.server_round,
                "node_id": attacked.victim.capture.node_id,
                "example": example,
                "column": str(place) if column is None else column.name,
                "truth": _text(column, value),
                "found": _text(column, found[example, place].item()),
                "right": bool(right[example, place]),
                "entropy": None if entropy is None else float(entropy[example, place]),
            }


def _text(column: Column | None, value: float) -> str:
    if column is None:
        return str(int(value))
    if isinstance(column, CategoryColumn):
        return column.categories[int(value)]
    return "" if math.isnan(value) else f"{value:.6g}"
