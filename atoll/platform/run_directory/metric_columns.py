"""Columns of a run's metrics: a name may hold a number in one round and a list in another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# What the name of a column of lists ends with, where the name alone is one of numbers.
AS_LIST = " (list)"


class MetricColumns:
    """Gives each column of a growing table one kind: that of its first value.

    In a column of lists a number is a list of one. A list in a column of numbers goes to another
    column.

    Parameters
    ----------
    path : Path
        The table, which may have rows of earlier rounds.
    """

    def __init__(self, path: Path) -> None:
        self._is_list: dict[str, bool] = {}
        if path.exists():
            self._is_list = {f.name: pa.types.is_list(f.type) for f in pq.read_schema(path)}

    def fitted(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row whose values fit their columns."""
        fitted: dict[str, Any] = {}
        for name, value in row.items():
            is_list = isinstance(value, list)
            known = is_list if value is None else self._is_list.setdefault(name, is_list)
            if known == is_list:
                fitted[name] = value
            elif known:
                fitted[name] = [value]
            else:
                self._is_list[f"{name}{AS_LIST}"] = True
                fitted[f"{name}{AS_LIST}"] = value
        return fitted
