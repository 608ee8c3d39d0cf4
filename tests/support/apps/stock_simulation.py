"""Stock Flower's own simulation, beside which strategies are run on ours."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from tests.support.clusters.probing import environment_without_ray

Results = dict[str, dict[str, np.ndarray]]


def keep_results(
    target: Path, app: ClientApp, nodes: int, results_on: Callable[[Grid, Context], Results]
) -> None:
    """Run an app on stock Flower; keep, by name, the arrays that its strategies come to."""
    server, results = ServerApp(), Results()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        results.update(results_on(grid, context))

    run_simulation(
        server_app=server,
        client_app=app,
        num_supernodes=nodes,
        backend_config={
            "init_args": {"num_cpus": 2, "include_dashboard": False, "logging_level": "ERROR"},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    flat = {f"{n}/{key}": value for n, arrays in results.items() for key, value in arrays.items()}
    np.savez(target, **flat)


def results_of(app: ModuleType, folder: Path) -> Results:
    """Run a module as a script, in a process of its own, and return what it kept."""
    target = folder / "arrays.npz"
    # Stock Flower would join a Ray that an earlier test started by ``ray start``.
    done = subprocess.run(
        [sys.executable, str(app.__file__), str(target)],
        env={**environment_without_ray(), "RAY_TMPDIR": tempfile.mkdtemp(prefix="r")},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert target.exists(), done.stdout + done.stderr
    found: Results = {}
    with np.load(target) as arrays:
        for place in arrays.files:
            name, _, key = place.partition("/")
            found.setdefault(name, {})[key] = arrays[place]
    return found
