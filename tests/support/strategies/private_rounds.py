"""Rounds of central privacy in this process: clients whose updates are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from atoll import flower
from atoll.flower.arrays import array_record, to_array, view
from atoll.strategies.privacy.central_dp import CentralDP

# The update of a client: of its node id and the round.
Update = Callable[[int, int], NDArray[np.float64]]


class Nodes:
    """A grid of which a strategy asks for the node ids alone."""

    def __init__(self, clients: int) -> None:
        self._clients = clients

    def get_node_ids(self) -> Sequence[int]:
        return range(1, self._clients + 1)


def model(values: NDArray[np.float64]) -> ArrayRecord:
    return array_record({"w": to_array(np.asarray(values, np.float64))})


def private_round(
    strategy: CentralDP, server_round: int, values: NDArray[np.float64], update: Update
) -> tuple[NDArray[np.float64], MetricRecord, list[int]]:
    """Return the model after a round, its metrics, and who was asked."""
    flower.assume_identity()
    grid = Nodes(strategy.clients)
    asked = list(strategy.configure_train(server_round, model(values), ConfigRecord(), grid))  # type: ignore[arg-type]
    replies = []
    for message in asked:
        node = message.metadata.dst_node_id
        metrics = MetricRecord({"num-examples": node, "loss": float(node)})
        content = {"arrays": model(values + update(node, server_round)), "metrics": metrics}
        replies.append(Message(RecordDict(content), reply_to=message))
    arrays, metrics = strategy.aggregate_train(server_round, replies)
    assert arrays is not None
    assert metrics is not None
    nodes = sorted(message.metadata.dst_node_id for message in asked)
    return np.array(view(arrays["w"])), metrics, nodes


def private_run(
    strategy: CentralDP, rounds: int, size: int, update: Update
) -> list[NDArray[np.float64]]:
    """Return the models after each round, from one of zeros."""
    models = [np.zeros(size)]
    for server_round in range(1, rounds + 1):
        models.append(private_round(strategy, server_round, models[-1], update)[0])
    return models
