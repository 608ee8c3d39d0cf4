"""``trials.parquet``, what became of each of a sweep's trials: its columns, and their reading.

Nothing of a sweep is built here: a listing or a watcher loads neither PyTorch nor Ray.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from atoll.errors import RunDirectoryError
from atoll.files.manifests import read_verified
from atoll.files.reading import parse_json
from atoll.platform.run_directory.run_files import read_table

if TYPE_CHECKING:
    from atoll.platform.sweeps.sweep_plan import Trial

TRIALS, TABLE = "trials", "trials.parquet"
# In the run directory of a trial that was stopped early.
STOPPED = "stopped.json"
WAITING, FINISHED, EARLY, FAILED = "waiting", "finished", "stopped", "failed"

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("trial", pa.string()),
        ("method", pa.string()),
        ("hyperparameters", pa.string()),
        ("held_out", pa.string()),
        ("seed", pa.int64()),
        ("for_validation", pa.bool_()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("directory", pa.string()),
        ("rounds", pa.int64()),
        ("of_rounds", pa.int64()),
        ("seconds", pa.float64()),
        ("parameters_sha256", pa.string()),
        ("metrics", pa.string()),
    ]
)


class _Stopped(BaseModel):
    """``stopped.json``."""

    model_config = ConfigDict(strict=True)

    round: int
    metric: str
    value: float
    seconds: float


def place_of(directory: Path, trial: Trial) -> Path:
    """Return a trial's run directory."""
    return directory / TRIALS / trial.name


def log_of(place: Path) -> Path:
    """Return the log of a trial, beside its run directory."""
    return place.with_name(f"{place.name}.log")


def stopped_row(place: Path) -> dict[str, Any]:
    """Return what the ledger says of a trial that was stopped early."""
    path = place / STOPPED
    stopped = parse_json(read_verified(path), str(path), _Stopped, finite=False)
    return {
        "rounds": stopped.round,
        "seconds": stopped.seconds,
        "metrics": json.dumps({stopped.metric: stopped.value}),
    }


def read_trials(directory: Path) -> Sequence[dict[str, Any]]:
    """Return the rows of a sweep's table of trials.

    Raises
    ------
    RunDirectoryError
        If it cannot be read.
    """
    table = read_table(directory / TABLE, needed=SCHEMA)
    for name in ("key", "trial", "status", "directory", "of_rounds"):
        if table.column(name).null_count:
            raise RunDirectoryError(f"{directory / TABLE}: its column {name!r} has gaps")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
