"""The table of an arena: a row for each attack on the victims of a defense."""

from __future__ import annotations

from collections.abc import Sequence

from atoll.attacks.arena.arena_summary import Cell
from atoll.attacks.arena.paired_tests import Interval
from atoll.attacks.metrics.kinds import DIGITS
from atoll.platform.reports.figures.arena_figures import attacker_of
from atoll.platform.reports.tables import Cell as Shown
from atoll.platform.reports.tables import Estimate, Table


def table_of_cells(cells: Sequence[Cell]) -> Table:
    """Return cells as a table, with the metrics that were measured."""
    measured = [name for name in DIGITS if any(name in cell.metrics for cell in cells)]
    header = ["setting", "round", "attack", "defense", *measured, "accuracy", "victims", "images"]
    rows: list[list[Shown]] = [
        [
            cell.setting,
            cell.server_round,
            attacker_of(cell),
            cell.defense,
            *(_shown(cell.metrics.get(name), DIGITS[name]) for name in measured),
            _shown(cell.accuracy, 4),
            max((interval.count for interval in cell.metrics.values()), default=0),
            cell.images,
        ]
        for cell in cells
    ]
    unit = "; psnr in dB" if "psnr" in measured else ""
    return Table(
        "attacks", header, rows, f"means over victims with bootstrap intervals at 95 %{unit}"
    )


def _shown(interval: Interval | None, digits: int) -> Estimate | None:
    if interval is None:
        return None
    return Estimate(
        interval.mean, interval.count, low=interval.low, high=interval.high, digits=digits
    )
