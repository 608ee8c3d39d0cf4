"""Metrics in MLflow, read back with MLflow's own client."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import pytest

from atoll.errors import AtollError
from atoll.platform.callbacks.mlflow_log import MLflowLog
from atoll.platform.callbacks.observers import RoundRecord, RunInfo
from atoll.platform.config.experiment import Experiment

# A folder in place of a server, which MLflow wants to be asked for.
pytestmark = pytest.mark.usefixtures("folder_store")
CONFIG = Experiment.from_dict({"run": {"name": "logged"}, "client": {"learning_rate": 0.25}})


@pytest.fixture
def folder_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def a_round(server_round: int) -> RoundRecord:
    return RoundRecord(
        server_round=server_round,
        num_rounds=3,
        seconds=0.5,
        cohort=5,
        replies=4,
        errors=1,
        examples=100,
        server_metrics={"accuracy": 0.25 * server_round, "per_class": [0.5, 1.0]},
    )


def test_a_resumed_run_continues_in_the_same_mlflow_run(tmp_path: Path) -> None:
    tracking: Any = importlib.import_module("mlflow.tracking")
    server, directory = (tmp_path / "server").as_uri(), tmp_path / "run"
    directory.mkdir()
    info = RunInfo("logged", directory, 3, 1, 1, 10, 100, "FedAvg")
    for first in (1, 3):
        log = MLflowLog(directory, server, CONFIG.to_dict())
        log.on_start(info)
        for server_round in range(first, first + 2 if first == 1 else 4):
            log.on_round(a_round(server_round))
    log.on_end({"parameters_sha256": "ab"})

    client = tracking.MlflowClient(server)
    [run] = client.search_runs([client.get_experiment_by_name("atoll").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["client.learning_rate"] == "0.25"
    assert run.data.params["run.name"] == "logged"
    assert run.data.tags["parameters_sha256"] == "ab"
    history = client.get_metric_history(run.info.run_id, "server/accuracy")
    assert [(m.step, m.value) for m in history] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert "server/per_class" not in run.data.metrics


def test_a_server_that_refuses_is_a_clear_line_and_one_that_goes_away_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AtollError, match=r"log\.mlflow = 'nowhere:x': MLflow refuses the run"):
        MLflowLog(tmp_path, "nowhere:x", CONFIG.to_dict())
    server = (tmp_path / "server").as_uri()
    log = MLflowLog(tmp_path, server, CONFIG.to_dict())
    tracking: Any = importlib.import_module("mlflow.tracking")
    client = tracking.MlflowClient(server)
    [run] = client.search_runs([client.get_experiment_by_name("atoll").experiment_id])
    client.delete_run(run.info.run_id)
    with caplog.at_level(logging.WARNING, "atoll"):
        log.on_round(a_round(1))
    assert "round 1 is not in MLflow" in caplog.text
