"""Started by test_cluster.py: a Ray cluster of two nodes, and what RayGrid makes of it."""

from __future__ import annotations

import json
import os
import sys
import time

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def where(message: Message, context: Context) -> Message:
    import ray

    time.sleep(0.01)
    place = {
        "node": ray.get_runtime_context().get_node_id(),
        "pid": os.getpid(),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }
    return Message(RecordDict({"place": ConfigRecord(place)}), reply_to=message)


def main() -> None:
    import ray
    from ray.cluster_utils import Cluster

    from atoll.errors import InvalidExperimentError
    from atoll.platform.grid.ray_grid import RayGrid

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
    nodes.add_node(num_cpus=3, num_gpus=1)
    ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
    found = {}
    for name, shares in {"cpus": (1.0, 0.0), "gpus": (0.5, 0.5), "large": (2.0, 0.0)}.items():
        cpus, gpus = shares
        with RayGrid(app, 60, cpus_per_worker=cpus, gpus_per_worker=gpus, chunk_size=1) as grid:
            deadline, seen = time.monotonic() + 150, {}
            # The first workers answer while the last still start.
            while len(seen) < grid.workers and time.monotonic() < deadline:
                messages = [
                    Message(RecordDict(), dst_node_id=node, message_type="query")
                    for node in grid.get_node_ids()
                ]
                for reply in grid.send_and_receive(messages):
                    place = dict(reply.content["place"])
                    seen[place["pid"]] = place
            found[name] = {"workers": grid.workers, "places": list(seen.values())}
    try:
        RayGrid(app, 2, cpus_per_worker=4.0)
    except InvalidExperimentError as error:
        found["refused"] = str(error)
    print("FOUND " + json.dumps(found))
    ray.shutdown()
    nodes.shutdown()


if __name__ == "__main__":
    sys.exit(main())
