"""Cells of a column: as text, as numbers, as days."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atoll.error_messages import short
from atoll.errors import InvalidExperimentError

# Cells that stand for a missing value, in any case.
MISSING = ("", "?", "na", "n/a", "nan", "null")
# Formats of dates beside ISO 8601.
DATE_FORMATS = ("%Y/%m/%d", "%d.%m.%Y")
MICROSECONDS_A_DAY = 86_400 * 10**6
# Squares of larger numbers do not add up in float64.
LARGEST = 1e100


def texts_of(name: str, column: pa.ChunkedArray) -> pa.Array:
    """Return a column's cells as text without blanks around it, null where a value is missing.

    Raises
    ------
    InvalidExperimentError
        If its cells are lists, bytes or the like.
    """
    cells = _flat(name, column)
    if pa.types.is_boolean(cells.type):
        cells = pc.if_else(cells, "true", "false")
    if pa.types.is_floating(cells.type):
        cells = pc.if_else(pc.is_nan(cells), pa.scalar(None, cells.type), cells)
    try:
        texts = pc.utf8_trim_whitespace(pc.cast(cells, pa.string()))
    except pa.ArrowException as error:
        raise InvalidExperimentError(
            f"the column {name!r} is of {column.type}; expected numbers, text, dates or true and "
            "false (data.options.drop leaves it out)"
        ) from error
    is_missing = pc.is_in(pc.utf8_lower(texts), value_set=pa.array(MISSING))
    return pc.if_else(is_missing, pa.scalar(None, pa.string()), texts)


def numbers_of(name: str, column: pa.ChunkedArray) -> NDArray[np.float64] | None:
    """Return a column's cells as numbers, NaN where one is missing; None if one is no number.

    Dates and times are days since 1970.

    Raises
    ------
    InvalidExperimentError
        If a number is too large to be added up.
    """
    cells = _flat(name, column)
    kind = cells.type
    if pa.types.is_boolean(kind) or pa.types.is_nested(kind):
        return None
    if pa.types.is_temporal(kind):
        return _days(cells)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _checked(name, _filled(pc.cast(cells, pa.float64(), safe=False)))
    texts = texts_of(name, column)
    try:
        return _checked(name, _filled(pc.cast(texts, pa.float64())))
    except pa.ArrowInvalid:
        return _days_of_texts(texts)


def first_text(name: str, column: pa.ChunkedArray) -> str:
    """Return the first cell that is no number, and its row, for an error."""
    for row, text in enumerate(texts_of(name, column).to_pylist(), 1):
        try:
            float(text or 0)
        except ValueError:
            return f"{short(text)} (row {row})"
    return f"a column of {column.type}"


def _flat(name: str, column: pa.ChunkedArray) -> pa.Array:
    """Return a column in one piece, dictionaries decoded."""
    cells = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(cells, pa.ChunkedArray):
        cells = pa.concat_arrays(cells.chunks) if cells.chunks else pa.array([], cells.type)
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    return pc.cast(cells, pa.string()) if pa.types.is_null(cells.type) else cells


def _filled(cells: pa.Array) -> NDArray[np.float64]:
    values: NDArray[np.float64] = np.array(cells.to_numpy(zero_copy_only=False), np.float64)
    return values


def _checked(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers with infinite ones as missing, if none is too large."""
    values[np.isinf(values)] = np.nan
    is_large = np.abs(values) > LARGEST
    if is_large.any():
        row = int(is_large.argmax())
        raise InvalidExperimentError(
            f"the column {name!r} has {values[row]:g} (row {row + 1}); expected numbers up to "
            f"{LARGEST:g}"
        )
    return values


def _days(cells: pa.Array) -> NDArray[np.float64]:
    kind = cells.type
    if pa.types.is_date(kind):
        cells = pc.cast(cells, pa.timestamp("s"))
    unit = getattr(cells.type, "unit", "ms")
    a_day = {"s": 86_400, "ms": 86_400_000, "us": MICROSECONDS_A_DAY}.get(
        unit, 1_000 * MICROSECONDS_A_DAY
    )
    size = pa.int32() if cells.type.bit_width == 32 else pa.int64()
    return _filled(pc.cast(pc.cast(cells, size), pa.float64(), safe=False)) / a_day


def _days_of_texts(texts: pa.Array) -> NDArray[np.float64] | None:
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return _days(pc.cast(texts, kind))
        except pa.ArrowInvalid:
            continue
    for date_format in DATE_FORMATS:
        found = pc.strptime(texts, format=date_format, unit="s", error_is_null=True)
        if found.null_count == texts.null_count:
            return _days(found)
    return None


def is_whole(values: NDArray[np.float64]) -> bool:
    """Tell whether all numbers that are there are whole."""
    there = values[~np.isnan(values)]
    return bool((there == np.rint(there)).all())


def text_of_number(value: float) -> str:
    """Return a number as a class's name: without a fraction where it is whole."""
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)
