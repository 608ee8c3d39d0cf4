"""Started by test_gpu_workers.py: Ray with a GPU in its books, and workers that run out of it."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from atoll.errors import EngineError
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.pool.mapping import map_over_workers
from tests.support.apps.gpu_apps import app_in_a_worker


def train(grid: RayGrid, server_round: int, **config: int) -> list[str | None]:
    """Return what each client replied, as text; None for an error."""
    grid.set_round(server_round)
    arrays = ArrayRecord({"w": Array(np.zeros(3))})
    content = RecordDict({"arrays": arrays, "config": ConfigRecord(config)})
    nodes = grid.get_node_ids()
    messages = [Message(content, dst_node_id=node, message_type="train") for node in nodes]
    return [
        None if reply.has_error() else reply.content["arrays"]["w"].numpy().tobytes().hex()
        for reply in grid.send_and_receive(messages)
    ]


def main() -> None:
    import ray

    logging.getLogger("atoll").setLevel(logging.ERROR)
    folder = Path(tempfile.mkdtemp())
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=1,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
    )
    found: dict[str, Any] = {}
    app = partial(app_in_a_worker, folder, 8)
    with RayGrid(app, 12, seed=5, workers=3, chunk_size=3) as grid:
        found["measured"] = train(grid, 1), grid.pool.sharing.facts()
        found["backed_off"] = train(grid, 2, room=1), grid.pool.sharing.facts()
        found["deaths"] = grid.pool.deaths
        try:
            train(grid, 3, **{"too-large": 8})
        except EngineError as error:
            found["refused"] = str(error)
        found["afterwards"] = map_over_workers(grid.pool, abs, [(-1,), (-2,)])
    with RayGrid(app, 16, seed=5, workers=1, chunk_size=16, vectorize="auto") as grid:
        found["together"] = train(grid, 1), vars(grid.vectorization)
    print("FOUND " + json.dumps(found))
    ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
