"""Target of a table: which task it makes, and the labels."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atoll.clients.data.tables.cells import (
    first_text,
    is_whole,
    numbers_of,
    text_of_number,
    texts_of,
)
from atoll.clients.data.tables.columns import coded
from atoll.clients.data.tables.table_options import TableOptions
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.kinds import AnyTask
from atoll.clients.tasks.regression import Regression
from atoll.error_messages import short
from atoll.errors import InvalidExperimentError

# Whole numbers with more different values than this are no classes, unless it is said.
MOST_CLASSES_OF_NUMBERS = 20
# Classes are outputs of a model.
MOST_CLASSES = 100_000
# Labels are float32.
LARGEST = 1e30


def has_target(table: pa.Table, target: str) -> NDArray[np.bool_]:
    """Return which rows have a target."""
    column = table.column(target)
    numbers = numbers_of(target, column)
    if numbers is not None:
        return ~np.isnan(numbers)
    is_there: NDArray[np.bool_] = np.array(texts_of(target, column).is_valid(), np.bool_)
    return is_there


def find_target(table: pa.Table, options: TableOptions) -> tuple[AnyTask, NDArray[np.generic]]:
    """Return the task, and the label of each row; every row has one.

    Raises
    ------
    InvalidExperimentError
        If the target is of one class, is text and asked to be a number, or does not fit the loss.
    """
    name = options.target
    column = table.column(name)
    numbers = numbers_of(name, column)
    if _is_regression(numbers, options):
        if numbers is None:
            key = "task" if options.task == "regression" else "loss"
            raise InvalidExperimentError(
                f"data.options.{key} = {getattr(options, key)!r}: data.target = {name!r} has "
                f"{first_text(name, column)}; expected numbers"
            )
        return _regression(numbers, options)
    if options.loss is not None:
        raise InvalidExperimentError(
            f"data.options.loss = {options.loss!r}: is of a regression; expected none with "
            "data.options.task = 'classification'"
        )
    return _classification(numbers, column, name)


def _is_regression(numbers: NDArray[np.float64] | None, options: TableOptions) -> bool:
    if options.task != "auto" or options.loss is not None:
        return options.task != "classification"
    if numbers is None:
        return False
    return not is_whole(numbers) or len(np.unique(numbers)) > MOST_CLASSES_OF_NUMBERS


def _regression(
    numbers: NDArray[np.float64], options: TableOptions
) -> tuple[Regression, NDArray[np.float32]]:
    loss = options.loss or "squared"
    wrong = np.abs(numbers) > LARGEST
    expected = f"numbers up to {LARGEST:g}"
    if loss == "poisson":
        wrong |= numbers < 0
        expected = "counts, which are not negative"
    if wrong.any():
        row = int(wrong.argmax())
        raise InvalidExperimentError(
            f"data.target = {options.target!r}: has {numbers[row]:g} (row {row + 1}); expected "
            f"{expected}"
        )
    return Regression(loss=loss), numbers.astype(np.float32)


def _classification(
    numbers: NDArray[np.float64] | None, column: pa.ChunkedArray, name: str
) -> tuple[Classification, NDArray[np.int64]]:
    if numbers is not None:
        values, labels = np.unique(numbers, return_inverse=True)
        classes = tuple(map(text_of_number, values.tolist()))
        labels = labels.astype(np.int64)
    else:
        names, places = coded(texts_of(name, column))
        classes, labels = names[1:], places - 1
    if len(classes) < 2:
        raise InvalidExperimentError(
            f"data.target = {name!r}: every row has {short(classes[0])}; expected at least two "
            "classes"
        )
    if len(classes) > MOST_CLASSES:
        raise InvalidExperimentError(
            f"data.target = {name!r}: has {len(classes)} classes; expected at most {MOST_CLASSES}"
        )
    check_printable(classes, f"data.target = {name!r}")
    return Classification(classes=classes), labels


def check_printable(names: tuple[str, ...], key: str) -> None:
    """Refuse names that cannot be shown in a line: of classes and groups."""
    for name in names:
        if not name.isprintable():
            raise InvalidExperimentError(
                f"{key}: has {short(name)}; expected text without control characters"
            )
