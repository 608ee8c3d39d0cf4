"""A run's metrics in MLflow (the optional extra ``atoll[mlflow]``)."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from atoll.credentials import without_credentials
from atoll.errors import AtollError, EngineError
from atoll.files.manifests import read_verified
from atoll.files.reading import Line, parse_json
from atoll.files.recorded import write_recorded_json
from atoll.lazy import LazyModule
from atoll.platform.callbacks.metrics_log import MetricsLog, quantiles
from atoll.platform.callbacks.observers import RunInfo

logger = logging.getLogger("atoll")

EXPERIMENT, NOTE = "atoll", "mlflow.json"
# MLflow takes at most so many parameters and metrics a call, and values of so many characters.
PARAMETERS_A_CALL, METRICS_A_CALL, LONGEST_VALUE = 100, 1000, 500


tracking = LazyModule("mlflow.tracking")
exceptions = LazyModule("mlflow.exceptions")
entities = LazyModule("mlflow.entities")


class _Note(BaseModel):
    """``mlflow.json``."""

    model_config = ConfigDict(strict=True)

    run_id: Line


class MLflowLog(MetricsLog):
    """Writes parameters and a step a round to an MLflow server (an observer).

    MLflow has no histograms: of distributions over clients it gets quantiles.

    A resumed run continues in the same MLflow run: its id is kept in the run directory.

    Parameters
    ----------
    directory : Path
        The run directory.
    server : bool or str
        A tracking URI; True is the one that ``MLFLOW_TRACKING_URI`` names.
    config, classes
        As for :class:`~atoll.platform.callbacks.metrics_log.MetricsLog`.

    Raises
    ------
    EngineError
        If the server refuses the run.
    """

    def __init__(
        self,
        directory: Path,
        server: bool | str,
        config: Mapping[str, Any],
        classes: Sequence[str] = (),
    ) -> None:
        super().__init__(config, classes)
        # Its usage data would go out to a server of MLflow's makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._server = server
        self._directory = directory
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
        name = str(self.hyperparameters["run.name"])
        run_id = str(self._client.create_run(experiment, run_name=name).info.run_id)
        parameters = [
            entities.Param(key, str(value)[:LONGEST_VALUE])
            for key, value in self.hyperparameters.items()
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

    def write(
        self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, np.ndarray]
    ) -> None:
        """Log a round's numbers."""
        now = int(time.time() * 1000)
        metrics = [
            entities.Metric(_as_taken(name), float(value), now, step)
            for name, value in (*scalars.items(), *quantiles(histograms))
        ]
        with self._tolerated(f"round {step}"):
            for start in range(0, len(metrics), METRICS_A_CALL):
                batch = metrics[start : start + METRICS_A_CALL]
                self._client.log_batch(self._run_id, metrics=batch)

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


def _as_taken(name: str) -> str:
    """Return a metric's name with the characters that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", name)
