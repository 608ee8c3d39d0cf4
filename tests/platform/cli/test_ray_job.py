"""The commands of deploy/README.md on a local head: runs as Ray jobs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.ray

RAY = Path(sys.executable).with_name("ray")
EXPERIMENT = """
[run]
name = "job"
rounds = 2
[data]
dataset = "digits"
clients = 6
[model]
name = "linear"
"""
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {
    # As deploy/README.md says that clusters are started.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "a-token-of-the-tests",
    # A loaded machine needs longer to write a checkpoint than the 3 s that Ray waits.
    "RAY_JOB_STOP_WAIT_TIME_S": "60",
    "PYTHONPATH": str(ROOT),
}


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def wait_for_port(port: int, seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the head did not start"
            time.sleep(0.2)


def python(*arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=ENVIRONMENT | settings,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of a head's dashboard."""
    dashboard = free_port()
    # In a session of its own: "ray stop" would stop every Ray of the machine.
    options = ("--head", "--block", "--num-cpus", 2, "--port", free_port())
    options += ("--include-dashboard=true", "--dashboard-agent-listen-port", free_port())
    options += ("--dashboard-host", "127.0.0.1", "--dashboard-port", dashboard)
    options += ("--ray-client-server-port", free_port())
    options += ("--temp-dir", tempfile.mkdtemp(prefix="r"))
    process = subprocess.Popen(
        [sys.executable, str(RAY), "start", *map(str, options)],
        env=ENVIRONMENT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(dashboard)
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "job.toml").write_text(EXPERIMENT)
    return tmp_path / "work"


@pytest.mark.long
def test_a_run_by_rays_own_command(head: str, work: Path, tmp_path: Path) -> None:
    submit = (
        *(RAY, "job", "submit", "--address", head, "--working-dir", work),
        *("--", sys.executable, "-m", "atoll", "run", "job.toml", "--out", tmp_path / "run"),
    )
    for _ in range(20):
        done = python(*submit)
        if "No available agent" not in done.stderr:
            break
        time.sleep(2.0)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["rounds"] == 2
    assert "round 2/2" in done.stdout


@pytest.mark.long
def test_a_job_that_was_stopped_continues_when_it_is_submitted_again(
    head: str, work: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def submit(*options: object) -> subprocess.CompletedProcess[str]:
        return python(
            *("-m", "atoll", "submit", work / "job.toml", "--address", head, "--out", run),
            *("--working-dir", work, "--python", sys.executable, "--workers", 1, *options),
        )

    detached = submit(
        *("--detach", "--submission-id", "first", "--entrypoint-num-cpus", 0.5),
        *("--set", "run.rounds=100000", "--set", "run.checkpoint_every=100000"),
    )
    assert (detached.returncode, detached.stdout) == (0, "job first\n"), detached.stderr
    taken = submit("--detach", "--submission-id", "first")
    assert taken.returncode == 1
    assert "refuses the job" in taken.stderr
    assert "Traceback" not in taken.stderr
    deadline = time.monotonic() + 120
    while not (run / "rounds.parquet").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # Ray stops a job's command with SIGTERM, upon which the run writes a checkpoint.
    stopped = python(RAY, "job", "stop", "--address", head, "first")
    assert stopped.returncode == 0, stopped.stderr
    [checkpoint] = (run / "checkpoints").iterdir()
    ended = int(checkpoint.name.removeprefix("round-"))

    again = submit("--set", f"run.rounds={ended + 1}")
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"continuing from round {ended + 1}" in again.stdout
    assert f"round {ended + 1}/{ended + 1}" in again.stdout
    rounds = pq.read_table(run / "rounds.parquet").column("round").to_pylist()
    assert rounds == list(range(1, ended + 2))
    # The exit code is the command's: 1 for a directory of another run, which is said.
    other = submit("--set", "client.batch_size=3")
    assert other.returncode == 1
    assert "client.batch_size: 20 there, 3 now" in other.stdout
    # Ray's own account of a job that failed ends with its log, which was shown.
    assert "Job entrypoint command" in other.stderr
    assert "batch_size" not in other.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"RAY_AUTH_MODE": ""}, ""),
        ({"RAY_AUTH_TOKEN": "another"}, "this Ray does not take the token of RAY_AUTH_TOKEN;"),
        ({"RAY_AUTH_TOKEN": ""}, "this Ray asks for a token; expected the head's token"),
        (
            {"RAY_AUTH_MODE": "disabled"},
            "this Ray asks for a token, and RAY_AUTH_MODE = 'disabled'",
        ),
    ],
)
@pytest.mark.long
def test_a_job_is_submitted_with_the_token_alone(
    head: str, tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    # Processes of their own: one keeps the mode and the token that it began with.
    script = "import sys; from atoll.platform.cli.submission import RayJobs; RayJobs(sys.argv[1])"
    done = python("-c", script, head, HOME=str(tmp_path), **settings)
    assert (done.returncode == 0) == (not message), done.stderr
    if message:
        said = done.stderr.splitlines()[-1].partition(": ")[2]
        assert said.startswith(f"--address = '{head}': {message}")
