"""Flower app directories, unmodified: on our engine, and the same on stock Flower."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

import atoll
from atoll.errors import InvalidExperimentError
from atoll.platform.config.experiment import load_experiment
from atoll.platform.run_directory.checkpoint import CheckpointStore
from atoll.platform.runs.apps.app_directory import read_app
from tests.support.paths import ROOT

pytestmark = pytest.mark.ray

APP = ROOT / "tests/support/apps/flower_app"
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment for ``flwr run``, whose background SuperLink is stopped afterwards."""
    home = str(tmp_path_factory.mktemp("flwr-home"))
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    # Flower would install Atoll's dependencies once more, without its lock.
    installed = {"FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1"}
    # Stock Flower would join a Ray that an earlier test started by ``ray start``.
    ray = tempfile.mkdtemp(prefix="r")
    yield {**os.environ, **installed, "FLWR_HOME": home, "PATH": path, "RAY_TMPDIR": ray}
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLWR_HOME") == home:
                process.kill()
        except psutil.Error:
            continue


def atoll_flower(
    *arguments: object, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "atoll", "flower", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200, check=False
    )


def flwr_run(
    app: Path, nodes: int, config: str, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    command = [BIN / "flwr", "run", app, "--stream", "--run-config", config]
    command += ["--federation-config", f"num-supernodes={nodes}"]
    for _ in range(4):
        done = subprocess.run(
            list(map(str, command)),
            env=environment,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        # Flower gives its own SuperLink 15 seconds, which a busy machine may not have.
        if "Failed to start local SuperLink" not in done.stdout + done.stderr:
            break
    return done


@pytest.mark.long
def test_an_app_ends_with_the_arrays_of_stock_flower(tmp_path: Path, stock: dict[str, str]) -> None:
    copy = tmp_path / "app"
    shutil.copytree(APP, copy)
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    config = f"num-server-rounds=3 lr=0.05 nested.text='b' out='{tmp_path / 'ours.npy'}'"
    run = tmp_path / "run"
    done = atoll_flower(copy, "--run-config", config, "--num-supernodes", 6, "--out", run)
    assert done.returncode == 0, done.stderr
    changed = [p for p, content in before.items() if p.read_bytes() != content]
    assert not changed
    lines = done.stdout + done.stderr
    for partition in range(6):
        assert lines.count(f"CLIENT {partition} of 6 b") == 3
    assert "SERVER sizes [20, 21, 22, 23, 24, 25]" in lines
    assert "SERVER visits 3.0" in lines
    clients = pq.read_table(run / "clients.parquet")
    assert set(clients.column("phase").to_pylist()) == {"train", "evaluate", "query.size"}
    assert json.loads((run / "result.json").read_text())["rounds"] == 3

    config = config.replace("ours.npy", "theirs.npy")
    theirs = flwr_run(copy, 6, config, stock)
    assert (tmp_path / "theirs.npy").exists(), theirs.stdout + theirs.stderr
    np.testing.assert_allclose(
        np.load(tmp_path / "ours.npy"), np.load(tmp_path / "theirs.npy"), rtol=1e-5
    )


@pytest.mark.parametrize("strategy", ["OwnLoop", "FedMedian"])
def test_strategies_with_a_start_of_their_own_and_those_that_need_every_reply(
    tmp_path: Path, strategy: str, joining: dict[str, str]
) -> None:
    done = atoll_flower(
        *(APP, "--run-config", f"strategy='{strategy}'", "--num-supernodes", 6),
        *("--out", tmp_path / "run", "--workers", 1),
        *(("--report",) if strategy == "OwnLoop" else ()),
        env=joining,
    )
    assert done.returncode == 0, done.stderr
    assert ("SERVER own start" in done.stdout) is (strategy == "OwnLoop")
    # It takes as long as a short app: only where it is asked for.
    assert (tmp_path / "run" / "report.html").exists() is (strategy == "OwnLoop")
    assert ("atoll report" in " ".join(done.stdout.split())) is (strategy != "OwnLoop")


# Three queries a round, of moments and of products that depend on them; then training, evaluation.
ALIGNED = [
    "run.rounds=2",
    "data.dataset=colored-digits",
    "data.clients=5",
    'data.held_out=["e0.9"]',
    'data.partition={name="domain"}',
    "strategy.name=HGP",
    "strategy.fraction_train=1.0",
    "strategy.penalty_weight=10.0",
    'strategy.client_update="gradient"',
    'strategy.server_optimizer="sgd"',
    "strategy.server_learning_rate=0.1",
    "strategy.fraction_evaluate=0.4",
    "model.name=mlp-irm",
    "ray.workers=1",
]


@pytest.mark.long
def test_our_apps_on_stock_flower_end_with_our_arrays(
    tmp_path: Path, stock: dict[str, str], cluster: None
) -> None:
    overrides = " ".join(ALIGNED)
    theirs = flwr_run(ROOT, 5, f"overrides='{overrides}' out='{tmp_path / 'theirs'}'", stock)
    stored = CheckpointStore(tmp_path / "theirs" / "checkpoints").latest()
    assert stored is not None, theirs.stdout + theirs.stderr
    experiment = load_experiment(ROOT / "experiments" / "quickstart.toml", ALIGNED)
    atoll.run(experiment, out=tmp_path / "ours")
    ours = CheckpointStore(tmp_path / "ours" / "checkpoints").latest()
    assert ours is not None
    assert list(ours.arrays) == list(stored.arrays)
    for key, array in ours.arrays.items():
        np.testing.assert_allclose(
            array.numpy(), stored.arrays[key].numpy(), rtol=1e-4, atol=1e-6, err_msg=key
        )


def test_what_is_not_a_flower_app_or_not_its_config_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidExperimentError, match="no such file; expected a Flower app"):
        read_app(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'")
    with pytest.raises(InvalidExperimentError, match=r"has no \[tool.flwr.app\]"):
        read_app(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.flwr.app.components]\nserverapp = 'x'")
    with pytest.raises(InvalidExperimentError, match="components.serverapp = 'x'; expected"):
        read_app(tmp_path)
    with pytest.raises(InvalidExperimentError, match="has no such key; did you mean 'lr'"):
        read_app(APP, ["l=0.1"])
    with pytest.raises(InvalidExperimentError, match="--run-config"):
        read_app(APP, ["lr=0.1.1"])
    assert read_app(APP, ["lr=1.5 nested.text='c d'"]).run_config == {
        "num-server-rounds": 2,
        "lr": 1.5,
        "strategy": "FedAvg",
        "out": "",
        "nested.text": "c d",
    }
