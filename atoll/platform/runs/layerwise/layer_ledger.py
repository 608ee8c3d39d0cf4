"""``layers.parquet``: a row for every epoch of every unit."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from atoll.platform.run_directory.ledger import ParquetTable
from atoll.platform.run_directory.run_files import LAYER_SCHEMA, LAYERS, read_table
from atoll.platform.runs.layerwise.block_job import UnitReport


class UnitTable:
    """The table of layer-wise training.

    Parameters
    ----------
    directory : Path
        The run directory.

    Attributes
    ----------
    messages : int
        The sum of its column ``messages``: calls by which a unit in training could have reached
        another worker.
    failed : dict[str, str]
        The units that have failed, with the reason.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LAYERS
        self._table = ParquetTable(self._path)
        self.messages = 0
        self.failed: dict[str, str] = {}

    def reopen(self, last_round: int) -> None:
        """Continue after an epoch; rows of later ones are dropped, and will come again."""
        self._table.truncate(last_round)
        if self._path.exists():
            columns = ["messages", "status", "layer", "reason"]
            rows = read_table(self._path, columns, needed=LAYER_SCHEMA).to_pylist()
            self.messages = sum(row["messages"] for row in rows)
            self.failed = {r["layer"]: r["reason"] for r in rows if r["status"] == "error"}

    def add(self, report: UnitReport) -> None:
        """Add a row."""
        row = {
            **{field.name: [getattr(report, field.name, None)] for field in LAYER_SCHEMA},
            "round": [report.epoch],
            "layer": [report.name],
        }
        self.messages += report.messages
        self._table.append(pa.table(row, schema=LAYER_SCHEMA))

    def flush(self) -> None:
        """Write what is buffered."""
        self._table.flush()
