"""Decoding of a table: columns' kinds, the target, groups, and the rows for test."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atoll.clients.data.domain_names import check_domain_names
from atoll.clients.data.files.dataset import Decoded, Split
from atoll.clients.data.inputs.table import CategoryColumn, NumberColumn, TableInputs
from atoll.clients.data.tables.cells import texts_of
from atoll.clients.data.tables.columns import check_names, coded, find_inputs, input_names
from atoll.clients.data.tables.table_files import TableRows
from atoll.clients.data.tables.table_options import TableOptions
from atoll.clients.data.tables.targets import check_printable, find_target, has_target
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.kinds import AnyTask
from atoll.errors import DataUnavailableError, InvalidExperimentError
from atoll.randomness import derive_seed

logger = logging.getLogger("atoll")

# Of more groups none is a domain of its own.
MOST_DOMAINS = 50
# Columns that a message names.
SHOWN = 8
# What a group is called that a row does not say.
NO_GROUP = "missing"


def decode_table(rows: TableRows, options: TableOptions, test: TableRows | None = None) -> Decoded:
    """Decode a table.

    Parameters
    ----------
    rows : TableRows
        The rows.
    options : TableOptions
        What is predicted, and what columns are.
    test : TableRows, optional
        The rows for test; by default some of the others.

    Raises
    ------
    AtollError
        If an option names no column or does not fit one, the target cannot be predicted, or no
        rows are left for training or for test.
    """
    check_names(rows.table, options, rows.origin)
    table, is_test = rows.table, np.zeros(len(rows.table), np.bool_)
    files, file_names = rows.files, rows.file_names
    if test is not None:
        table, is_test = joined_rows(rows, test)
        files, file_names = joined_files(rows, test)
    names = input_names(table, options)
    has_label = has_target(table, options.target)
    if not has_label.any():
        raise InvalidExperimentError(
            f"data.target = {options.target!r}: no row of {rows.origin} has it; expected some"
        )
    if not has_label.all():
        logger.warning(
            "%s: %d rows without the target %r are left out",
            rows.origin,
            int((~has_label).sum()),
            options.target,
        )
        table, is_test = table.filter(pa.array(has_label)), is_test[has_label]
        files = None if files is None else files[has_label]
    task, labels = find_target(table, options)
    inputs, values = find_inputs(table, names, options)
    group_names, groups = find_groups(table, options.group, files, file_names)
    if test is None:
        is_test = test_mask(groups, len(table), options.test_fraction, options.seed)
    _check_sides(is_test, rows.origin, test)
    domains = group_names if len(group_names) <= MOST_DOMAINS else ()
    check_domain_names(domains)

    def split(mask: NDArray[np.bool_]) -> Split:
        own = None if groups is None else groups[mask]
        return Split(values[mask], labels[mask], own if domains else None, own)

    logger.info("%s: %s", rows.origin, _summary(inputs, task, options, len(group_names)))
    return Decoded(task, split(~is_test), split(is_test), domains, inputs)


def test_mask(
    groups: NDArray[np.int64] | None, rows: int, fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Return which rows are for test: a share of each group, drawn at random."""
    is_test = np.zeros(rows, np.bool_)
    strata = np.zeros(rows, np.int64) if groups is None else groups
    order = np.argsort(strata, kind="stable")
    starts = np.flatnonzero(np.diff(strata[order], prepend=-1))
    for own in np.split(order, starts[1:]):
        generator = np.random.default_rng(derive_seed(seed, "test rows", int(strata[own[0]])))
        is_test[generator.permutation(own)[: round(fraction * len(own))]] = True
    if not is_test.any() and rows > 1:
        # Every group is smaller than a test row's share of it.
        generator = np.random.default_rng(derive_seed(seed, "test rows"))
        is_test[generator.permutation(rows)[: max(1, round(fraction * rows))]] = True
    if is_test.all() and rows > 1:
        is_test[0] = False
    return is_test


def _check_sides(is_test: NDArray[np.bool_], origin: str, test: TableRows | None) -> None:
    if is_test.any() and not is_test.all():
        return
    if test is None:
        raise DataUnavailableError(
            f"{origin}: has {len(is_test)} row with a target; expected at least two, one of them "
            "for test"
        )
    where = origin if is_test.all() else test.origin
    raise DataUnavailableError(f"{where}: has no row with a target; expected some")


def joined_rows(rows: TableRows, test: TableRows) -> tuple[pa.Table, NDArray[np.bool_]]:
    """Return all rows in one table, and which of them are for test."""
    names = rows.table.column_names
    missing = [name for name in names if name not in test.table.column_names]
    if missing:
        raise DataUnavailableError(
            f"{test.origin}: has no column {missing[0]!r}, which {rows.origin} has; expected it"
        )
    try:
        table = pa.concat_tables(
            [rows.table, test.table.select(names)], promote_options="permissive"
        )
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        raise DataUnavailableError(
            f"{test.origin}: differs from {rows.origin} ({reason})"
        ) from error
    return table, np.arange(len(table)) >= len(rows.table)


def joined_files(
    rows: TableRows, test: TableRows
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Return the files of all rows; those of the same name are one, in training and for test."""
    if rows.files is None or test.files is None:
        return None, ()
    names = tuple(dict.fromkeys([*rows.file_names, *test.file_names]))
    places = np.array([names.index(name) for name in test.file_names], np.int64)
    return np.concatenate([rows.files, places[test.files]]), names


def find_groups(
    table: pa.Table,
    group: str | None,
    files: NDArray[np.int64] | None,
    file_names: tuple[str, ...],
) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """Return the groups' names, and each row's."""
    if group is None:
        if files is None:
            return (), None
        present, groups = np.unique(files, return_inverse=True)
        return tuple(file_names[place] for place in present), groups.astype(np.int64)
    names, places = coded(texts_of(group, table.column(group)))
    present, groups = np.unique(places, return_inverse=True)
    found = tuple(names[place] or NO_GROUP for place in present)
    if len(set(found)) < len(found):
        raise InvalidExperimentError(
            f"data.group = {group!r}: some rows have none, and some {NO_GROUP!r}; expected "
            "another name for one of them"
        )
    check_printable(found, f"data.group = {group!r}")
    return found, groups.astype(np.int64)


def _summary(inputs: TableInputs, task: AnyTask, options: TableOptions, groups: int) -> str:
    """Return what was found, in a line."""
    what = (
        f"a classification into {len(task.classes)} classes"
        if isinstance(task, Classification)
        else f"a regression ({getattr(task, 'loss', '')} loss)"
    )
    parts = [f"{options.target!r} is {what}"]
    for kind, word in ((NumberColumn, "numbers"), (CategoryColumn, "categories")):
        names = [column.name for column in inputs.columns if isinstance(column, kind)]
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            parts.append(f"{word} {', '.join(names[:SHOWN])}{more}")
    if groups:
        parts.append(f"{groups} groups")
    return "; ".join(parts)
