"""Ray's processes die before the first round: no run waits for what will not come."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray
from flwr.clientapp import ClientApp

from atoll.errors import EngineError
from atoll.platform.cluster.bounded_waits import answer
from atoll.platform.cluster.capacity import Allocation
from atoll.platform.pool.mapping import map_over_workers
from atoll.platform.pool.worker_pool import WorkerPool
from atoll.platform.runs.federation_run import run
from atoll.platform.worker.worker_setup import worker_setup
from tests.platform.cluster.test_authentication import start_head, stop
from tests.support.clusters.probing import environment_without_ray

pytestmark = pytest.mark.ray

EXPERIMENT = """
[run]
name = "start"
rounds = 1
[data]
dataset = "digits"
clients = 4
[model]
name = "linear"
[ray]
workers = 2
"""


def worker_processes(driver: int) -> Iterator[psutil.Process]:
    """Ray's worker processes of a driver, from their first instruction on."""
    for process in psutil.Process(driver).children(recursive=True):
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if any(re.match(r"ray::IDLE|.*/default_worker.py$", part) for part in command[:2]):
            yield process


@pytest.mark.usefixtures("cluster")
@pytest.mark.long
def test_a_run_whose_first_worker_processes_are_killed_continues_to_the_same_bits(
    tmp_path: Path,
) -> None:
    file, out = tmp_path / "start.toml", tmp_path / "run"
    file.write_text(EXPERIMENT)
    driver = subprocess.Popen(
        [sys.executable, "-m", "atoll", "run", str(file), "--out", str(out)],
        # Ray gives up a process of which it has not heard after 60 s otherwise.
        env=environment_without_ray() | {"RAY_worker_register_timeout_seconds": "30"},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    killed: set[int] = set()
    while len(killed) < 2 and driver.poll() is None:
        for process in list(worker_processes(driver.pid))[: 2 - len(killed)]:
            # While it starts: Ray has not met it yet, and learns of its death from nobody.
            os.kill(process.pid, signal.SIGKILL)
            killed.add(process.pid)
        time.sleep(0.01)
    _, errors = driver.communicate(timeout=240)
    assert driver.returncode == 0, errors
    assert len(killed) == 2
    undisturbed = run(file, out=tmp_path / "undisturbed").summary
    result = json.loads((out / "result.json").read_text())
    assert result["parameters_sha256"] == undisturbed["parameters_sha256"]


@pytest.mark.long
def test_a_driver_is_let_in_where_a_worker_process_died_before_the_first_driver(
    tmp_path: Path,
) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(os.environ["RAY_AUTH_TOKEN"])
    process, address = start_head(tmp_path)
    # Less than a raylet gives its workers; it lets the second driver in all the same.
    script = (
        "import sys; from atoll.platform.cluster import first_driver;"
        "first_driver.WAIT_SECONDS = 40.0;"
        "from atoll.platform.cluster.connection import Cluster; Cluster(sys.argv[1])"
    )
    try:
        command = [sys.executable, "-c", script, address]
        driver = subprocess.Popen(command, env=environment_without_ray())
        killed = 0
        while not killed and driver.poll() is None:
            for one in list(worker_processes(process.pid))[:1]:
                os.kill(one.pid, signal.SIGKILL)
                killed += 1
            time.sleep(0.01)
        assert driver.wait(200) == 0
        assert killed
    finally:
        stop(process)


@pytest.fixture
def taken(cluster: None) -> Iterator[None]:
    """All of the cluster's CPUs, taken by somebody else."""

    class Idler:
        def is_there(self) -> bool:
            return True

    idler = ray.remote(num_cpus=6)(Idler).remote()
    assert ray.get(idler.is_there.remote(), timeout=200)
    yield
    ray.kill(idler)


def test_workers_that_find_no_room_are_an_error_in_time(taken: None) -> None:
    setup = worker_setup(ClientApp, {}, 1, gpu=False)
    pool = WorkerPool(setup, Allocation(1, 1.0, 0.0), start_timeout=3.0)
    try:
        with pytest.raises(
            EngineError, match=r"no worker has started within ray.nodes_timeout = 3 s"
        ):
            map_over_workers(pool, len, [((),)])
    finally:
        pool.close()


def test_who_does_not_answer_or_has_ended_is_named(cluster: None) -> None:
    class Slow:
        def wait(self) -> None:
            time.sleep(600)

        def end(self) -> None:
            os._exit(1)

    slow = ray.remote(num_cpus=0)(Slow).remote()
    with pytest.raises(EngineError, match=r"the slow one has not answered within 1 s; is there"):
        answer(slow.wait.remote(), "the slow one", 1.0)
    ray.kill(slow)
    with pytest.raises(EngineError, match=r"the short one has ended \("):
        answer(ray.remote(num_cpus=0)(Slow).remote().end.remote(), "the short one")
