"""Stock Flower's simulation as a process that runs app directories one after another.

Each app goes through ``_run_simulation`` with the arguments that Flower's own simulation process
gives it (``flwr/simulation/app.py``): components by name, the app's directory, a server context
with the fused run config. What is saved is time only: Ray and its actors are kept between apps.

    python stock_driver.py JOBS.json RESULTS.jsonl
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.conformance import engine_process

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from flwr.app import Context, RecordDict
from flwr.common.config import (
    get_fused_config_from_dir,
    get_metadata_from_config,
    get_project_config,
    parse_config_args,
)
from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend
from flwr.simulation.run_simulation import _run_simulation
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.telemetry import EventType
from flwr.superlink.grid import InMemoryGrid

SUPERLINK = 1


class _AllNodes:
    """Keeps the first look at the nodes waiting until all are registered.

    Stock starts the ServerApp before it registers nodes one by one, so how many a strategy samples
    in its first round is a matter of luck.
    """

    nodes = 0

    def install(self) -> None:
        look = InMemoryGrid.get_node_ids

        def look_at_all(grid: InMemoryGrid) -> set[int]:
            while len(found := set(look(grid))) < self.nodes:
                time.sleep(0.01)
            return found

        InMemoryGrid.get_node_ids = look_at_all


ALL_NODES = _AllNodes()


class _KeptActors:
    """Lets all runs of this process use the actors of the first, as many at once as a case says.

    Stock works on a node's second message while the first still runs, if an actor is free, and then
    one change of the node's state is lost. So one at a time is the rule.
    """

    pool: Any = None
    at_once = 1

    def install(self) -> None:
        build = RayBackend.build

        def build_once(backend: RayBackend, app_fn: Any) -> None:
            if self.pool is None:
                build(backend, app_fn)
                self.pool = backend.pool
            backend.pool, backend.app_fn = self.pool, app_fn

        RayBackend.build = build_once
        RayBackend.terminate = lambda backend: None
        RayBackend.num_workers = property(lambda backend: self.at_once)


ACTORS = _KeptActors()


def start(jobs: list[dict[str, Any]]) -> None:
    path = os.pathsep.join([*(job["app"] for job in jobs), *sys.path])
    os.environ["PYTHONPATH"] = path
    engine_process.start_ray(runtime_env={"env_vars": {"PYTHONPATH": path}})
    ACTORS.install()
    ALL_NODES.install()


def run(job: dict[str, Any]) -> int:
    ALL_NODES.nodes, ACTORS.at_once = job["nodes"], job["at_once"]
    directory = Path(job["app"])
    config = get_project_config(directory)
    fab_id, fab_version = get_metadata_from_config(config)
    number = 1000 + job["number"]
    flower_run = Run.create_empty(number)
    flower_run.fab_id, flower_run.fab_version = fab_id, fab_version
    flower_run.override_config = parse_config_args(job["run_config"])
    flower_run.primary_task_id = number
    flower_run.federation_id = NOOP_FEDERATION_ID
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = number, number, SUPERLINK
    fused = get_fused_config_from_dir(directory, flower_run.override_config)
    components = config["tool"]["flwr"]["app"]["components"]
    _run_simulation(
        server_app_attr=components["serverapp"],
        client_app_attr=components["clientapp"],
        num_supernodes=job["nodes"],
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        app_dir=str(directory),
        run=flower_run,
        server_app_context=Context(number, SUPERLINK, {}, RecordDict(), fused),
        is_app=True,
        exit_event=EventType.FLWR_SIMULATION_RUN_LEAVE,
    )
    return 0


if __name__ == "__main__":
    engine_process.main(start, run)
