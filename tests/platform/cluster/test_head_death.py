"""The head dies, and the driver with it: a new cluster and ``--resume`` come to the same end."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atoll.platform.run_directory.checkpoint import CheckpointStore
from atoll.platform.runs.federation_run import run
from tests.support.clusters.node_cluster import ENVIRONMENT, RAY, kill_tree, wait_until

pytestmark = pytest.mark.ray

ROUNDS = 150
EXPERIMENT = f"""
[run]
name = "head"
rounds = {ROUNDS}
checkpoint_every = 1
evaluate_every = {ROUNDS}
[data]
dataset = "digits"
clients = 8
[model]
name = "linear"
[ray]
workers = 1
"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def head(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A head with one CPU; at the end all its processes are killed at once."""
    options = ("--head", "--block", "--num-cpus", "1", "--port", str(port))
    options += ("--node-ip-address", "127.0.0.1", "--include-dashboard=false", "--no-monitor")
    options += ("--ray-client-server-port", str(free_port()))
    options += ("--dashboard-agent-listen-port", str(free_port()))
    options += ("--temp-dir", tempfile.mkdtemp(prefix="r"))
    process = subprocess.Popen(
        [sys.executable, str(RAY), "start", *options],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: is_open(port), "the head")
        yield process
    finally:
        kill_tree(process.pid)
        process.wait()


def checkpoints(out: Path) -> list[int]:
    return CheckpointStore(out / "checkpoints").rounds()


@pytest.mark.usefixtures("cluster")
@pytest.mark.long
def test_a_run_whose_head_and_driver_were_killed_continues_to_the_same_bits(tmp_path: Path) -> None:
    file, out, port = tmp_path / "head.toml", tmp_path / "run", free_port()
    file.write_text(EXPERIMENT)
    command = [sys.executable, "-m", "atoll", "run", str(file), "--out", str(out), "--resume"]
    environment = ENVIRONMENT | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
    with head(port):
        driver = subprocess.Popen(command, env=environment)
        wait_until(lambda: checkpoints(out)[-1:] > [2], "a checkpoint")
        driver.kill()
        driver.wait()
    assert checkpoints(out)[-1] < ROUNDS
    assert not (out / "result.json").exists()
    with head(port):
        subprocess.run(command, env=environment, check=True, timeout=200)
    resumed = json.loads((out / "result.json").read_text())
    undisturbed = run(file, out=tmp_path / "undisturbed").summary
    assert resumed["rounds"] == ROUNDS
    assert resumed["parameters_sha256"] == undisturbed["parameters_sha256"]
    rounds = pq.read_table(out / "rounds.parquet")["round"].to_pylist()
    assert rounds == list(range(1, ROUNDS + 1))
