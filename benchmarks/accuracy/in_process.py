"""Rounds of a federation in this process, averaged as FedAvg does.

A client's reply is that of ``atoll run``; there is no Ray, and every client trains in every round.
That gives the arrays of a run at a fraction of what starting it costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from atoll.clients import evaluate, make_client_app
from atoll.clients.arrays.coded_uploads import uploaded_bytes
from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.clients.data.files.dataset import Dataset
from atoll.platform.messages.packing import fresh_copy
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


class LocalClients:
    """The clients of a federation, called one after another; each keeps its state.

    Parameters
    ----------
    federation : Federation
        The federation.
    """

    def __init__(self, federation: Federation) -> None:
        self._app, clients = make_client_app(federation.spec), len(federation.partition)
        self._contexts = [
            Context(1, i + 1, {"partition-id": i, "num-partitions": clients}, RecordDict(), {})
            for i in range(clients)
        ]

    def ask(self, kind: str, server_round: int, arrays: ArrayRecord) -> Iterator[RecordDict]:
        """Yield what each client answers to a message of a kind: "train", "evaluate"."""
        for place, context in enumerate(self._contexts):
            config = ConfigRecord({"server-round": server_round})
            content = RecordDict({"arrays": arrays, "config": config})
            message = Message(content, dst_node_id=place + 1, message_type=kind)
            yield self._app(message, context).content


class LocalGrid:
    """All clients of a federation in this process, as a strategy sees a grid.

    Parameters
    ----------
    federation : Federation
        The federation.
    """

    def __init__(self, federation: Federation) -> None:
        self._app, self._clients = make_client_app(federation.spec), len(federation.partition)
        self._contexts = {
            i + 1: Context(
                1, i + 1, {"partition-id": i, "num-partitions": self._clients}, RecordDict(), {}
            )
            for i in range(self._clients)
        }

    def get_node_ids(self) -> Iterable[int]:
        """Return the clients' nodes."""
        return list(self._contexts)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Return the clients' answers."""
        replies = []
        for message in messages:
            # Messages to several clients share their content, and a client may change it.
            message.content = fresh_copy(message.content)
            replies.append(self._app(message, self._contexts[message.metadata.dst_node_id]))
        return replies


def mean_of(replies: Iterable[RecordDict]) -> ArrayRecord:
    """Return the mean of the replies' models, weighted by their examples."""
    total = WeightedSum()
    for reply in replies:
        metrics = reply.metric_records["metrics"]
        total.add(reply.array_records["arrays"], metrics["num-examples"])
    return total.mean()


def rounds_of(federation: Federation, rounds: int, tested: int) -> Iterator[Round]:
    """Yield the rounds of a federation; the server tests on the first ``tested`` examples."""
    clients, dataset = LocalClients(federation), Dataset(federation.spec.dataset)
    model = federation.spec.build_model(dataset)
    server, chosen = federation.spec.arrays_of(model), np.arange(tested)
    arrays = federation.initial_arrays
    for number in range(1, rounds + 1):
        replies = list(clients.ask("train", number, arrays))
        arrays = mean_of(replies)
        server.load(arrays)
        accuracy = float(evaluate(model, dataset, dataset.test, chosen)["accuracy"])
        yield Round(accuracy, float(np.mean([_bytes_of(reply) for reply in replies])))


def _bytes_of(reply: RecordDict) -> int:
    sizes = (len(array.data) for array in reply.array_records["arrays"].values())
    return uploaded_bytes(reply.metric_records["metrics"], sum(sizes))
