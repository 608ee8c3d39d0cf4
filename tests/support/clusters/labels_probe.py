"""Started by test_label_selector.py: workers on a cluster of two nodes that have labels."""

from __future__ import annotations

import json
import sys
from typing import Any

import ray
from flwr.app import Message, RecordDict
from ray.cluster_utils import Cluster

from atoll.errors import AtollError
from atoll.platform.cluster.capacity import WorkerRequest, allocate
from atoll.platform.grid.ray_grid import RayGrid
from tests.support.clusters.cluster_probe import app

LABELS = {"a": {"zone": "a", "disk": "ssd"}, "b": {"zone": "b"}}
# By name: a selector, and whether Ray and Atoll take each node for one of its.
SELECTORS = {
    "value": {"zone": "b"},
    "not": {"zone": "!b"},
    "in": {"zone": "in(b, c)"},
    "not in": {"zone": "!in(a,c)"},
    "missing": {"disk": "!hdd"},
    "both": {"zone": "in(a, b)", "disk": "ssd"},
    "neither": {"zone": "c"},
}


def placed(selector: dict[str, str], zones: dict[str, str]) -> list[str]:
    """Return the zones that Ray places actors in, one in each if it can."""

    class Place:
        def node(self) -> str:
            return str(ray.get_runtime_context().get_node_id())

    options: Any = {"label_selector": selector, "scheduling_strategy": "SPREAD", "num_cpus": 1}
    actors = [ray.remote(Place).options(**options).remote() for _ in range(2)]
    seconds = 3 if selector == SELECTORS["neither"] else 100
    ready, _ = ray.wait([actor.node.remote() for actor in actors], num_returns=2, timeout=seconds)
    found = sorted({zones[node] for node in ray.get(ready)})
    for actor in actors:
        ray.kill(actor)
    return found


def admitted(selector: dict[str, str], zones: dict[str, str]) -> list[str]:
    """Return the zones of the nodes that Atoll counts workers on."""
    try:
        allocation = allocate(WorkerRequest("auto", 1.0, 0.0, selector))
    except AtollError:
        return []
    return sorted(zones[node] for node in allocation.nodes)


def run_on(selector: dict[str, str], zones: dict[str, str]) -> dict[str, Any]:
    """Return how many workers a grid has, and the zones that its clients run in."""
    with RayGrid(app, 40, chunk_size=1, label_selector=selector) as grid:
        messages = [
            Message(RecordDict(), dst_node_id=node, message_type="query")
            for node in grid.get_node_ids()
        ]
        replies = grid.send_and_receive(messages)
        used = {zones[str(reply.content["place"]["node"])] for reply in replies}
        return {"workers": grid.workers, "zones": sorted(used)}


def refused(selector: dict[str, str]) -> str:
    try:
        RayGrid(app, 2, label_selector=selector)
    except AtollError as error:
        return f"{type(error).__name__}: {error}"
    return "not refused"


def main() -> None:
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "labels": LABELS["a"]})
    nodes.add_node(num_cpus=3, labels=LABELS["b"])
    ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
    zones = {node["NodeID"]: node["Labels"]["zone"] for node in ray.nodes()}
    found: dict[str, Any] = {
        "ray": {name: placed(one, zones) for name, one in SELECTORS.items()},
        "atoll": {name: admitted(one, zones) for name, one in SELECTORS.items()},
        "run": run_on({"zone": "b"}, zones),
        "refused": refused({"zone": "c", "rack": "1"}),
    }
    print("FOUND " + json.dumps(found))
    ray.shutdown()
    nodes.shutdown()


if __name__ == "__main__":
    sys.exit(main())
