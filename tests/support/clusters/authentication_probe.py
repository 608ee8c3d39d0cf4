"""Started by test_authentication.py: connects to a Ray as processes with different tokens would."""

from __future__ import annotations

import json
import os
import sys

from atoll.errors import AtollError
from atoll.platform.cluster.capacity import Allocation
from atoll.platform.cluster.connection import Cluster
from atoll.platform.pool.mapping import map_over_workers
from atoll.platform.pool.worker_pool import WorkerPool
from atoll.platform.worker.worker_setup import worker_setup

NAMES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def connects(address: str | None) -> str:
    """Return what came of it: what a worker computed, or the error."""
    from flwr.clientapp import ClientApp

    try:
        cluster = Cluster(address, cpus=1)
    except AtollError as error:
        return str(error)
    pool = WorkerPool(worker_setup(ClientApp, {}, 1, gpu=False), Allocation(1, 1.0, 0.0))
    # The argument is in the driver: its worker must be let in there, too.
    [found] = map_over_workers(pool, len, [(b"0" * 2_000_000,)])
    pool.close()
    cluster.close()
    return f"computed {found}"


def main() -> None:
    address = sys.argv[1] if sys.argv[1] != "own" else None
    found = {}
    for name, settings in json.loads(sys.argv[2]).items():
        for variable in NAMES:
            os.environ.pop(variable, None)
        os.environ.update(settings)
        found[name] = connects(address)
        left = {variable: os.environ.get(variable) for variable in NAMES}
        found[f"{name}: left"] = {k: v for k, v in left.items() if v is not None}
    print("FOUND " + json.dumps(found))


if __name__ == "__main__":
    main()
