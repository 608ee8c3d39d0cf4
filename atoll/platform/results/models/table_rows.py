"""Rows as a user has them, as a table's stored rows: numbers, and places of categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atoll.clients.data.inputs.table import CategoryColumn, NumberColumn, TableInputs
from atoll.clients.data.tables.cells import first_text, numbers_of, texts_of
from atoll.error_messages import closest
from atoll.errors import DataUnavailableError

# The place of a category that the run's data set does not have.
UNSEEN = -1.0


def stored_rows(examples: Any, inputs: TableInputs) -> NDArray[np.float64]:
    """Return rows with named columns as they are stored: float64, shape (n, columns).

    Parameters
    ----------
    examples : Arrow or pandas table, list of dicts, dict or dict of lists
        Values as in the user's file. Columns that the model does not need are passed over.
    inputs : TableInputs
        The columns.

    Raises
    ------
    DataUnavailableError
        If a column is missing, or is of another type.
    """
    columns = _columns_of(examples, [column.name for column in inputs.columns])
    values = [_stored(column, columns[column.name]) for column in inputs.columns]
    if len({len(one) for one in values}) > 1:
        raise DataUnavailableError("examples have columns of several lengths; expected one length")
    return np.stack(values, 1)


def _columns_of(examples: Any, names: list[str]) -> dict[str, pa.Array]:
    """Return the columns by name."""
    if isinstance(examples, Mapping):
        is_one = not any(isinstance(v, Sequence | np.ndarray) and not isinstance(v, str)
                         for v in examples.values())  # fmt: skip
        examples = (
            [examples]
            if is_one
            else pa.table({name: _array(name, values) for name, values in examples.items()})
        )
    if isinstance(examples, list | tuple) and all(isinstance(row, Mapping) for row in examples):
        for place, row in enumerate(examples, 1):
            _check_names(list(row), names, f"row {place} of the examples")
        return {name: _array(name, [row[name] for row in examples]) for name in names}
    try:
        table = examples if isinstance(examples, pa.Table) else pa.table(examples)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise DataUnavailableError(
            f"examples are of type {type(examples).__name__}, which is no table "
            f"({' '.join(str(error).split())}); expected an Arrow or pandas table, a list of "
            "dicts, or stored rows as a tensor"
        ) from error
    _check_names(table.column_names, names, "the examples")
    return {name: table.column(name) for name in names}


def _array(name: str, values: Any) -> pa.Array:
    try:
        return pa.array(values)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise DataUnavailableError(
            f"the column {name!r}: {' '.join(str(error).split())}; expected values of one type"
        ) from error


def _check_names(found: list[str], names: list[str], where: str) -> None:
    for name in names:
        if name not in found:
            raise DataUnavailableError(
                f"{where}: has no column {name!r}, which the model needs (None is a missing "
                f"value); {closest(name, found)}"
            )
        if found.count(name) > 1:
            raise DataUnavailableError(f"{where}: has the column {name!r} twice; expected it once")


def _stored(column: NumberColumn | CategoryColumn, cells: Any) -> NDArray[np.float64]:
    if pa.types.is_nested(cells.type):
        raise DataUnavailableError(
            f"the column {column.name!r} is of {cells.type}; expected {column.kind} cells"
        )
    if isinstance(column, CategoryColumn):
        return _places(column, cells)
    numbers = numbers_of(column.name, cells)
    if numbers is None:
        raise DataUnavailableError(
            f"the column {column.name!r} has {first_text(column.name, cells)}; expected numbers, "
            "or dates"
        )
    return numbers


def _places(column: CategoryColumn, cells: Any) -> NDArray[np.float64]:
    """Return the categories' places; a file's text "1" is the number 1 and "True" is true."""
    texts, categories = pc.fill_null(texts_of(column.name, cells), ""), list(column.categories)
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        same: dict[str, str] = {}
        for category in categories:
            same.setdefault(_canonical(category), category)
        texts = pa.array([same.get(_canonical(t), t) for t in texts.to_pylist()], pa.string())
    found = pc.index_in(texts, value_set=pa.array(categories, pa.string()))
    places = pc.fill_null(pc.cast(found, pa.float64()), UNSEEN)
    return np.array(places.to_numpy(zero_copy_only=False), np.float64)


def _canonical(text: str) -> str:
    try:
        return repr(float(text))
    except ValueError:
        return text.casefold()
