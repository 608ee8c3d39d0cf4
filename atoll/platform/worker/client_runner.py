"""Running a chunk's clients in a worker: the engine's hot path.

It knows Flower and nothing of Ray: a worker actor calls it, and tests can too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from flwr.app import MessageType
from flwr.clientapp import ClientApp

from atoll import flower
from atoll.clients.apps.batch_app import batch_app_of
from atoll.platform.messages.exchange import Chunk, ChunkResult, Exchange, Timing
from atoll.platform.messages.outcome import ClientReply, Failure, Outcome
from atoll.platform.messages.packing import PackedRecords
from atoll.platform.worker.batch_training import BatchTraining
from atoll.platform.worker.chunk_messages import ChunkMessages
from atoll.platform.worker.chunk_sum import ChunkSum
from atoll.platform.worker.client_call import ClientCalls
from atoll.platform.worker.reply_validation import receive


class ClientRunner:
    """Runs clients of one ClientApp, a chunk at a time.

    Parameters
    ----------
    app : ClientApp
        The app that every simulated node runs.
    run_config : dict
        The run configuration in each client's ``Context``.
    worker : str
        The worker's name, for the ledger.
    has_gpu : bool
        Whether clients that run out of GPU memory are to be run elsewhere, in place of failing.
    """

    def __init__(
        self, app: ClientApp, run_config: dict[str, Any], worker: str, *, has_gpu: bool = False
    ) -> None:
        self._worker = worker
        self._batch_app = batch_app_of(app)
        self._messages = ChunkMessages(run_config)
        self._calls = ClientCalls(app, self._messages, has_gpu=has_gpu)
        self._batches = BatchTraining(self._batch_app, self._messages, self._calls, worker)

    def run_chunk(
        self, exchange: Exchange, chunk: Chunk, contents: Mapping[int, PackedRecords]
    ) -> ChunkResult:
        """Run the clients of ``chunk`` and return their outcomes.

        Raises
        ------
        OutOfGpuMemoryError
            If the worker has a GPU, and there is no room left on it; nothing is kept.
        """
        self._messages.load(exchange, contents, chunk.envelopes)
        started = time.perf_counter()
        chunk_sum = None
        if exchange.sum_replies and not chunk.isolated:
            chunk_sum = ChunkSum(chunk.earlier, check_finite=exchange.check_finite)
        outcomes, stuck = self._outcomes(exchange, chunk, chunk_sum), False
        if outcomes is None and exchange.client_timeout is not None:
            outcomes, stuck = self._watched(exchange, chunk, chunk_sum)
        elif outcomes is None:
            outcomes = self._in_turn(exchange, chunk, chunk_sum, _Watch())
        total = None
        if chunk_sum is not None:
            total = chunk_sum.close()
            for place, problem in chunk_sum.refused.items():
                outcomes[place] = outcomes[place].refused(problem, flower.REJECTED)
        seconds = time.perf_counter() - started
        return ChunkResult(chunk.index, outcomes, total, stuck=stuck, seconds=seconds)

    def _outcomes(
        self, exchange: Exchange, chunk: Chunk, chunk_sum: ChunkSum | None
    ) -> list[Outcome] | None:
        """Return the outcomes of clients that the app trains vectorised; None if it does not."""
        can_vectorize = self._can_vectorize(exchange, chunk)
        if chunk_sum is not None:
            summed = self._batches.summed(exchange, chunk, chunk_sum, vectorized=can_vectorize)
            if summed is not None:
                return summed
        if not can_vectorize:
            return None
        vectorized = self._batches.vectorized(exchange, chunk, chunk_sum)
        # Clients that failed vectorised are not watched when they run sequentially either.
        if vectorized is not None:
            return vectorized
        return self._in_turn(exchange, chunk, chunk_sum, _Watch())

    def time_both_ways(
        self, exchange: Exchange, chunk: Chunk, contents: Mapping[int, PackedRecords]
    ) -> Timing:
        """Time ``chunk`` sequentially and vectorised; its replies are thrown away.

        Each way is warmed up with two clients first.
        """
        if self._obstacle is not None:
            return Timing(obstacle=self._obstacle)
        seconds = []
        for is_vectorized in (False, True):
            trial = replace(exchange, vectorize=is_vectorized, captured=())
            self.run_chunk(trial, chunk.part(0, 2), contents)
            seconds.append(self.run_chunk(trial, chunk, contents).seconds)
        return Timing(sequential=seconds[0], vectorized=seconds[1])

    @cached_property
    def _obstacle(self) -> str | None:
        """Reason for which the app's clients cannot train vectorised; None if they can."""
        return self._batch_app.can_vectorize()

    def _can_vectorize(self, exchange: Exchange, chunk: Chunk) -> bool:
        if not exchange.vectorize or len(chunk) == 1 or chunk.isolated:
            return False
        kinds = {exchange.envelopes[envelope].message_type for envelope in chunk.envelopes}
        return kinds == {MessageType.TRAIN} and self._obstacle is None

    def _in_turn(
        self, exchange: Exchange, chunk: Chunk, chunk_sum: ChunkSum | None, watch: _Watch
    ) -> list[Outcome]:
        """Run one client after another, until the watch is abandoned."""
        outcomes = watch.outcomes
        for place in range(len(chunk)):
            watch.start()
            started = time.perf_counter()
            position, node_id = chunk.positions[place], chunk.nodes[place]
            answer = self._calls.call(exchange, chunk, place)
            with watch.lock:
                if watch.abandoned:
                    return outcomes
                result: ClientReply | Failure
                state = None
                if isinstance(answer, Failure):
                    result = answer
                else:
                    expected = exchange.expected[chunk.envelopes[place]]
                    result = receive(
                        exchange,
                        node_id,
                        place,
                        answer.value,
                        expected,
                        chunk_sum,
                        answer.request,
                    )
                    # A client may answer with an error of its own, and has its state then too.
                    if not isinstance(result, Failure) or not exchange.checked:
                        state = answer.state
                if state is not None:
                    chunk.states[node_id] = state
                seconds = time.perf_counter() - started
                outcomes.append(Outcome(position, node_id, result, self._worker, seconds, state))
        return outcomes

    def _watched(
        self, exchange: Exchange, chunk: Chunk, chunk_sum: ChunkSum | None
    ) -> tuple[list[Outcome], bool]:
        """Run the clients in a thread of their own, and give up on one that takes too long.

        Python cannot stop a thread, so the worker is marked as stuck and the driver replaces it;
        what the clients before the late one did is kept.

        Returns
        -------
        tuple[list[Outcome], bool]
            The outcomes, and whether the last client is still running.
        """
        watch = _Watch()
        timeout = exchange.client_timeout or 0.0
        failures: list[BaseException] = []

        def run() -> None:
            try:
                self._in_turn(exchange, chunk, chunk_sum, watch)
            except BaseException as error:
                failures.append(error)
            watch.done.set()

        threading.Thread(target=run, name="clients", daemon=True).start()
        while not watch.done.wait(watch.seconds_left(timeout)):
            if watch.seconds_left(timeout) > 0.0 or not watch.abandon(len(chunk)):
                continue
            place = len(watch.outcomes)
            failure = Failure(f"timed out after {timeout:g} s", flower.UNAVAILABLE)
            late = Outcome(
                chunk.positions[place], chunk.nodes[place], failure, self._worker, timeout
            )
            return [*watch.outcomes, late], True
        if failures:
            raise failures[0]
        return watch.outcomes, False


class _Watch:
    """The outcomes of clients that run sequentially, and since when the last one runs."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.done = threading.Event()
        self.lock = threading.Lock()
        self.abandoned = False
        self._started = time.monotonic()

    def start(self) -> None:
        """Note that a client starts now."""
        self._started = time.monotonic()

    def seconds_left(self, timeout: float) -> float:
        """Return how long the running client may still take."""
        return max(0.0, self._started + timeout - time.monotonic())

    def abandon(self, clients: int) -> bool:
        """Give up on the running one of so many clients; False if all have just finished."""
        with self.lock:
            self.abandoned = not self.done.is_set() and len(self.outcomes) < clients
            return self.abandoned
