"""TensorBoard, MLflow and W&B are told the same of each round; each read back by its own reader."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from atoll import extras
from atoll.errors import EngineError, InvalidExperimentError
from atoll.platform.callbacks.metrics_log import MetricsLog
from atoll.platform.callbacks.mlflow_log import MLflowLog
from atoll.platform.callbacks.observers import RoundRecord, RunInfo
from atoll.platform.callbacks.tensorboard import TensorBoardLog
from atoll.platform.callbacks.wandb_log import WandbLog
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.checks.preflight import check_settings

PASSWORD, KEY = "a-secret-word", "0123456789abcdef0123456789abcdef01234567"
CONFIG = Experiment.from_dict(
    {
        "run": {"name": "logged"},
        "client": {"learning_rate": 0.25},
        "log": {"mlflow": f"https://me:{PASSWORD}@example.org"},
    }
).to_dict()
CLASSES = ["cat", "dog"]
LOSSES, EXAMPLES = [1.0, 2.0, 4.0, 9.0], [10, 30, 10, 10]


def a_round(number: int, epsilons: list[float | None]) -> RoundRecord:
    return RoundRecord(
        server_round=number,
        num_rounds=2,
        seconds=0.5,
        cohort=4,
        replies=3,
        errors=1,
        examples=50,
        train_metrics={"loss": 2.0},
        server_metrics={"accuracy": 0.25 * number, "per-class-accuracy": [0.5, 1.0]},
        clients={
            "phase": ["train"] * 4,
            "domain": ["photo", "photo", "sketch", "sketch"],
            "status": ["ok", "ok", "ok", "error"],
            "examples": EXAMPLES,
            "loss": LOSSES,
            "accuracy": [None] * 4,
            "epsilon": epsilons,
            "seconds": [0.1, 0.2, 0.3, 0.4],
        },
    )


EXPECTED = {
    "server/accuracy": [0.25, 0.5],
    "train/loss": [2.0, 2.0],
    "round/seconds": [0.5, 0.5],
    "server/per-class-accuracy/cat": [0.5, 0.5],
    "server/per-class-accuracy/dog": [1.0, 1.0],
    "clients/train/loss/photo": [1.75, 1.75],
    "clients/train/loss/sketch": [4.0, 4.0],
    # What has been spent is not less because those who spent it rest.
    "privacy/epsilon": [3.0, 3.0],
}


def follow(log: MetricsLog, directory: Path) -> None:
    """A run of two rounds."""
    log.on_start(RunInfo("logged", directory, 2, 1, 1, 4, 100, "FedAvg"))
    log.on_round(a_round(1, [3.0, 2.0, None, None]))
    log.on_round(a_round(2, [None, 2.5, None, None]))
    log.on_end({"parameters_sha256": "ab", "rounds": 2})
    log.close()


def assert_no_secret(directory: Path) -> None:
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files
    for path in files:
        for secret in (PASSWORD, KEY):
            assert secret.encode() not in path.read_bytes(), path


def test_tensorboard_has_all_of_it(tmp_path: Path) -> None:
    follow(TensorBoardLog(tmp_path, CONFIG, CLASSES), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"histograms": 0})
    events.Reload()
    for name, values in EXPECTED.items():
        assert [event.value for event in events.Scalars(name)] == pytest.approx(values)
    [first, _] = events.Histograms("clients/train/loss")
    assert first.histogram_value.num == 3
    assert first.histogram_value.max == 4.0
    plugin = importlib.import_module("tensorboard.plugins.hparams.metadata")
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin.parse_session_start_info_plugin_data(content)
    assert start.hparams["client.learning_rate"].number_value == 0.25
    assert_no_secret(tmp_path)


@pytest.mark.slow
def test_mlflow_has_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    server = (tmp_path / "server").as_uri()
    follow(MLflowLog(tmp_path, server, CONFIG, CLASSES), tmp_path)
    tracking: Any = importlib.import_module("mlflow.tracking")
    client = tracking.MlflowClient(server)
    [run] = client.search_runs([client.get_experiment_by_name("atoll").experiment_id])
    for name, values in EXPECTED.items():
        history = client.get_metric_history(run.info.run_id, name)
        assert [(m.step, m.value) for m in history] == list(enumerate(values, start=1))
    metrics = run.data.metrics
    quantiles = [metrics[f"clients/train/loss/{q}"] for q in ("min", "q25", "median", "q75", "max")]
    assert quantiles == np.quantile(LOSSES[:3], [0, 0.25, 0.5, 0.75, 1]).tolist()
    assert run.data.params["client.learning_rate"] == "0.25"
    assert_no_secret(tmp_path)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", f"https://me:{PASSWORD}@example.org")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    yield
    # It reads its environment once in a process.
    importlib.import_module("wandb").teardown()


def records_of(file: Path) -> list[Any]:
    """What a W&B server would be told, once its process has written the last of it."""
    ends = time.monotonic() + 60
    while not (found := scanned(file)) or found[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < ends
        time.sleep(0.1)
    return found


def scanned(file: Path) -> list[Any]:
    """The records of an offline file, by W&B's own reader of them."""
    store = importlib.import_module("wandb.sdk.internal.datastore").DataStore()
    record = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    store.open_for_scan(str(file))
    found = []
    while (data := store.scan_data()) is not None:
        found.append(record())
        found[-1].ParseFromString(data)
    return found


def by_name(items: Any) -> Mapping[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_wandb_has_all_of_it(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    follow(WandbLog(directory, CONFIG, CLASSES), directory)
    [file] = (directory / "wandb").glob("offline-run-*/*.wandb")
    records = records_of(file)
    rounds = [by_name(r.history.item) for r in records if r.WhichOneof("record_type") == "history"]
    assert [row["_step"] for row in rounds] == [1, 2]
    for name, values in EXPECTED.items():
        assert [row[name] for row in rounds] == values
    assert sum(rounds[0]["clients/train/loss/values"]) == 3
    [run] = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert by_name(run.config.update)["client.learning_rate"] == 0.25
    assert (run.project, run.display_name) == ("atoll", "logged")
    assert [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"] == [0]
    assert_no_secret(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_a_resumed_run_continues_in_the_same_wandb_run(tmp_path: Path) -> None:
    ids = []
    for number in (1, 2):
        log = WandbLog(tmp_path, CONFIG, CLASSES)
        ids.append(log._run.id)
        log.on_round(a_round(number, [None] * 4))
        log.close()
    assert ids[0] == ids[1] == json.loads((tmp_path / "wandb.json").read_text())["run_id"]


@pytest.mark.slow
def test_a_wandb_without_a_key_is_a_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "too-short")
    monkeypatch.delenv("WANDB_MODE")
    with pytest.raises(EngineError, match=r"log\.wandb = true: W&B refuses the run"):
        WandbLog(tmp_path, CONFIG)


def test_without_wandb_it_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    experiment = Experiment.from_dict({"log": {"wandb": True}})
    with pytest.raises(InvalidExperimentError, match=r'pip install "atoll\[wandb\]"'):
        check_settings(experiment)
