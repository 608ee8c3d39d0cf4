"""Rounds of a federation in this process, averaged as FedAvg does.

A client's reply is that of ``atoll run``; there is no Ray, and every client trains in every round.
That gives the arrays of a run at a fraction of what starting it costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from atoll.clients import evaluate, make_client_app
from atoll.clients.arrays.coded_uploads import uploaded_bytes
from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.clients.data.dataset import Dataset
from atoll.platform.runs.federation import Federation


@dataclass(frozen=True)
class Round:
    """The end of a round.

    Attributes
    ----------
    accuracy : float
        The server's, on the test examples.
    bytes_up : float
        What a client sent, on average.
    """

    accuracy: float
    bytes_up: float


def rounds_of(federation: Federation, rounds: int, tested: int) -> Iterator[Round]:
    """Yield the rounds of a federation; the server tests on the first ``tested`` examples."""
    app, dataset = make_client_app(federation.spec), Dataset(federation.spec.dataset)
    model, clients = federation.spec.build_model(dataset), len(federation.partition)
    server, chosen = federation.spec.arrays_of(model), np.arange(tested)
    contexts = [
        Context(1, i + 1, {"partition-id": i, "num-partitions": clients}, RecordDict(), {})
        for i in range(clients)
    ]
    arrays = federation.initial_arrays
    for number in range(1, rounds + 1):
        total, sizes = WeightedSum(), []
        for place, context in enumerate(contexts):
            content = RecordDict(
                {"arrays": arrays, "config": ConfigRecord({"server-round": number})}
            )
            message = Message(content, dst_node_id=place + 1, message_type="train")
            reply = app(message, context).content
            sent: ArrayRecord = reply.array_records["arrays"]
            metrics = reply.metric_records["metrics"]
            total.add(sent, metrics["num-examples"])
            sizes.append(uploaded_bytes(metrics, sum(len(array.data) for array in sent.values())))
        arrays = total.mean()
        server.load(arrays)
        accuracy = float(evaluate(model, dataset, dataset.test, chosen)["accuracy"])
        yield Round(accuracy, float(np.mean(sizes)))
