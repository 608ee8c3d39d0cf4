"""A chunk's clients trained in one call of the app: vectorised, or for the sum of their models."""

from __future__ import annotations

import time

from flwr.app import Message, MessageType, MetricRecord

from atoll.clients.apps.batch_app import BatchClientApp
from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.platform.messages.exchange import Chunk, Exchange
from atoll.platform.messages.outcome import ClientReply, Failure, Outcome, plain_metrics
from atoll.platform.messages.packing import parts_of
from atoll.platform.worker.chunk_messages import ChunkMessages
from atoll.platform.worker.chunk_sum import ChunkSum
from atoll.platform.worker.client_call import ClientCalls
from atoll.platform.worker.node_context import kept_of
from atoll.platform.worker.reply_validation import receive


class BatchTraining:
    """Trains a chunk's clients in one call, where the app offers it.

    Nothing is kept of a call that fails: one client's bad data must not cost the others their
    round, and one after another it is found which client that was.

    Parameters
    ----------
    app : BatchClientApp
        The app.
    messages : ChunkMessages
        What it is called with.
    calls : ClientCalls
        The calls for one client, for replies that are captured.
    worker : str
        The worker's name.
    """

    def __init__(
        self, app: BatchClientApp, messages: ChunkMessages, calls: ClientCalls, worker: str
    ) -> None:
        self._app = app
        self._messages = messages
        self._calls = calls
        self._worker = worker

    def vectorized(
        self, exchange: Exchange, chunk: Chunk, chunk_sum: ChunkSum | None
    ) -> list[Outcome] | None:
        """Return the outcomes of clients that train vectorised; None if one of them fails."""
        messages = self._messages
        requests = [messages.request(exchange, chunk, place) for place in range(len(chunk))]
        contexts = [messages.context(exchange, chunk, place) for place in range(len(chunk))]
        started = time.perf_counter()
        answers: list[Message] = []
        part = slice(0)
        try:
            for part in _parts(chunk, exchange):
                answers += self._app.train_together(requests[part], contexts[part])
        except Exception as error:
            nodes = chunk.nodes[part]
            self._calls.refuse_shortage(error, nodes, len(nodes))
            return None
        seconds = (time.perf_counter() - started) / len(chunk)
        outcomes = []
        for place, answer in enumerate(answers):
            node_id = chunk.nodes[place]
            expected = exchange.expected[chunk.envelopes[place]]
            result = receive(exchange, node_id, place, answer, expected, chunk_sum)
            state = None
            if not isinstance(result, Failure):
                had = node_id in chunk.states
                state = kept_of(contexts[place], exchange.num_partitions, had=had)
            position = chunk.positions[place]
            outcomes.append(Outcome(position, node_id, result, self._worker, seconds, state))
        return outcomes

    def summed(
        self, exchange: Exchange, chunk: Chunk, chunk_sum: ChunkSum, *, vectorized: bool
    ) -> list[Outcome] | None:
        """Return the outcomes of clients whose models the app adds up itself.

        None if it cannot, a client fails, or the sum is not what was asked for.
        """
        if chunk.isolated:
            return None
        request = self._messages.request(exchange, chunk, 0)
        if not self._can_sum(exchange, chunk, request, vectorized=vectorized):
            return None
        contexts = [self._messages.context(exchange, chunk, place) for place in range(len(chunk))]
        parts = _parts(chunk, exchange) if vectorized else [slice(0, len(chunk))]
        part = slice(0)
        totals: list[WeightedSum] = []
        metrics: list[MetricRecord] = []
        seconds: list[float] = []
        try:
            for part in parts:
                total, records, times = self._app.train_and_sum(
                    request, contexts[part], vectorized=vectorized
                )
                totals.append(total)
                metrics += records
                seconds += times
        except Exception as error:
            nodes = chunk.nodes[part]
            self._calls.refuse_shortage(error, nodes, len(nodes) if vectorized else 1)
            return None
        expected = exchange.expected[chunk.envelopes[0]]
        if expected is not None and any(total.structure() != expected for total in totals):
            return None
        if exchange.check_finite and not all(total.is_finite() for total in totals):
            return None
        sent = parts_of(request.content).arrays
        bytes_up = sum(len(array.data) for array in sent.values()) if sent is not None else 0
        outcomes = []
        for place, record in enumerate(metrics):
            node_id, captured = chunk.nodes[place], None
            if node_id in exchange.captured:
                captured = self._calls.reply_apart(exchange, chunk, place)
            reply = ClientReply(
                plain_metrics(record),
                "metrics",
                "arrays",
                is_summed=True,
                captured=captured,
                bytes_up=bytes_up,
            )
            position = chunk.positions[place]
            outcomes.append(Outcome(position, node_id, reply, self._worker, seconds[place]))
        for total in totals:
            chunk_sum.merge(total)
        return outcomes

    def _can_sum(
        self, exchange: Exchange, chunk: Chunk, request: Message, *, vectorized: bool
    ) -> bool:
        if self._app.can_sum(request) is not None or chunk.states:
            return False
        is_one_message = len(set(chunk.envelopes)) == 1
        message_type = exchange.envelopes[chunk.envelopes[0]].message_type
        is_watched = exchange.client_timeout is not None and not vectorized
        return (
            is_one_message
            and message_type == MessageType.TRAIN
            and exchange.weighted_by == self._app.summed_by
            and not is_watched
        )


def _parts(chunk: Chunk, exchange: Exchange) -> list[slice]:
    """Return which clients of a chunk train vectorised."""
    size = exchange.at_once or len(chunk)
    return [slice(start, start + size) for start in range(0, len(chunk), size)]
