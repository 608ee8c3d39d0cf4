"""Started by test_autoscaling.py: an autoscaling cluster, what is asked of it and what comes of it.

To be run in namespaces of its own: the cluster begins with ``ray stop``.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from typing import Any

import ray
from flwr.app import Message, RecordDict
from ray.cluster_utils import AutoscalingCluster

from atoll.errors import AtollError
from atoll.platform.cluster.autoscaler import AutoscalerReport, read_report
from atoll.platform.grid.ray_grid import RayGrid
from tests.support.clusters.cluster_probe import app
from tests.support.clusters.node_cluster import wait_until

NODES = 2
NODE: dict[str, Any] = {
    "resources": {"CPU": 1, "object_store_memory": 200 << 20},
    "node_config": {},
    "min_workers": 0,
    "max_workers": NODES,
}


class Said(logging.Handler):
    """Keeps what Atoll tells the user."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def cpus() -> float:
    return sum(node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"])


def ask_everyone(grid: RayGrid) -> set[str]:
    """Return the nodes that clients ran on."""
    messages = [
        Message(RecordDict(), dst_node_id=node, message_type="query")
        for node in grid.get_node_ids()
    ]
    return {str(reply.content["place"]["node"]) for reply in grid.send_and_receive(messages)}


def refusal(**options: Any) -> str:
    try:
        RayGrid(app, 2, **options)
    except AtollError as error:
        return f"{type(error).__name__}: {error}"
    return "not refused"


def undisturbed(version: str) -> dict[str, Any]:
    """Use what the autoscaler has, ask for what it does not have, and let it go."""
    found: dict[str, Any] = {}
    said = Said()
    logger = logging.getLogger("atoll")
    logger.addHandler(said)
    logger.setLevel(logging.INFO)
    found["at_first"] = cpus()
    # There are 5 chunks, so it could use 5 workers.
    with RayGrid(app, 5, chunk_size=1) as grid:
        found["workers_at_first"] = grid.workers
        rounds: list[set[str]] = []
        wait_until(lambda: rounds.append(ask_everyone(grid)) or len(rounds[-1]) == NODES, "nodes")
        found["workers"] = grid.workers
        found["used"] = len(rounds[-1])
        found["late"] = refusal(cpus_per_worker=2.0, nodes_timeout=0.01)
        patience = 60.0 if version == "v2" else 2.0
        found["never"] = refusal(cpus_per_worker=2.0, nodes_timeout=patience)
        found["still_there"] = cpus()
    found["said"] = said.lines
    wait_until(lambda: cpus() == 0, "nodes to be let go")
    report = read_report()
    assert isinstance(report, AutoscalerReport)
    found["coming_at_last"] = sum(report.coming.values())
    return found


def given() -> dict[str, int]:
    """Ask for more workers than the autoscaler has nodes for."""
    with RayGrid(app, 20, workers=5, chunk_size=1) as grid:
        wait_until(lambda: len(ask_everyone(grid)) == NODES, "nodes")
        found = {"workers": grid.workers, "nodes": int(cpus())}
    wait_until(lambda: cpus() == 0, "nodes to be let go")
    return found


def labelled() -> list[str]:
    """Return the zones of the nodes on which clients ran that are to be in one."""
    with RayGrid(app, 5, workers=1, label_selector={"zone": "b"}) as grid:
        used = ask_everyone(grid)
    zones = {node["NodeID"]: node["Labels"].get("zone", "none") for node in ray.nodes()}
    return sorted(zones[node] for node in used)


def killed() -> bool:
    """Kill a driver that holds nodes."""
    driver = subprocess.Popen([sys.executable, __file__, "hold"], env={**os.environ})
    wait_until(lambda: cpus() == NODES, "nodes")
    driver.kill()
    driver.wait()
    wait_until(lambda: cpus() == 0, "nodes to be let go")
    return True


def main() -> None:
    version = sys.argv[1]
    if version == "hold":
        ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
        with RayGrid(app, 5, workers=NODES):
            time.sleep(1000)
    cluster = AutoscalingCluster(
        {"CPU": 0},
        {"small": NODE, "labelled": NODE | {"labels": {"zone": "b"}, "max_workers": 1}},
        autoscaler_v2=version == "v2",
        idle_timeout_minutes=0.02,
        max_workers=NODES,
    )
    cluster.start()
    ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
    found = undisturbed(version)
    found["given"] = given()
    found["labelled"] = labelled() if version == "v2" else None
    wait_until(lambda: cpus() == 0, "nodes to be let go")
    found["let_go_when_killed"] = killed()
    print("FOUND " + json.dumps(found), flush=True)
    # The namespace ends with this process, and all that is in it.
    os._exit(0)


if __name__ == "__main__":
    main()
