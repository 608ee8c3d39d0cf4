"""Tables that a user's callable returns: columns of numbers and text, without an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atoll.clients.data.files.dataset import Decoded
from atoll.clients.data.tables.table_decoding import decode_table
from atoll.clients.data.tables.table_files import TableRows
from atoll.clients.data.tables.table_options import TableOptions
from atoll.clients.data.user_data.loaded_data import COLUMNS, LoadedData
from atoll.clients.tasks.classification import Classification
from atoll.errors import InvalidExperimentError

LABEL, GROUP = "label", "group"


def is_table(data: LoadedData) -> bool:
    """Tell whether the examples are rows of a table, and not images.

    They are if a target is named, or if there is no column of images and every column is of
    numbers, text, dates or truth values.
    """
    if data.target is not None:
        return True
    columns = _columns(data.train)
    if columns is None or _found("image", data, list(columns)) is not None:
        return False
    return all(map(_is_of_cells, columns.values()))


def decode_own_table(data: LoadedData, seed: int) -> Decoded:
    """Decode a table.

    Parameters
    ----------
    data : LoadedData
        What the callable returned.
    seed : int
        Decides which rows are for test, where there are no others.

    Raises
    ------
    AtollError
        If there is no target, or the columns do not fit.
    """
    rows = _rows(data.train, "the table")
    test = None if data.test is None else _rows(data.test, "the test table")
    names = rows.table.column_names
    target = data.target or _found(LABEL, data, names)
    if target is None:
        raise InvalidExperimentError(
            f"a table of {', '.join(names[:8])}; expected a column {LABEL!r}, or "
            "LoadedData(target=...) to say which one is to be predicted"
        )
    if data.domains is not None:
        raise InvalidExperimentError("domains of a table, which are its groups; expected none")
    options = TableOptions(
        target=target,
        group=data.group or _found(GROUP, data, names),
        categories=tuple(data.categories),
        loss=data.loss,
        seed=seed,
    )
    return _with_names(decode_table(rows, options, test), data.classes)


def _with_names(decoded: Decoded, names: Sequence[str] | None) -> Decoded:
    """Return the data set with names for the classes 0, 1, ..."""
    if names is None:
        return decoded
    task = decoded.task
    numbers = tuple(map(str, range(len(names))))
    if not isinstance(task, Classification) or task.classes != numbers:
        found = ", ".join(task.classes[:4]) if isinstance(task, Classification) else "numbers"
        raise InvalidExperimentError(
            f"{len(names)} names of classes, for a target of {found}; expected the numbers 0 to "
            f"{len(names) - 1}, each in some row"
        )
    named = Classification(classes=tuple(map(str, names)))
    return Decoded(named, decoded.train, decoded.test, decoded.domains, decoded.inputs)


def _rows(source: Any, origin: str) -> TableRows:
    columns = _columns(source)
    if columns is None:
        raise InvalidExperimentError(
            f"a {type(source).__name__} with a target; expected a table, a mapping of columns or "
            "(features, labels) arrays"
        )
    try:
        table = pa.table(columns)
    except (pa.ArrowException, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InvalidExperimentError(f"columns that are no table ({reason})") from error
    if not len(table):
        raise InvalidExperimentError("no rows; expected some")
    return TableRows(table, origin)


def _columns(source: Any) -> dict[str, Any] | None:
    """Return the columns of what is a table, by name; None of anything else."""
    if hasattr(source, "__arrow_c_stream__") and not hasattr(source, "select_columns"):
        table = pa.table(source)
        return {name: table.column(name) for name in table.column_names}
    if isinstance(source, tuple | list):
        if len(source) != 2 or np.ndim(source[0]) != 2:
            return None
        source = {"x": source[0], LABEL: source[1]}
    if not isinstance(source, Mapping):
        return None
    columns: dict[str, Any] = {}
    for name, values in source.items():
        array = values if isinstance(values, pa.Array | pa.ChunkedArray) else _array(values)
        if isinstance(array, np.ndarray) and array.ndim == 2 and array.dtype.kind in "fiub":
            columns |= {f"{name}{place}": array[:, place] for place in range(array.shape[1])}
        else:
            columns[str(name)] = array
    return columns


def _array(values: Any) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError:
        # Of different lengths: images, say.
        return np.empty((0, 0, 0))


def _is_of_cells(values: Any) -> bool:
    if isinstance(values, np.ndarray):
        return values.ndim == 1 and values.dtype.kind in "fiubUOMm"
    kind = values.type
    return not (
        pa.types.is_nested(kind) or pa.types.is_binary(kind) or isinstance(kind, pa.ExtensionType)
    )


def _found(column: str, data: LoadedData, names: Sequence[str]) -> str | None:
    own = data.columns.get(column)
    return own or next((name for name in COLUMNS[column] if name in names), None)
