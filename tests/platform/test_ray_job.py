"""The commands of deploy/README.md on a local head: a run as a Ray job."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
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


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def wait_for_port(port: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the head did not start"
            time.sleep(0.2)


def test_a_run_as_a_ray_job(tmp_path: Path) -> None:
    port, dashboard = free_port(), free_port()
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "job.toml").write_text(EXPERIMENT)

    def ray(*arguments: object) -> list[str]:
        return [sys.executable, str(RAY), *map(str, arguments)]

    # In a session of its own: "ray stop" would stop every Ray of the machine.
    options = ("--head", "--block", "--num-cpus", 2, "--port", port, "--include-dashboard=true")
    options += ("--dashboard-agent-listen-port", free_port())
    options += ("--temp-dir", tempfile.mkdtemp(prefix="r"))
    head = subprocess.Popen(
        ray("start", *options, "--dashboard-host", "127.0.0.1", "--dashboard-port", dashboard),
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(dashboard)
        submit = ray(
            *("job", "submit", "--address", f"http://127.0.0.1:{dashboard}"),
            *("--working-dir", tmp_path / "work", "--", sys.executable, "-m", "atoll"),
            *("run", "job.toml", "--out", tmp_path / "run"),
        )
        for _ in range(20):
            done = subprocess.run(
                submit, env=environment, capture_output=True, text=True, timeout=200, check=False
            )
            if "No available agent" not in done.stderr:
                break
            time.sleep(2.0)
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads((tmp_path / "run" / "result.json").read_text())
        assert result["rounds"] == 2
        assert "round 2/2" in done.stdout
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(timeout=60)
