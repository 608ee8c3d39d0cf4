"""The ledger: a run directory, with every round and every client's part in it as Parquet.

Both tables are single files that are always complete: they are rewritten under another name and
put in place, so seldom that it costs at most about a tenth of the run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atoll.errors import EngineError, RunDirectoryError
from atoll.files.atomic import remove_partials, replacing
from atoll.files.manifests import MANIFEST
from atoll.files.recorded import (
    release,
    remove_recorded,
    seal_files,
    write_recorded_json,
    write_recorded_text,
)
from atoll.platform.callbacks.metric_names import column_of, is_metric
from atoll.platform.callbacks.observers import Observer, RoundRecord, RunInfo
from atoll.platform.run_directory.metric_columns import MetricColumns
from atoll.platform.run_directory.run_files import (
    CLIENT_SCHEMA,
    CLIENTS,
    CONFIG,
    CONFUSION,
    ENGINE,
    LAYERS,
    RESULT,
    ROUND_ONLY,
    ROUND_SCHEMA,
    ROUNDS,
    TABLES,
    read_rounds_table,
    read_table,
)

FLUSH_SECONDS = 1.0
# A rewrite may take this share of the time since the one before.
FLUSH_SHARE = 0.1
ROW_GROUP = 1 << 17
# Row groups that are not full are merged when there are this many.
SMALL_GROUPS = 64


class ParquetTable:
    """A growing table in one Parquet file.

    Parameters
    ----------
    path : Path
        The file; rows that it holds already come first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._buffer: list[pa.Table] = []
        self._rows = _count_rows(path)
        self._flushed = time.monotonic()
        self._cost = 0.0

    def append(self, rows: pa.Table) -> None:
        """Add rows; they are in the file after the next flush."""
        self._buffer.append(rows)
        waited = time.monotonic() - self._flushed
        if waited >= max(FLUSH_SECONDS, self._cost / FLUSH_SHARE):
            self.flush()

    def flush(self) -> None:
        """Write what is buffered."""
        if not self._buffer:
            return
        started = time.monotonic()
        added = pa.concat_tables(self._buffer, promote_options="permissive")
        # An interruption can come between the file's replacement and what follows it here: the
        # rows are in the file then, and are not to be added again.
        self._rewrite(added.slice(_count_rows(self._path) - self._rows))
        self._buffer, self._rows = [], self._rows + len(added)
        self._flushed = time.monotonic()
        self._cost = self._flushed - started

    def truncate(self, last_round: int) -> None:
        """Drop the rows of rounds after ``last_round``."""
        if not self._path.exists():
            return
        kept = read_table(self._path, needed=ROUND_ONLY).filter(pc.field("round") <= last_round)
        with replacing(self._path) as partial:
            pq.write_table(kept, partial, write_page_checksum=True)
        self._rows = len(kept)

    def _rewrite(self, added: pa.Table) -> None:
        """Write the old rows, streamed by row group, and the new ones as row groups of their own.

        A reader that read the footer of the old file and then opens the new one finds the old row
        groups where they were: they are only merged when many small ones have gathered.
        """
        with replacing(self._path) as partial:
            if not self._path.exists():
                pq.write_table(added, partial, row_group_size=ROW_GROUP, write_page_checksum=True)
                return
            with pq.ParquetFile(self._path, page_checksum_verification=True) as old:
                schema = pa.unify_schemas(
                    [old.schema_arrow, added.schema], promote_options="permissive"
                )
                kept = _groups_to_keep(old)
                small = range(kept, old.num_row_groups)
                with pq.ParquetWriter(partial, schema, write_page_checksum=True) as writer:
                    for group in range(kept):
                        writer.write_table(_conform(old.read_row_group(group), schema))
                    if small:
                        added = pa.concat_tables(
                            [
                                _conform(old.read_row_groups(list(small)), schema),
                                _conform(added, schema),
                            ]
                        )
                    writer.write_table(_conform(added, schema), row_group_size=ROW_GROUP)


def _count_rows(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise RunDirectoryError(f"{path}: cannot be read ({error})") from error


def _groups_to_keep(file: pq.ParquetFile) -> int:
    """Return how many row groups stay as they are; the small ones after them are to be merged."""
    rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    full = max((group + 1 for group, count in enumerate(rows) if count >= ROW_GROUP), default=0)
    return full if len(rows) - full >= SMALL_GROUPS else len(rows)


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    empty = schema.empty_table()
    return pa.concat_tables([empty, table], promote_options="permissive").select(schema.names)


class Ledger(Observer):
    """Writes a run directory as the run goes (an observer).

    Parameters
    ----------
    directory : Path
        The run directory; use :meth:`create` or :meth:`reopen`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._rounds = ParquetTable(directory / ROUNDS)
        self._clients = ParquetTable(directory / CLIENTS)
        self._columns = MetricColumns(directory / ROUNDS)
        self._notes: dict[str, Any] = {}
        # The newest confusion matrix, while it is not on disk; and when one was written last.
        self._confusion: dict[str, Any] | None = None
        self._confusion_written = 0.0

    @classmethod
    def create(cls, directory: Path, config_toml: str) -> Ledger:
        """Start a run directory with its resolved configuration."""
        write_recorded_text(directory / CONFIG, config_toml)
        return cls(directory)

    @classmethod
    def reopen(cls, directory: Path, last_round: int) -> Ledger:
        """Continue a run directory after ``last_round``; rows of later rounds are dropped.

        Raises
        ------
        RunDirectoryError
            If a table cannot be read, or lacks rounds up to ``last_round``: what is lost there
            cannot be made again.
        """
        remove_partials(directory, (*TABLES, MANIFEST))
        ledger = cls(directory)
        ledger._check_holds(last_round)
        release(directory, TABLES)
        ledger._rounds.truncate(last_round)
        ledger._clients.truncate(last_round)
        remove_recorded(directory / RESULT)
        return ledger

    def _check_holds(self, last_round: int) -> None:
        """Refuse tables that lack rows of the rounds that the checkpoint is of."""
        if last_round == 0:
            return
        path, found, cohorts = self.directory / ROUNDS, 0, [0]
        if path.exists():
            columns = read_table(path, ["round", "cohort"], needed=ROUND_SCHEMA)
            found = max(columns.column("round").to_pylist(), default=0)
            cohorts = columns.column("cohort").to_pylist()
        if found < last_round:
            problem = f"{path}: ends with round {found}" if found else f"{path}: has no rounds"
        elif any(cohorts) and not any((self.directory / n).exists() for n in (CLIENTS, LAYERS)):
            problem = f"{self.directory}: has neither {CLIENTS} nor {LAYERS}"
        else:
            problem = ""
        if problem:
            raise RunDirectoryError(
                f"{problem}, and the checkpoint is of round {last_round}; expected the ledger as "
                "it was written (without it the run can only be restarted, in another directory)"
            )

    def on_start(self, run: RunInfo) -> None:
        """Note what the engine decided."""
        self._notes = {
            "workers": run.workers,
            "clients": run.clients,
            "parameters": run.parameters,
            "strategy": run.strategy,
            "num_rounds": run.num_rounds,
            "notes": list(run.notes),
        }
        write_recorded_json(self.directory / ENGINE, self._notes)

    def on_round(self, record: RoundRecord) -> None:
        """Add a round."""
        gpus = [dict(gpu) for gpu in record.gpus]
        if gpus != self._notes.get("gpus", []):
            self._notes["gpus"] = gpus
            write_recorded_json(self.directory / ENGINE, self._notes)
        if record.clients:
            nothing = [None] * len(record.clients["round"])
            columns = [
                pa.array(record.clients.get(field.name, nothing), type=field.type)
                for field in CLIENT_SCHEMA
            ]
            self._clients.append(pa.table(columns, schema=CLIENT_SCHEMA))
        row = self._columns.fitted(_round_row(record))
        self._rounds.append(pa.table({key: [value] for key, value in row.items()}))

    def on_confusion(self, server_round: int, counts: NDArray[np.int64]) -> None:
        """Keep the examples by class and predicted class of the newest evaluation."""
        self._confusion = {"round": server_round, "counts": counts.tolist()}
        if time.monotonic() - self._confusion_written >= FLUSH_SECONDS:
            self._write_confusion()

    def _write_confusion(self) -> None:
        if self._confusion is not None:
            write_recorded_json(self.directory / CONFUSION, self._confusion)
            self._confusion, self._confusion_written = None, time.monotonic()

    def on_end(self, result: Mapping[str, Any]) -> None:
        """Write what is left."""
        self.flush()

    def flush(self) -> None:
        """Write all that is not in the files yet."""
        self._rounds.flush()
        self._clients.flush()
        self._write_confusion()

    def close(self) -> None:
        """Write what is left, and seal the tables: they grow no longer."""
        self.flush()
        seal_files(self.directory, TABLES)

    def count_errors(self) -> int:
        """Return how many rows of the clients' table, as it is on disk, are errors."""
        path = self.directory / CLIENTS
        if not path.exists():
            return 0
        status = read_table(path, ["status"], needed=CLIENT_SCHEMA).column("status")
        return int(pc.sum(pc.equal(status, "error")).as_py() or 0)

    def raise_if_all_failed(self) -> None:
        """Raise if clients were asked something, and none has ever answered.

        Raises
        ------
        EngineError
            With the most frequent reason.
        """
        asked, failed, cause = self._failures()
        if failed and failed == asked:
            raise EngineError(f"all clients failed, in every round; {cause}")

    def most_frequent_failure(self) -> str | None:
        """Return what most failures in training have in common, or None if there was none."""
        return self._failures("train")[2]

    def _failures(self, phase: str = "") -> tuple[int, int, str | None]:
        """Return how many messages of a phase there were, how many failed, and mostly why."""
        path = self.directory / CLIENTS
        if not path.exists():
            return 0, 0, None
        rows = read_table(path, ["phase", "status", "reason"])
        rows = rows.filter(pc.starts_with(rows.column("phase"), phase))
        failed = rows.filter(pc.equal(rows.column("status"), "error"))
        if not len(failed):
            return len(rows), 0, None
        reasons = Counter(failed.column("reason").to_pylist())
        reason, count = reasons.most_common(1)[0]
        cause = f"{count} of {len(failed)} failures are: {reason}"
        return len(rows), len(failed), cause

    def last_round(self) -> tuple[int, dict[str, Any]]:
        """Return the last round that is on disk, and its metrics as ``rounds.parquet`` has them.

        A run that was killed after its last round has them from nowhere else.
        """
        path = self.directory / ROUNDS
        table = read_rounds_table(path, ROUND_ONLY) if path.exists() else pa.table({"round": []})
        if not len(table):
            return 0, {}
        row = table.slice(len(table) - 1).to_pylist()[0]
        metrics = {k: v for k, v in row.items() if is_metric(k) and v is not None}
        return int(row["round"]), metrics

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``, with the tables as they are now."""
        self.close()
        write_recorded_json(self.directory / RESULT, dict(result))


def _round_row(record: RoundRecord) -> dict[str, Any]:
    row: dict[str, Any] = {
        "round": record.server_round,
        "seconds": record.seconds,
        "cohort": record.cohort,
        "replies": record.replies,
        "errors": record.errors,
        "examples": record.examples,
        "bytes_down": record.bytes_down,
        "bytes_up": record.bytes_up,
        "sum_bytes_made": record.sum_bytes_made,
        "sum_bytes_moved": record.sum_bytes_moved,
    }
    for group, metrics in record.groups.items():
        row.update({column_of(group, name): value for name, value in metrics.items()})
    return row
