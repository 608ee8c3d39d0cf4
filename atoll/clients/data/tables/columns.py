"""Columns of a table: which are inputs, and of which kind each of them is."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atoll.clients.data.inputs.table import CategoryColumn, Column, NumberColumn, TableInputs
from atoll.clients.data.tables.cells import first_text, numbers_of, texts_of
from atoll.clients.data.tables.table_options import TableOptions
from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError

logger = logging.getLogger("atoll")

# What a category column's texts take together, at most: they are in the data set's description.
MOST_TEXT_BYTES = 64 << 20
# A column of text with this share of different values, in so many rows, is hardly a category.
MANY_DIFFERENT, MANY_ROWS = 0.5, 100


def check_names(table: pa.Table, options: TableOptions, origin: str) -> None:
    """Refuse options that name a column which there is not, or one column twice.

    Raises
    ------
    InvalidExperimentError
        With the option, the column and the nearest that there is.
    """
    names = table.column_names
    named = [("data.target", options.target)]
    if options.group is not None:
        named.append(("data.group", options.group))
    for key in ("numbers", "categories", "drop"):
        named += [(f"data.options.{key}", name) for name in getattr(options, key)]
    seen: dict[str, str] = {}
    for key, name in named:
        if name not in names:
            raise InvalidExperimentError(
                f"{key} = {name!r}: {origin} has no such column; {closest(name, names)}"
            )
        # A group may be an input, too, if it is said of which kind.
        other = seen.setdefault(name, key)
        if other != key and (other, key) not in (
            ("data.group", "data.options.numbers"),
            ("data.group", "data.options.categories"),
        ):
            raise InvalidExperimentError(
                f"{key} = {name!r}: is in {other} too; expected it in one of the two"
            )


def input_names(table: pa.Table, options: TableOptions) -> list[str]:
    """Return the columns that are inputs, in their order.

    Raises
    ------
    InvalidExperimentError
        If there is none.
    """
    kept = {*options.numbers, *options.categories}
    left_out = {options.target, *options.drop, *({options.group} - kept)}
    names = [name for name in table.column_names if name not in left_out]
    if not names:
        raise InvalidExperimentError(
            f"data.target = {options.target!r}: no column is left to predict it by; expected others"
        )
    return names


def find_inputs(
    table: pa.Table, names: Sequence[str], options: TableOptions
) -> tuple[TableInputs, NDArray[np.float64]]:
    """Return what the inputs are, and their values: shape (rows, columns).

    Raises
    ------
    InvalidExperimentError
        If a column cannot be what it is asked to be.
    """
    values = np.empty((len(table), len(names)), np.float64)
    columns: list[Column] = []
    for place, name in enumerate(names):
        column, values[:, place] = _find_column(name, table.column(name), options)
        columns.append(column)
    return TableInputs(columns=tuple(columns)), values


def _find_column(
    name: str, column: pa.ChunkedArray, options: TableOptions
) -> tuple[Column, NDArray[np.float64]]:
    if name not in options.categories:
        numbers = numbers_of(name, column)
        if numbers is not None:
            return NumberColumn(name=name, has_missing=bool(np.isnan(numbers).any())), numbers
        if name in options.numbers:
            raise InvalidExperimentError(
                f"data.options.numbers = {name!r}: has {first_text(name, column)}; expected "
                "numbers, or dates"
            )
    categories, codes = coded(texts_of(name, column))
    size = sum(len(category.encode()) for category in categories)
    if size > MOST_TEXT_BYTES:
        raise InvalidExperimentError(
            f"the column {name!r} has {len(categories)} different texts of {size >> 20} MB; "
            "expected categories (data.options.drop leaves it out)"
        )
    is_free = len(categories) - 1 > MANY_DIFFERENT * len(column) and len(column) >= MANY_ROWS
    if is_free and name not in options.categories:
        logger.warning(
            "the column %r has %d different texts in %d rows, which are hardly categories: "
            "data.options.drop = [%r] leaves it out",
            name,
            len(categories) - 1,
            len(column),
            name,
        )
    return CategoryColumn(name=name, categories=categories), codes.astype(np.float64)


def coded(texts: pa.Array) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the different texts in their order, "" first for a missing one, and their places."""
    filled = pc.fill_null(texts, "")
    different = {text for text in pc.unique(filled).to_pylist() if text}
    names = ("", *sorted(different))
    places = pc.index_in(filled, value_set=pa.array(names, pa.string()))
    return names, np.array(places.to_numpy(zero_copy_only=False), np.int64)
