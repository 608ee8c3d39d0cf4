"""``trials.parquet``: what became of each of a sweep's trials, up to date while it runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atoll.errors import RunDirectoryError
from atoll.platform.atomic import replacing
from atoll.platform.ledger import read_result, read_table
from atoll.platform.sweep_plan import Sweep, Trial
from atoll.platform.sweep_stopping import STOPPED

TRIALS, TABLE = "trials", "trials.parquet"
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


def place_of(directory: Path, trial: Trial) -> Path:
    """Return a trial's run directory."""
    return directory / TRIALS / trial.name


class TrialTable:
    """The rows of ``trials.parquet``, one a trial.

    Parameters
    ----------
    directory : Path
        The sweep directory.
    sweep : Sweep
        The sweep.
    """

    def __init__(self, directory: Path, sweep: Sweep) -> None:
        self._directory = directory
        self._sweep = sweep
        self._rows = {trial.name: self._row(trial, None) for trial in sweep.trials}

    def missing(self) -> list[Trial]:
        """Return the trials that have not ended yet."""
        return [t for t in self._sweep.trials if self.status(t) not in (FINISHED, EARLY)]

    def status(self, trial: Trial) -> str:
        """Return "waiting", "finished", "stopped" (early) or "failed"."""
        return str(self._rows[trial.name]["status"])

    def metrics(self, trial: Trial) -> dict[str, Any]:
        """Return a trial's last metrics; empty if it has not ended."""
        return dict(json.loads(self._rows[trial.name]["metrics"]))

    def end(self, trial: Trial, error: str | None) -> None:
        """Take note of a trial's end, and write the table."""
        self._rows[trial.name] = self._row(trial, error)
        self.write()

    def write(self) -> None:
        """Write the table, as a whole."""
        rows = list(self._rows.values())
        with replacing(self._directory / TABLE) as partial:
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), partial)

    def _row(self, trial: Trial, error: str | None) -> dict[str, Any]:
        place = place_of(self._directory, trial)
        row: dict[str, Any] = {
            "key": trial.key,
            "trial": str(trial),
            "method": trial.method,
            "hyperparameters": trial.hyperparameters,
            "held_out": "+".join(trial.held_out),
            "seed": trial.seed,
            "for_validation": trial.is_validation,
            "status": WAITING if error is None else FAILED,
            "error": error,
            "directory": str(place),
            "rounds": None,
            "of_rounds": trial.experiment.run.rounds,
            "seconds": None,
            "parameters_sha256": None,
            "metrics": "{}",
        }
        result = read_result(place)
        if result is not None:
            metrics = {k: v for k, v in result["metrics"].items() if not isinstance(v, list)}
            row |= {
                "status": FINISHED,
                "rounds": result["rounds"],
                "seconds": result["wall_seconds"],
                "parameters_sha256": result["parameters_sha256"],
                "metrics": json.dumps(metrics),
            }
        elif error is None and self._is_stopped(place):
            row |= {"status": EARLY, **_stopped_row(place)}
        return row

    def _is_stopped(self, place: Path) -> bool:
        """Tell whether a trial was stopped early, by a sweep that still stops trials early."""
        return self._sweep.settings.early_stopping is not None and (place / STOPPED).exists()


def _stopped_row(place: Path) -> dict[str, Any]:
    """Return what the ledger says of a trial that was stopped early."""
    try:
        stopped = json.loads((place / STOPPED).read_text())
        metric, value, seconds = stopped["metric"], stopped["value"], stopped["seconds"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(f"{place / STOPPED}: cannot be read ({error})") from error
    return {
        "rounds": stopped["round"],
        "seconds": seconds,
        "metrics": json.dumps({metric: value}),
    }


def read_trials(directory: Path) -> Sequence[dict[str, Any]]:
    """Return the rows of a sweep's table of trials.

    Raises
    ------
    RunDirectoryError
        If it cannot be read.
    """
    rows: list[dict[str, Any]] = read_table(directory / TABLE).to_pylist()
    return rows
