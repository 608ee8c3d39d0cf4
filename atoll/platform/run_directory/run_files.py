"""The files of a run directory: what they are called, what is in them, and reading them.

A run directory may come from another person or from a damaged disk, so every file
is verified against the manifest beside it (:mod:`atoll.files.manifests`) and looked at before it is
shown or used. :mod:`~atoll.platform.run_directory.ledger` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, model_validator

from atoll.clients.ranges import Pixels
from atoll.error_messages import short
from atoll.errors import RunDirectoryError
from atoll.files.manifests import MANIFEST, check_missing, read_verified, verify
from atoll.files.reading import Line, Sha256, parse_json, parse_toml
from atoll.platform.callbacks.metric_names import is_metric

CONFIG, ROUNDS, CLIENTS, RESULT = "config.toml", "rounds.parquet", "clients.parquet", "result.json"
LAYERS = "layers.parquet"
# What grows with a run: its manifest has them when they no longer do.
TABLES = (ROUNDS, CLIENTS, LAYERS)
ENGINE, PARTITION, CONFUSION = "engine.json", "partition.json", "confusion.json"

# Sections that a run writes whatever its experiment says, and the one of a Flower app's.
SECTIONS = ("run", "data", "model", "client", "strategy", "ray")
APP_TABLE = "flower"

# What every round has, beside its metrics.
ROUND_SCHEMA = pa.schema(
    [
        ("round", pa.int64()),
        ("seconds", pa.float64()),
        ("cohort", pa.int64()),
        ("replies", pa.int64()),
        ("errors", pa.int64()),
        ("examples", pa.int64()),
        ("bytes_down", pa.int64()),
        ("bytes_up", pa.int64()),
    ]
)
# All that whoever looks at metrics alone needs beside them.
ROUND_ONLY = pa.schema([("round", pa.int64())])
LAYER_SCHEMA = pa.schema(
    [
        ("round", pa.int64()),
        ("layer", pa.string()),
        ("loss", pa.float64()),
        ("examples", pa.int64()),
        ("steps", pa.int64()),
        ("seconds", pa.float64()),
        ("peak_memory", pa.int64()),
        ("messages", pa.int64()),
        ("process", pa.int64()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)
CLIENT_SCHEMA = pa.schema(
    [
        ("round", pa.int64()),
        ("phase", pa.string()),
        ("node_id", pa.int64()),
        ("partition", pa.int64()),
        ("domain", pa.string()),
        ("examples", pa.int64()),
        ("loss", pa.float64()),
        ("accuracy", pa.float64()),
        ("personal_loss", pa.float64()),
        ("personal_accuracy", pa.float64()),
        ("epsilon", pa.float64()),
        ("seconds", pa.float64()),
        ("bytes_down", pa.int64()),
        ("bytes_up", pa.int64()),
        ("layers", pa.list_(pa.int64())),
        ("peak_memory", pa.int64()),
        ("worker", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)


# Columns without which a row means nothing.
WHOLE = {
    ROUNDS: set(ROUND_SCHEMA.names),
    CLIENTS: {"round", "phase", "node_id", "status"},
    LAYERS: {"round", "layer", "status"},
}


def has_table(path: Path) -> bool:
    """Tell whether a table is there.

    Raises
    ------
    RunDirectoryError
        If it is not, and is known to have been.
    """
    if path.exists():
        return True
    check_missing(path)
    return False


def read_table(
    path: Path, columns: Sequence[str] | None = None, *, needed: pa.Schema | None = None
) -> pa.Table:
    """Read a Parquet file of a run directory, or some columns of it.

    Parameters
    ----------
    path : Path
        The file.
    columns : Sequence[str], optional
        By default all.
    needed : Schema, optional
        Columns that are expected, with their types; of these ``columns`` are looked at.

    Raises
    ------
    RunDirectoryError
        If it is not there, cannot be read, is not what was written, or lacks a column.
    """
    verify(path, growing=TABLES)
    try:
        # pq.read_table would import pandas, at half a second of processor time.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(columns=None if columns is None else list(columns))
        table.validate(full=True)
        names = table.column_names
        if columns is not None and not set(columns) <= set(names):
            raise ValueError(f"no column {sorted(set(columns) - set(names))[0]!r}")
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        problem = " ".join(str(error).split())
        raise RunDirectoryError(f"{path}: cannot be read ({problem})") from error
    for field in needed or ():
        if columns is None or field.name in columns:
            _check_column(path, table, field, names)
    return table


def _check_column(path: Path, table: pa.Table, field: pa.Field, names: Sequence[str]) -> None:
    if names.count(field.name) != 1:
        count = names.count(field.name)
        raise RunDirectoryError(f"{path}: has {count} columns {field.name!r}; expected one")
    found = table.schema.field(field.name).type
    if found != field.type and not pa.types.is_null(found):
        raise RunDirectoryError(
            f"{path}: its column {field.name!r} is of {found}; expected {field.type}"
        )
    if field.name in WHOLE.get(path.name, ()) and table.column(field.name).null_count:
        raise RunDirectoryError(f"{path}: its column {field.name!r} has gaps; expected none")


def read_rounds_table(path: Path, needed: pa.Schema = ROUND_SCHEMA) -> pa.Table:
    """Read a run's ``rounds.parquet``; as :func:`read_table`, and metrics are numbers."""
    table = read_table(path, needed=needed)
    for field in table.schema:
        if is_metric(field.name) and not _is_numeric(field.type):
            raise RunDirectoryError(
                f"{path}: its column {short(field.name)} is of {field.type}; expected numbers"
            )
    if len(set(table.column_names)) < len(table.column_names):
        raise RunDirectoryError(f"{path}: has two columns of one name; expected each once")
    return table


def read_rounds(directory: Path, needed: pa.Schema = ROUND_SCHEMA) -> pa.Table:
    """Read a run directory's ``rounds.parquet``; it is empty if no round has ended."""
    path = directory / ROUNDS
    return read_rounds_table(path, needed) if has_table(path) else ROUND_SCHEMA.empty_table()


def read_rows(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a table of a run directory; it is empty if nothing has been written to it."""
    return read_table(path, needed=schema) if has_table(path) else schema.empty_table()


def _is_numeric(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return _is_numeric(kind.value_type)
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    return any(is_kind(kind) for is_kind in kinds)


Schema = TypeVar("Schema", bound=BaseModel)


class _Result(BaseModel):
    """``result.json``, as far as it is the same for all runs."""

    model_config = ConfigDict(extra="allow", strict=True)

    rounds: Annotated[int, Field(ge=0)]
    metrics: dict[str, bool | int | float | list[bool | int | float | None]]
    wall_seconds: Annotated[float, Field(ge=0.0)]
    parameters_sha256: Sha256 | None
    errors: Annotated[int, Field(ge=0)] = 0
    failed_layers: dict[str, str] = {}


def read_result(directory: Path) -> dict[str, Any] | None:
    """Return ``result.json`` of a run directory, or None if the run has not ended.

    Raises
    ------
    RunDirectoryError
        If it cannot be read, or is not what was written.
    """
    result = _read_if_there(directory / RESULT, _Result, finite=False)
    return None if result is None else result.model_dump(exclude_unset=True)


class Engine(BaseModel):
    """``engine.json``: what the engine decided when the run began."""

    model_config = ConfigDict(extra="allow", strict=True)

    workers: Annotated[int, Field(ge=0)]
    clients: Annotated[int, Field(ge=0)]
    parameters: Annotated[int, Field(ge=0)]
    strategy: Line
    num_rounds: Annotated[int, Field(ge=0)]
    notes: list[Line]


def read_engine(directory: Path) -> Engine | None:
    """Return ``engine.json`` of a run directory, or None if its rounds have not begun.

    Raises
    ------
    RunDirectoryError
        If it cannot be read, or is not what was written.
    """
    return _read_if_there(directory / ENGINE, Engine)


class Confusion(BaseModel):
    """``confusion.json``: examples by class and predicted class, of the last evaluation."""

    model_config = ConfigDict(extra="allow", strict=True)

    round: Annotated[int, Field(ge=0)]
    counts: list[list[Annotated[int, Field(ge=0)]]]

    @model_validator(mode="after")
    def _is_square(self) -> Confusion:
        if any(len(row) != len(self.counts) for row in self.counts):
            raise ValueError("a count for each predicted class in every row")
        return self


def read_confusion(directory: Path) -> Confusion | None:
    """Return ``confusion.json`` of a run directory, or None if it has none.

    Raises
    ------
    RunDirectoryError
        If it cannot be read, or is not what was written.
    """
    return _read_if_there(directory / CONFUSION, Confusion)


class _Images(BaseModel):
    """What models were given in earlier versions: images normalised by channel."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    image_shape: Annotated[list[Pixels], Field(min_length=3, max_length=3)]
    mean: list[float]
    std: list[float]

    @model_validator(mode="after")
    def _fits(self) -> _Images:
        if not len(self.mean) == len(self.std) == self.image_shape[0]:
            raise ValueError("a mean and a deviation for each channel")
        return self


class _Partition(BaseModel):
    """``partition.json``; earlier versions wrote less."""

    model_config = ConfigDict(extra="allow", strict=True)

    clients: list[int] = []
    classes: list[str] = []
    domains: list[str] = []
    training_domains: list[str] = []
    held_out: list[str] = []
    histogram: list[list[int]] = []
    # Read as what they are where a model is built: that takes PyTorch.
    inputs: dict[str, Any] | None = None
    task: dict[str, Any] | None = None
    input: _Images | None = None

    @model_validator(mode="after")
    def _of_images(self) -> _Partition:
        if self.input is not None:
            self.inputs = {
                "kind": "images",
                "image_shape": self.input.image_shape,
                "mean": self.input.mean,
                "std": self.input.std,
            }
            self.task = {"kind": "classification", "classes": self.classes}
        return self

    @model_validator(mode="after")
    def _fits(self) -> _Partition:
        if len(self.histogram) != len(self.clients):
            raise ValueError("a histogram for each client")
        if any(len(row) != len(self.classes) for row in self.histogram):
            raise ValueError("a count for each class in every histogram")
        return self


def read_partition(directory: Path) -> dict[str, Any] | None:
    """Return ``partition.json`` of a run directory, or None if it has none.

    Raises
    ------
    RunDirectoryError
        If it cannot be read, or is not what was written.
    """
    partition = _read_if_there(directory / PARTITION, _Partition)
    return None if partition is None else partition.model_dump()


def _read_if_there(path: Path, schema: type[Schema], *, finite: bool = True) -> Schema | None:
    """Return a recorded JSON file by its schema; None if the run has not written it."""
    if path.exists():
        try:
            return parse_json(read_verified(path), str(path), schema, finite=finite)
        except RunDirectoryError:
            # Resume removes the result of a run that continues.
            if path.exists():
                raise
    check_missing(path)
    return None


def read_config(directory: Path) -> dict[str, Any]:
    """Return the tables of a run directory's ``config.toml``.

    Raises
    ------
    RunDirectoryError
        If it cannot be read, is not what was written, or lacks what a run writes there.
    """
    path = directory / CONFIG
    tables = parse_toml(read_verified(path), path)
    lacking = [name for name in SECTIONS if name not in tables]
    # A Flower app's has one table for all. With a manifest it is as it was written.
    if lacking and APP_TABLE not in tables and not (directory / MANIFEST).exists():
        raise RunDirectoryError(
            f"{path}: has no section [{lacking[0]}], and a run writes all of them; expected the "
            "file as it was written"
        )
    return tables


def check_run_directory(directory: Path) -> None:
    """Refuse a folder that is not a run directory.

    Raises
    ------
    RunDirectoryError
        If it has no ``config.toml``.
    """
    if not (directory / CONFIG).is_file():
        begins = [name for name in ("sweep", "arena") if (directory / f"{name}.toml").is_file()]
        hint = f"; 'atoll {begins[0]}' continues what is in it" if begins else ""
        raise RunDirectoryError(f"{directory}: is not a run directory (it has no {CONFIG}){hint}")
