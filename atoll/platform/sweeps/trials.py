"""The table of a sweep's trials, up to date while it runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atoll.credentials import without_credentials
from atoll.errors import RunDirectoryError
from atoll.files.recorded import write_recorded_rows
from atoll.platform.run_directory.identity import RunIdentity
from atoll.platform.run_directory.run_files import read_result
from atoll.platform.sweeps.sweep_plan import Sweep, Trial, dataset_of
from atoll.platform.sweeps.trial_rows import (
    EARLY,
    FAILED,
    FINISHED,
    SCHEMA,
    STOPPED,
    TABLE,
    WAITING,
    place_of,
    stopped_row,
)
from atoll.user_code.source_identity import references_in, source_hashes

logger = logging.getLogger("atoll")


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
        return [trial for trial in self._sweep.trials if not self.has_ended(trial)]

    def has_ended(self, trial: Trial) -> bool:
        """Tell whether a trial is finished or was stopped early."""
        return self.status(trial) in (FINISHED, EARLY)

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
        write_recorded_rows(self._directory / TABLE, list(self._rows.values()), SCHEMA)

    def _row(self, trial: Trial, error: str | None) -> dict[str, Any]:
        place = place_of(self._directory, trial)
        row: dict[str, Any] = {
            "key": trial.key,
            "trial": without_credentials(str(trial)),
            "method": trial.method,
            "hyperparameters": without_credentials(trial.hyperparameters),
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
        result = _result_of(place)
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
            row |= {"status": EARLY, **stopped_row(place)}
        return row

    def _is_stopped(self, place: Path) -> bool:
        """Tell whether a trial was stopped early, by a sweep that still stops trials early."""
        return self._sweep.settings.early_stopping is not None and (place / STOPPED).exists()


def _result_of(place: Path) -> dict[str, Any] | None:
    """Return a trial's result; one that cannot be read is made again."""
    try:
        return read_result(place)
    except RunDirectoryError as error:
        logger.warning("%s; it is made again", error)
        return None


def check_same_data(directory: Path, trials: Sequence[Trial]) -> None:
    """Refuse to continue a sweep whose ended trials were run on other data than there are now.

    That the user's own modules have changed is said.

    Raises
    ------
    RunDirectoryError
        With both hashes.
    """
    for trial in trials:
        place = place_of(directory, trial)
        before = RunIdentity.read(place)
        if before is None:
            continue
        data = trial.experiment.data.dataset
        now = dataset_of(trial.experiment).fingerprint
        was = before.data.get(data, now)
        if was != now:
            raise RunDirectoryError(
                f"{place}: was run on other data ({data}): SHA-256 {was} there, {now} now; "
                "expected the data that the others are run on, or another --out"
            )
        config = trial.experiment.to_dict()
        for name in before.changed_code(source_hashes(references_in(config))):
            logger.warning("the module %s was changed after %s was run", name, trial)
