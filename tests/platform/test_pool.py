"""What Ray's dashboard shows of the workers: what they work for, and what they do."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import ray
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from atoll.platform.grid import RayGrid
from atoll.platform.mapping import map_over_workers

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
                one.server_round = server_round
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
