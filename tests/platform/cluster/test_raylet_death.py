"""The raylet beside the driver dies: the run ends, and continues to the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from atoll.platform.runs.federation_run import run
from tests.support.clusters.node_cluster import ENVIRONMENT, wait_until

pytestmark = pytest.mark.ray

EXPERIMENT = """
[run]
name = "raylet"
rounds = 100
checkpoint_every = 1
evaluate_every = 100
[data]
dataset = "digits"
clients = 8
[model]
name = "linear"
[ray]
workers = 1
"""
# So that the cluster misses the node after some seconds.
SOON = {"RAY_health_check_initial_delay_ms": "0", "RAY_health_check_period_ms": "300"}


def raylet_of(driver: int) -> psutil.Process:
    """The raylet that a driver started."""
    [raylet] = [c for c in psutil.Process(driver).children(True) if c.name() == "raylet"]
    return raylet


@pytest.mark.usefixtures("cluster")
@pytest.mark.long
def test_a_run_whose_raylet_was_killed_ends_and_continues_to_the_same_bits(tmp_path: Path) -> None:
    file, out = tmp_path / "raylet.toml", tmp_path / "run"
    file.write_text(EXPERIMENT)
    atoll = [sys.executable, "-m", "atoll"]
    driver = subprocess.Popen(
        [*atoll, "run", str(file), "--out", str(out)],
        env=ENVIRONMENT | SOON,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    wait_until(lambda: (out / "checkpoints" / "round-000003").exists(), "a checkpoint")
    raylet_of(driver.pid).kill()
    _, errors = driver.communicate(timeout=200)
    assert driver.returncode == 1, errors
    # Ray's own code ends a process that calls its dead raylet at once, with 1 and without a word
    # (its log says why). Which comes first depends on what the driver did at that moment.
    said = [line for line in errors.splitlines() if line.startswith("error:")]
    assert all("the Ray node that this process is on has died" in line for line in said), errors
    assert "Traceback" not in errors
    assert not (out / "result.json").exists()
    subprocess.run(
        [*atoll, "resume", str(out)],
        env=ENVIRONMENT,
        cwd=tmp_path,
        check=True,
        timeout=200,
        stdout=subprocess.DEVNULL,
    )
    resumed = json.loads((out / "result.json").read_text())
    undisturbed = run(file, out=tmp_path / "undisturbed").summary
    assert resumed["parameters_sha256"] == undisturbed["parameters_sha256"]
