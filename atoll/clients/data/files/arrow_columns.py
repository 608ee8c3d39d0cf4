"""Columns of examples in Arrow IPC files: written at once, read as views of the mapped file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atoll.errors import DataUnavailableError


def write_columns(path: Path, columns: Mapping[str, NDArray[Any] | None]) -> None:
    """Write arrays with a row for each example, as a file of one batch.

    Parameters
    ----------
    path : Path
        The file.
    columns : Mapping[str, NDArray]
        Shapes (n, ...); those that are None are left out.
    """
    given = {name: _rows(values) for name, values in columns.items() if values is not None}
    batch = pa.record_batch(given)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def map_columns(path: Path) -> pa.RecordBatch:
    """Return the columns of a file, memory-mapped.

    Raises
    ------
    DataUnavailableError
        If it cannot be read.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (OSError, pa.ArrowException) as error:
        raise DataUnavailableError(f"{path}: cannot be read ({error})") from error


def numbers_of(column: pa.Array, kind: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a column's numbers, shape (n, *shape), without a copy.

    Parameters
    ----------
    column : Array
        Of :func:`map_columns`.
    kind : type
        Their dtype.
    shape : tuple[int, ...]
        Of one example.
    """
    # pa.Array.to_numpy would import pandas, in every worker too.
    values = column.values if isinstance(column, pa.FixedSizeListArray) else column
    found = np.frombuffer(values.buffers()[1], kind)
    return found[: len(column) * math.prod(shape)].reshape(-1, *shape)


def _rows(values: NDArray[Any]) -> pa.Array:
    """Return an array with a row for each example: bytes of images, lists of other numbers."""
    values = np.ascontiguousarray(values)
    if values.ndim == 1:
        return pa.array(values)
    size = math.prod(values.shape[1:])
    if values.dtype == np.uint8:
        buffers = [None, pa.py_buffer(values)]
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(values), buffers)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), size)
