"""Files of a table: CSV, Parquet or JSON lines, one file or a folder of them.

A CSV file's cells are read as text: what they are is decided later, by whole columns.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pa_parquet
from numpy.typing import NDArray

from atoll.errors import DataUnavailableError
from atoll.files.manifests import sha256_of_file

logger = logging.getLogger("atoll")

CSV_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
PARQUET_SUFFIXES = (".parquet", ".pq")
JSON_SUFFIXES = (".jsonl", ".ndjson")
SUFFIXES = (*CSV_SUFFIXES, *PARQUET_SUFFIXES, *JSON_SUFFIXES)
DELIMITERS = (",", ";", "\t", "|")
QUOTED = r'"[^"]*"'
# A header line is at most so long.
HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class TableRows:
    """Rows of a table, as they are read.

    Attributes
    ----------
    table : pa.Table
        The columns.
    origin : str
        The file or folder, for messages.
    files : NDArray[int64] or None
        Of a folder: the number of each row's file.
    file_names : tuple[str, ...]
        The files' names without their suffix.
    """

    table: pa.Table
    origin: str
    files: NDArray[np.int64] | None = None
    file_names: tuple[str, ...] = ()


def files_of(path: Path) -> list[Path]:
    """Return the file, or a folder's files, by name.

    Raises
    ------
    DataUnavailableError
        If there is none, or one is of another kind.
    """
    if not path.exists():
        raise DataUnavailableError(f"{path}: no such file or folder; expected a table")
    if path.is_file():
        if not path.name.lower().endswith(SUFFIXES):
            raise DataUnavailableError(f"{path}: expected a file *{', *'.join(SUFFIXES)}")
        return [path]
    found = [f for f in sorted(path.iterdir()) if f.name.lower().endswith(SUFFIXES) and f.is_file()]
    found = [file for file in found if not file.name.startswith(".")]
    if not found:
        raise DataUnavailableError(f"{path}: holds no file *{', *'.join(SUFFIXES)}")
    return found


def find_file(folder: Path, name: str) -> Path:
    """Return the file of that name in a folder or below it.

    Raises
    ------
    DataUnavailableError
        If there is none.
    """
    found = sorted(folder.rglob(name)) if folder.is_dir() else [folder]
    if not found:
        raise DataUnavailableError(f"{folder}: holds no file {name!r}")
    return found[0]


def sha256_of_files(path: Path) -> str:
    """Return a hash of the names and contents of the file, or of a folder's files."""
    described = [f"{file.name} {sha256_of_file(file)}" for file in files_of(path)]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()


def read_rows(path: Path) -> TableRows:
    """Return the rows of a file, or of all files of a folder.

    Raises
    ------
    DataUnavailableError
        If a file cannot be read, has no rows, or has other columns than the first: with its name.
    """
    files = files_of(path)
    tables = [_read_file(file) for file in files]
    for file, table in zip(files, tables, strict=True):
        _check_alike(files[0], tables[0], file, table)
    names = tables[0].column_names
    try:
        joined = pa.concat_tables([t.select(names) for t in tables], promote_options="permissive")
    except pa.ArrowException as error:
        raise DataUnavailableError(f"{path}: the files' columns differ ({_line(error)})") from error
    if path.is_file():
        return TableRows(joined, str(path))
    numbers = np.repeat(np.arange(len(files)), [len(table) for table in tables])
    return TableRows(joined, str(path), numbers.astype(np.int64), tuple(map(_stem, files)))


def _stem(file: Path) -> str:
    name = file.name
    suffix = max((s for s in SUFFIXES if name.lower().endswith(s)), key=len)
    return name[: -len(suffix)] or name


def _read_file(file: Path) -> pa.Table:
    try:
        if file.name.lower().endswith(PARQUET_SUFFIXES):
            table = pa_parquet.read_table(file)
        elif file.name.lower().endswith(JSON_SUFFIXES):
            table = pa_json.read_json(file)
        else:
            table = _read_csv(file)
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataUnavailableError(f"{file}: cannot be read ({_line(error)})") from error
    names = table.column_names
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataUnavailableError(f"{file}: has the column {twice[0]!r} twice; expected it once")
    odd = [name for name in names if not name.isprintable()]
    if odd:
        raise DataUnavailableError(f"{file}: the column {odd[0]!r} has no printable name")
    if not len(table):
        raise DataUnavailableError(f"{file}: has no rows; expected some below its columns' names")
    if "" in names:
        # pandas writes its row numbers so.
        logger.warning("%s: the column without a name is left out", file)
        table = table.drop_columns([""])
    return table


def _read_csv(file: Path) -> pa.Table:
    with pa.input_stream(str(file), compression="detect") as stream:
        head = stream.read(HEADER_BYTES)
    if not head.strip():
        raise DataUnavailableError(f"{file}: is empty; expected a line of columns' names, and rows")
    names, delimiter = _header(head, file)
    options = pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    parse = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    table = pa_csv.read_csv(file, parse_options=parse, convert_options=options)
    return table.rename_columns([name.strip() for name in table.column_names])


def _header(head: bytes, file: Path) -> tuple[Sequence[str], str]:
    """Return the columns' names as they stand, and what separates them."""
    # The last character may be cut off.
    whole = head if len(head) < HEADER_BYTES else head[: head.rfind(b"\n") + 1]
    text = whole.decode("utf-8-sig")
    line = re.sub(QUOTED, "", text.lstrip("\r\n").splitlines()[0])
    by_suffix = "\t" if ".tsv" in file.name.lower() else ","
    delimiter = max(DELIMITERS, key=lambda mark: (line.count(mark), mark == by_suffix))
    names = next(csv.reader(io.StringIO(text.lstrip("\r\n")), delimiter=delimiter), [])
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataUnavailableError(f"{file}: has the column {twice!r} twice; expected it once")
    return names, delimiter


def _check_alike(first: Path, expected: pa.Table, file: Path, found: pa.Table) -> None:
    missing = [name for name in expected.column_names if name not in found.column_names]
    more = [name for name in found.column_names if name not in expected.column_names]
    if missing:
        raise DataUnavailableError(
            f"{file}: has no column {missing[0]!r}, which {first.name} has; expected the same "
            "columns in all files"
        )
    if more:
        raise DataUnavailableError(
            f"{file}: has a column {more[0]!r}, which {first.name} has not; expected the same "
            "columns in all files"
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
