"""Runs whose clients keep parameters and models: ledger, report, resume, refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from atoll import open_run, run
from atoll.errors import InvalidExperimentError
from atoll.platform.config.experiment import Experiment
from atoll.platform.run_directory.checkpoint import CheckpointStore
from atoll.platform.runs.checks.preflight import check_settings
from atoll.platform.runs.federation import prepare
from atoll.platform.runs.federation_run import resume

DATA = {"dataset": "digits", "clients": 5, "client_test_fraction": 0.3}
LOCAL_DITTO: list[dict[str, Any]] = [{"local": "head"}, {"personal": {"name": "ditto"}}]
TIMES = {"seconds", "worker"}


def experiment(client: dict[str, Any], **tables: Any) -> Experiment:
    return Experiment.from_dict(
        {
            "run": {"rounds": 4, "seed": 3, "checkpoint_every": 1},
            "data": DATA,
            "model": {"name": "mlp", "hidden": [8]},
            "client": client,
            "ray": {"workers": 1, "chunk_size": 2},
            **tables,
        }
    )


def rows(directory: Path, table: str) -> list[dict[str, Any]]:
    found = pq.read_table(directory / table).to_pylist()
    return [{key: value for key, value in row.items() if key not in TIMES} for row in found]


KILLED = """
import os, signal, sys
from pathlib import Path
from atoll.platform.callbacks.observers import Observer
from atoll.platform.config.experiment import load_experiment
from atoll.platform.runs.federation_run import run

class Killer(Observer):
    def on_start(self, info): ...
    def on_end(self, result): ...
    def on_round(self, record):
        if record.server_round == 3:
            os.kill(os.getpid(), signal.SIGKILL)

run(load_experiment(Path(sys.argv[1])), out=Path(sys.argv[2]), observers=lambda _: [Killer()])
"""


@pytest.mark.long
@pytest.mark.parametrize("client", LOCAL_DITTO)
def test_what_nodes_keep_survives_a_kill_to_the_same_bits(
    client: dict[str, Any], tmp_path: Path, joining: dict[str, str]
) -> None:
    settings = experiment(client)
    whole = run(settings, out=tmp_path / "whole")
    (tmp_path / "experiment.toml").write_text(settings.to_toml())
    command = [sys.executable, "-c", KILLED, "experiment.toml", "killed"]
    environment = {**joining, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(command, cwd=tmp_path, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert CheckpointStore(tmp_path / "killed" / "checkpoints").rounds()[-1] == 2
    ended = resume(tmp_path / "killed", workers=2)
    assert ended.summary["parameters_sha256"] == whole.summary["parameters_sha256"]
    for table in ("rounds.parquet", "clients.parquet"):
        found = rows(ended.directory, table)
        assert found == rows(whole.directory, table)
    last = CheckpointStore(whole.directory / "checkpoints").latest()
    again = CheckpointStore(ended.directory / "checkpoints").latest()
    assert last is not None
    assert again is not None
    assert dict(last.client_states) == dict(again.client_states)
    assert set(last.client_states) == {1, 2, 3, 4, 5}


def test_the_ledger_and_the_report_have_clients_own_models(cluster: None, tmp_path: Path) -> None:
    ended = run(experiment({"local": "head", "personal_every": 3}), out=tmp_path / "run")
    clients = pq.read_table(ended.directory / "clients.parquet").to_pylist()
    by_round = {
        number: [r for r in clients if r["round"] == number and r["phase"] == "evaluate"]
        for number in range(1, 5)
    }
    is_judged = [all(r["personal_accuracy"] is not None for r in by_round[n]) for n in range(1, 5)]
    assert is_judged == [False, False, True, True]
    last = by_round[4]
    gain = sum(r["personal_accuracy"] - r["accuracy"] for r in last) / len(last)
    row = pq.read_table(ended.directory / "rounds.parquet").to_pylist()[-1]
    assert row["evaluate_personal_gain"] == pytest.approx(gain)
    weights = [r["examples"] for r in last]
    mean = sum(r["personal_accuracy"] * w for r, w in zip(last, weights, strict=True))
    assert row["evaluate_personal_accuracy"] == pytest.approx(mean / sum(weights))
    worst = min(r["personal_accuracy"] for r in last)
    assert row["evaluate_personal_worst_tenth_accuracy"] == worst
    # Of 64x8 + 8 shared numbers and 8x10 + 10 local ones, the first travel.
    trained = [r for r in clients if r["phase"] == "train"]
    assert all(520 * 4 < r["bytes_up"] < 610 * 4 for r in trained)
    page = (ended.directory / "report.html").read_text()
    assert "own models" in page
    assert "worst tenth" in page
    # The global model has the local parameters that a client begins with.
    opened = open_run(ended.directory)
    assert opened.evaluate()["accuracy"] == pytest.approx(row["server_accuracy"])


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"client": {"local": "nrom"}}, "no trained tensor of the model has such a name"),
        ({"client": {"local": "norm"}}, "the model has no trained layer that normalises"),
        ({"client": {"local": ["head", "body"]}}, "nothing would be shared"),
        ({"client": {"local": "head"}, "strategy": {"name": "HGP"}}, "'HGP' measures moments"),
        ({"client": {"local": "head"}, "strategy": {"name": "SCAFFOLD"}}, "'SCAFFOLD' asks for"),
        ({"client": {"local": "head", "vectorize": True}}, "client.vectorize = True"),
        ({"client": {"personal": {"name": "dito"}}}, "dito"),
        ({"client": {"personal": {"name": "ditto", "lambda": 1.0}}}, "lambda"),
        ({"client": {"personal": {"name": "ditto", "penalty": -1.0}}}, "penalty"),
        ({"client": {"personal": {"name": "ditto"}, "local": "head"}}, "expected one of both"),
        ({"client": {"personal": {"name": "fedrep"}}}, "expected client.local"),
        ({"client": {"personal": {"name": "pfedme"}, "momentum": 0.9}}, "client.momentum = 0.9"),
        ({"client": {"personal": {"name": "apfl"}, "optimizer": "adam"}}, "plain gradient steps"),
        ({"client": {"personal_every": 3}}, "clients have no models of their own"),
        (
            {"client": {"personal": {"name": "ditto"}}, "model": {"name": "noprop-dt"}},
            "train layers of it",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tables: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidExperimentError) as refused:
        given = Experiment.from_dict({"data": DATA, "model": {"name": "mlp"}, **tables})
        check_settings(given)
        prepare(given)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
