"""Rounds of a federation in this process: by its strategy, or averaged as FedAvg does.

A client's reply is that of ``atoll run``; there is no Ray, and every client trains in every round.
That gives the arrays of a run at a fraction of what starting it costs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from atoll.clients import evaluate, make_client_app
from atoll.clients.arrays.coded_uploads import uploaded_bytes
from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.partitioning.domains import test_sets
from atoll.flower import assume_identity
from atoll.platform.messages.packing import fresh_copy
from atoll.platform.runs.federation import Federation
from atoll.randomness import seed_everything


def quiet_process() -> None:
    """Make this process one that runs clients: one thread, no log, and Flower's identity."""
    torch.set_num_threads(1)
    for name in ("flwr", "atoll"):
        logging.getLogger(name).setLevel(logging.ERROR)
    assume_identity()


@dataclass(frozen=True)
class Round:
    """The end of a round.

    Attributes
    ----------
    accuracy, calibration_error : float
        The server's, on the test examples.
    bytes_up, bytes_down : float
        What a client sent and was sent, on average.
    """

    accuracy: float
    calibration_error: float
    bytes_up: float
    bytes_down: float


class LocalClients:
    """The clients of a federation, called one after another; each keeps its state.

    To a strategy it is a grid, whose nodes are numbered from 1.

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

    def get_node_ids(self) -> list[int]:
        """Return the nodes."""
        return [context.node_id for context in self._contexts]

    def send_and_receive(self, messages: Iterable[Message], **_: Any) -> list[Message]:
        """Return each message's reply."""
        replies = []
        for message in messages:
            # Messages to several clients share their content, and a client may change it.
            message.content = fresh_copy(message.content)
            replies.append(self._app(message, self._contexts[message.metadata.dst_node_id - 1]))
        return replies

    def ask(self, kind: str, server_round: int, arrays: ArrayRecord) -> Iterator[RecordDict]:
        """Yield what each client answers to a message of a kind: "train", "evaluate"."""
        config = ConfigRecord({"server-round": server_round})
        for node in self.get_node_ids():
            content = RecordDict({"arrays": arrays, "config": config})
            message = Message(content, dst_node_id=node, message_type=kind)
            [reply] = self.send_and_receive([message])
            yield reply.content


def mean_of(replies: Iterable[RecordDict]) -> ArrayRecord:
    """Return the mean of the replies' models, weighted by their examples."""
    total = WeightedSum()
    for reply in replies:
        metrics = reply.metric_records["metrics"]
        total.add(reply.array_records["arrays"], metrics["num-examples"])
    return total.mean()


def rounds_of(
    federation: Federation, rounds: int, tested: int, *, evaluate_every: int = 1
) -> Iterator[Round]:
    """Yield the rounds of a federation, averaged.

    The server tests on at most ``tested`` examples of each domain, in every ``evaluate_every``-th
    round; the figures of the others are NaN.
    """
    clients, server = LocalClients(federation), _Server(federation, tested)
    arrays = federation.initial_arrays
    for number in range(1, rounds + 1):
        sent, replies = arrays, list(clients.ask("train", number, arrays))
        arrays = mean_of(replies)
        seen = arrays if number % evaluate_every == 0 else None
        yield server.round_of(seen, [RecordDict({"arrays": sent})], replies)


def strategy_rounds(federation: Federation, rounds: int, tested: int) -> Iterator[Round]:
    """Yield the rounds of a federation's strategy.

    The server tests on at most ``tested`` examples of each domain. It ends before ``rounds`` where
    the model is no longer finite.
    """
    clients, server = LocalClients(federation), _Server(federation, tested)
    strategy: Strategy = federation.strategy
    # A strategy samples clients, which decides the order in which replies are added up.
    seed_everything(federation.spec.seed)
    arrays, grid = federation.initial_arrays, cast(Grid, clients)
    for number in range(1, rounds + 1):
        sent = list(strategy.configure_train(number, arrays, ConfigRecord(), grid))
        replies = clients.send_and_receive(sent)
        after, _ = strategy.aggregate_train(number, replies)
        if after is None or not all(np.isfinite(a.numpy()).all() for a in after.values()):
            return
        arrays = after
        yield server.round_of(arrays, [m.content for m in sent], [m.content for m in replies])


class _Server:
    """Evaluation of a round's model on the test examples, as the server of a run has them."""

    def __init__(self, federation: Federation, tested: int) -> None:
        self._dataset = Dataset(federation.spec.dataset)
        self._model = federation.spec.build_model(self._dataset)
        self._arrays = federation.spec.arrays_of(self._model)
        self._chosen = np.concatenate(test_sets(self._dataset, (), tested).indices)

    def round_of(
        self, arrays: ArrayRecord | None, sent: list[RecordDict], replies: list[RecordDict]
    ) -> Round:
        """Return the round with that model, or none that is evaluated, and these messages."""
        accuracy = calibration_error = math.nan
        if arrays is not None:
            self._arrays.load(arrays)
            found = evaluate(self._model, self._dataset, self._dataset.test, self._chosen)
            accuracy = float(found["accuracy"])
            calibration_error = float(found.metrics()["calibration_error"])  # type: ignore[arg-type]
        coded = [uploaded_bytes(r.metric_records["metrics"], _bytes_of(r)) for r in replies]
        return Round(
            accuracy,
            calibration_error,
            float(np.mean(coded)),
            float(np.mean([_bytes_of(message) for message in sent])),
        )


def _bytes_of(content: RecordDict) -> int:
    return sum(len(a.data) for record in content.array_records.values() for a in record.values())
