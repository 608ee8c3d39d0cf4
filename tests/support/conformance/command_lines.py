"""``flwr run`` and ``atoll flower`` as a user types them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.support.conformance.two_engines import STOCK_PYTHON, Shown
from tests.support.paths import ROOT

# On a busy machine Flower gives its SuperLink, and Ray its node, too little time to start.
STARTS = 5
NOT_STARTED = re.compile(r"Failed to start local SuperLink|node timed out during startup")


@contextmanager
def flwr_environment(home: Path) -> Iterator[dict[str, str]]:
    """An environment for ``flwr run``, whose SuperLink in the background is stopped at the end."""
    path = f"{Path(STOCK_PYTHON).parent}{os.pathsep}{os.environ['PATH']}"
    found = {**_without_ray(), "FLWR_HOME": str(home), "PATH": path}
    # Another test's SuperLink may be at the usual port, and would be taken for this one's.
    for name in ("FLWR_LOCAL_SUPERLINK_HTTP_API_PORT", "FLWR_LOCAL_CONTROL_API_PORT"):
        found[name] = str(_free_port())
    found["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
    try:
        yield found
    finally:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("FLWR_HOME") == str(home):
                    process.kill()


def flwr_run(app: Path, config: str, environment: dict[str, str]) -> Shown:
    """Run an app with ``flwr run``, as many nodes as Flower takes by itself."""
    command = [str(Path(STOCK_PYTHON).parent / "flwr"), "run", str(app), "--stream"]
    return _shown([*command, "--run-config", config], environment)


def atoll_flower(app: Path, config: str, out: Path) -> Shown:
    """Run an app with ``atoll flower``, as many nodes as it takes by itself."""
    command = [sys.executable, "-m", "atoll", "flower", str(app), "--out", str(out)]
    environment = {**_without_ray(), "PYTHONPATH": str(ROOT)}
    return _shown([*command, "--run-config", config], environment)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _without_ray() -> dict[str, str]:
    """Return an environment in which both engines find no running Ray, so start their own."""
    # Sockets lie in this folder, and their paths may not be long.
    folder = tempfile.mkdtemp(prefix="r")
    found = {**os.environ, "RAY_TMPDIR": folder, "FLWR_TELEMETRY_ENABLED": "0"}
    found.pop("RAY_ADDRESS", None)
    return found


def _shown(command: list[str], environment: dict[str, str]) -> Shown:
    for _ in range(STARTS):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=400, check=False
        )
        if not NOT_STARTED.search(done.stdout + done.stderr):
            break
    return Shown(done.returncode, done.stdout, done.stderr, 0.0)
