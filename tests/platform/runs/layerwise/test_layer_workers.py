"""Layer runs on real Ray workers: killed ones, and the same bits as in one process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atoll.flower.arrays import view
from atoll.platform.run_directory.checkpoint import parameters_sha256
from atoll.platform.runs import federation_run
from atoll.platform.runs.layerwise.block_job import UnitReport
from atoll.platform.runs.layerwise.block_schedule import UnitSchedule
from tests.support.runs.layer_runs import experiment, run_here

pytestmark = pytest.mark.usefixtures("cluster")


def test_a_killed_workers_layer_continues_from_its_checkpoint_while_the_others_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = {"run": {"rounds": 3}, "layers": {"inference": "pipeline"}, "ray": {"workers": 2}}
    asked = experiment(**sections)
    expected = run_here(tmp_path / "here", asked)
    killed: list[int] = []
    take = UnitSchedule._take_report

    def kill_once(self: UnitSchedule, report: UnitReport) -> None:
        # The worker that has just been heard of is given another part now: it dies with that.
        take(self, report)
        if not killed:
            killed.append(report.process)
            os.kill(report.process, signal.SIGKILL)

    monkeypatch.setattr(UnitSchedule, "_take_report", kill_once)
    result = federation_run.run(asked, out=tmp_path / "ray")
    assert len(killed) == 1
    assert result.summary["failed_layers"] == {}
    assert result.summary["parameters_sha256"] == expected["parameters_sha256"]
    assert result.metrics == expected["metrics"]
    assert result.summary["messages_between_layers"] == 0
    rows = pq.read_table(tmp_path / "ray" / "layers.parquet").to_pylist()
    assert len(rows) == 3 * 4
    assert len({row["process"] for row in rows}) >= 2
    assert all(row["process"] != os.getpid() for row in rows)

    again = federation_run.resume(tmp_path / "ray")
    assert parameters_sha256(again.arrays) == result.summary["parameters_sha256"]
    assert any(key.startswith("blocks.2.") for key in again.arrays)


@pytest.mark.long
def test_a_federation_has_layers_bytes_and_memory_of_each_client_in_its_ledger(
    tmp_path: Path,
) -> None:
    tables = experiment().to_dict()
    del tables["layers"]
    tables["data"]["clients"] = 4
    tables["strategy"] = {"name": "Layerwise", "layers_per_client": 1}
    tables["ray"] = {"workers": 2}
    result = federation_run.run(type(experiment()).from_dict(tables), out=tmp_path / "federated")
    rows = pq.read_table(tmp_path / "federated" / "clients.parquet").to_pylist()
    trained = [row for row in rows if row["phase"] == "train"]
    assert len(trained) == 8
    arrays = result.arrays
    for row in trained:
        prefixes = ("shared.", *(f"blocks.{layer}." for layer in row["layers"]))
        own = [view(arrays[key]) for key in arrays if key.startswith(prefixes)]
        assert len(row["layers"]) == 1
        held = sum(values.nbytes for values in own)
        # Beside the values, each array has a header of some hundred bytes.
        for sent in (row["bytes_down"], row["bytes_up"]):
            assert held <= sent <= held + 200 * len(own)
        assert row["peak_memory"] > 3 * held
    assert result.metrics["train_layer_versions"] == [2, 2, 2]
    assert 0.0 <= result.metrics["server_stochastic_accuracy"] <= 1.0
