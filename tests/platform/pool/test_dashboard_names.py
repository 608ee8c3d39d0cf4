"""What Ray's dashboard shows of the workers: what they work for, and what they do."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
import pytest
import ray
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from atoll.platform.cluster.capacity import Allocation
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.pool.mapping import map_over_workers
from atoll.platform.pool.worker_pool import WorkerPool
from atoll.platform.worker.worker_setup import worker_setup

pytestmark = pytest.mark.usefixtures("cluster")


def app_that_says_its_name() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        name = ray.get_runtime_context().get_task_name()
        return Message(RecordDict({"said": ConfigRecord({"name": name})}), reply_to=message)

    return app


def name_of_call(argument: int) -> str:
    return str(ray.get_runtime_context().get_task_name())


def test_workers_and_their_tasks_are_named_by_their_work() -> None:
    arrays = ArrayRecord({"w": Array(np.zeros(2, np.float32))})
    with (
        RayGrid(app_that_says_its_name, 3, workers=1, name="quick") as grid,
        RayGrid(app_that_says_its_name, 3, workers=1, name="quick") as other,
    ):
        said: list[Any] = []
        for server_round in (1, 2):
            for one in (grid, other):
                one.set_round(server_round)
                messages = FedAvg(fraction_train=1.0, min_available_nodes=3).configure_train(
                    server_round, arrays, ConfigRecord(), one
                )
                replies = one.send_and_receive(messages)
                said.append({reply.content["said"]["name"] for reply in replies})  # type: ignore[call-overload, index]
        assert said == [{"train, round 1"}, {"train, round 1"}] + [{"train, round 2"}] * 2
        assert map_over_workers(grid.pool, name_of_call, [(1,), (2,)]) == ["name of call"] * 2
        names = [n for n in ray.util.list_named_actors() if n.startswith("quick-")]
        assert len(names) == 2
        assert all(re.fullmatch(r"quick-[0-9a-f]{6}/worker-0", name) for name in names)


def test_workers_that_shared_the_cpus_are_spread_anew_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("atoll.platform.pool.cluster_watch.LOOK_SECONDS", 0.0)
    nodes = frozenset(node["NodeID"] for node in ray.nodes())
    allowed = [Allocation(1, 0.5, 0.0, nodes)]
    setup = worker_setup(ClientApp, {}, 1, gpu=False)
    pool = WorkerPool(
        setup, allowed[0], look=lambda: allowed.pop(0) if len(allowed) > 1 else allowed[0]
    )
    try:
        before = set(map_over_workers(pool, os.getpid, [()]))
        # A node has joined: there is room for another, and for each to have a CPU of its own.
        allowed[:] = [Allocation(2, 1.0, 0.0, nodes)]
        after: set[int] = set()
        while len(after) < 2:
            after |= set(map_over_workers(pool, os.getpid, [()] * 4))
        assert pool.size == 2
        assert before.isdisjoint(after)
        # The node has left: its workers are not waited for.
        allowed[:] = [Allocation(1, 1.0, 0.0, frozenset()), Allocation(1, 1.0, 0.0, nodes)]
        assert set(map_over_workers(pool, os.getpid, [()])).isdisjoint(after)
    finally:
        pool.close()
