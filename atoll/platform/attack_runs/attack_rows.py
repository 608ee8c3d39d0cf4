"""Rows of an attack's results on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atoll.files.atomic import replacing


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as Parquet, atomically; the folder is made.

    Raises
    ------
    RunDirectoryError
        If the file cannot be written.
    """
    with replacing(path) as partial:
        pq.write_table(pa.Table.from_pylist(list(rows)), partial)
