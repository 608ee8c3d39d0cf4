"""Decoding of texts of the user's own: tokens, the target, groups, and the texts for test."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atoll.clients.data.domain_names import check_domain_names
from atoll.clients.data.files.cache import cache_root
from atoll.clients.data.files.dataset import Dataset, Decoded, Split, write_dataset
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.clients.data.tables.cells import texts_of
from atoll.clients.data.tables.table_decoding import (
    MOST_DOMAINS,
    find_groups,
    joined_files,
    joined_rows,
    test_mask,
)
from atoll.clients.data.tables.table_files import TableRows, read_rows, sha256_of_files
from atoll.clients.data.tables.table_options import TableOptions
from atoll.clients.data.tables.targets import find_target, has_target
from atoll.clients.data.texts.sequences import next_tokens
from atoll.clients.data.texts.text_options import TextOptions
from atoll.clients.data.texts.tokenizers import (
    CHARACTERS,
    Tokenizer,
    make_tokenizer,
    read_file,
    tokenizer_path,
)
from atoll.clients.tasks.kinds import AnyTask
from atoll.clients.tasks.next_token import NextToken
from atoll.error_messages import closest
from atoll.errors import DataUnavailableError, InvalidExperimentError
from atoll.files.atomic import appearing

logger = logging.getLogger("atoll")

# Bump to forget texts that older code has decoded otherwise.
FORMAT = 1


def load_texts(path: Path | None, options: TextOptions) -> Dataset:
    """Return texts as a data set, from the cache if their files and options are the same.

    Raises
    ------
    AtollError
        If there is no path, the files cannot be read, or an option does not fit them.
    """
    if path is None:
        raise InvalidExperimentError(
            "data.path is not set; expected a file of texts (CSV, JSON lines or Parquet), or a "
            "folder of them, for data.dataset = 'text'"
        )
    described = [str(FORMAT), options.model_dump_json(exclude={"test_path"})]
    described += [sha256_of_files(p) for p in (path, options.test_path) if p is not None]
    if options.tokenizer != CHARACTERS:
        described.append(read_file(tokenizer_path(options.tokenizer)))
    key = hashlib.sha256("\n".join(described).encode()).hexdigest()[:16]
    target = cache_root() / "datasets" / f"text-{key}"
    if not (target / "dataset.json").exists():
        test = None if options.test_path is None else read_rows(options.test_path)
        decoded = decode_texts(read_rows(path), options, test)
        with appearing(target) as folder:
            write_dataset(path.resolve().stem, decoded, folder)
    return Dataset(target)


def decode_texts(rows: TableRows, options: TextOptions, test: TableRows | None = None) -> Decoded:
    """Decode texts.

    Parameters
    ----------
    rows : TableRows
        The rows.
    options : TextOptions
        Which columns are what, and how texts become tokens.
    test : TableRows, optional
        The rows for test; by default some of the others.

    Raises
    ------
    AtollError
        If an option names no column or does not fit one, or no texts are left for training or for
        test.
    """
    _check_names(rows, options)
    table, is_test = rows.table, np.zeros(len(rows.table), np.bool_)
    files, names = rows.files, rows.file_names
    if test is not None:
        table, is_test = joined_rows(rows, test)
        files, names = joined_files(rows, test)
    usable = _is_usable(table, options, rows.origin)
    table, is_test = table.filter(pa.array(usable)), is_test[usable]
    group_names, groups = find_groups(
        table, options.group, None if files is None else files[usable], names
    )
    if test is None:
        is_test = test_mask(groups, len(table), options.test_fraction, options.seed)
    if not is_test.any() or is_test.all():
        raise DataUnavailableError(
            f"{rows.origin}: has {len(table)} texts; expected some for training and some for test"
        )
    texts = [cell.as_py() for cell in texts_of(options.text, table.column(options.text))]
    training = [text for text, own in zip(texts, is_test, strict=True) if not own]
    tokenizer = make_tokenizer(options.tokenizer, training)
    task, labels = _task_of(table, options, tokenizer)
    domains = group_names if len(group_names) <= MOST_DOMAINS else ()
    check_domain_names(domains)

    def split(chosen: NDArray[np.int64]) -> Split:
        inputs, targets, sources = _encoded(texts, labels, chosen, tokenizer, options)
        own = None if groups is None else groups[sources]
        return Split(inputs, targets, own if domains else None, own)

    return Decoded(
        task,
        split(np.flatnonzero(~is_test)),
        split(np.flatnonzero(is_test)),
        domains,
        TokenInputs(
            length=options.length, vocabulary=tokenizer.vocabulary, padding=tokenizer.padding
        ),
        tokenizer=tokenizer.to_json(),
    )


def _check_names(rows: TableRows, options: TextOptions) -> None:
    names = rows.table.column_names
    given = {
        "data.options.text": options.text,
        "data.target": options.target,
        "data.group": options.group,
    }
    for key, name in given.items():
        if name is not None and name not in names:
            raise InvalidExperimentError(
                f"{key} = {name!r}: {rows.origin} has no such column; {closest(name, names)}"
            )
    kind = rows.table.schema.field(options.text).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InvalidExperimentError(
            f"data.options.text = {options.text!r}: the column is of {kind}; expected text"
        )


def _is_usable(table: pa.Table, options: TextOptions, origin: str) -> NDArray[np.bool_]:
    """Return which rows have a text, and a target if there is to be one."""
    usable = np.array(texts_of(options.text, table.column(options.text)).is_valid(), np.bool_)
    if options.target is not None:
        usable &= has_target(table, options.target)
    if not usable.all():
        logger.warning("%s: %d rows without text or target are left out", origin, (~usable).sum())
    return usable


def _task_of(
    table: pa.Table, options: TextOptions, tokenizer: Tokenizer
) -> tuple[AnyTask, NDArray[np.generic] | None]:
    """Return the task, and each text's label; None where it is the next token."""
    if options.target is None:
        return NextToken(vocabulary=tokenizer.vocabulary, length=options.length), None
    wanted = TableOptions(target=options.target, task=options.task, loss=options.loss)
    return find_target(table, wanted)


def _encoded(
    texts: list[str],
    labels: NDArray[np.generic] | None,
    chosen: NDArray[np.int64],
    tokenizer: Tokenizer,
    options: TextOptions,
) -> tuple[NDArray[np.int32], NDArray[np.generic], NDArray[np.int64]]:
    """Return the sequences of some texts, their targets, and which text each is of."""
    if labels is not None:
        own = [texts[place] for place in chosen]
        return tokenizer.sequences(own, options.length), labels[chosen], chosen
    parts = [
        next_tokens(tokenizer.encode(texts[place]), options.length, tokenizer.padding)
        for place in chosen
    ]
    counts = [len(inputs) for inputs, _ in parts]
    return (
        np.concatenate([inputs for inputs, _ in parts]),
        np.concatenate([targets for _, targets in parts]),
        np.repeat(chosen, counts),
    )
