"""A run's metrics in MLflow (the optional extra ``atoll[mlflow]``)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from atoll.credentials import tables_without_credentials, without_credentials
from atoll.errors import AtollError, EngineError
from atoll.files.manifests import read_verified
from atoll.files.reading import Line, parse_json
from atoll.files.recorded import write_recorded_json
from atoll.lazy import LazyModule
from atoll.platform.callbacks.observers import Observer, RoundRecord, RunInfo

logger = logging.getLogger("atoll")

EXPERIMENT, NOTE = "atoll", "mlflow.json"
# MLflow takes at most so many parameters a call, and values of at most so many characters.
PARAMETERS_A_CALL, LONGEST_VALUE = 100, 500


tracking = LazyModule("mlflow.tracking")
exceptions = LazyModule("mlflow.exceptions")
entities = LazyModule("mlflow.entities")


class _Note(BaseModel):
    """``mlflow.json``."""

    model_config = ConfigDict(strict=True)

    run_id: Line


class MLflowLog(Observer):
    """Writes parameters and a step a round to an MLflow server (an observer).

    A resumed run continues in the same MLflow run: its id is kept in the run directory.

    Parameters
    ----------
    directory : Path
        The run directory.
    server : bool or str
        A tracking URI; True is the one that ``MLFLOW_TRACKING_URI`` names.
    config : Mapping
        The resolved experiment; its keys are the parameters.

    Raises
    ------
    EngineError
        If the server refuses the run.
    """

    def __init__(self, directory: Path, server: bool | str, config: Mapping[str, Any]) -> None:
        # Its usage data would go out to a server of MLflow's makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._server = server
        self._directory = directory
        self._config = tables_without_credentials(config)
        try:
            self._client = tracking.MlflowClient(server if isinstance(server, str) else None)
            self._run_id = self._open(directory / NOTE)
        except exceptions.MlflowException as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> AtollError:
        line = without_credentials((str(error).splitlines() or ["?"])[0])
        server = self._server
        named = without_credentials(server) if isinstance(server, str) else server
        return EngineError(
            f"log.mlflow = {named!r}: MLflow refuses the run ({line}); expected a server that "
            "takes it (a run directory keeps no password: MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD give one)"
        )

    def _open(self, note: Path) -> str:
        if note.exists():
            return parse_json(read_verified(note), str(note), _Note).run_id
        found = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
        name = str(self._config["run"]["name"])
        run_id = str(self._client.create_run(experiment, run_name=name).info.run_id)
        parameters = [
            entities.Param(key, str(value)[:LONGEST_VALUE])
            for key, value in _flattened(self._config)
        ]
        for start in range(0, len(parameters), PARAMETERS_A_CALL):
            self._client.log_batch(run_id, params=parameters[start : start + PARAMETERS_A_CALL])
        write_recorded_json(note, {"run_id": run_id})
        return run_id

    def on_start(self, run: RunInfo) -> None:
        """Note the run."""
        with self._tolerated("the start"):
            self._client.update_run(self._run_id, status="RUNNING")
            self._client.set_tag(self._run_id, "strategy", run.strategy)
            self._client.set_tag(self._run_id, "directory", str(run.directory))

    def on_round(self, record: RoundRecord) -> None:
        """Log a round's scalars, its number as their step."""
        now = int(time.time() * 1000)
        metrics = [
            entities.Metric(name, float(value), now, record.server_round)
            for name, value in record.scalars()
        ]
        with self._tolerated(f"round {record.server_round}"):
            self._client.log_batch(self._run_id, metrics=metrics)

    def on_end(self, result: Mapping[str, Any]) -> None:
        """Mark the run as finished, with its parameters' hash."""
        with self._tolerated("the end"):
            sha256 = str(result["parameters_sha256"])
            self._client.set_tag(self._run_id, "parameters_sha256", sha256)
            self._client.set_terminated(self._run_id, "FINISHED")

    @contextmanager
    def _tolerated(self, what: str) -> Iterator[None]:
        """Warn of what the server does not take; it is in the ledger, too, so no run ends."""
        try:
            yield
        except exceptions.MlflowException as error:
            logger.warning("%s is not in MLflow: %s", what, without_credentials(str(error)))


def _flattened(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tables.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
