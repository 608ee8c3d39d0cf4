"""Running a chunk's clients in a worker: the engine's hot path.

It knows Flower and nothing of Ray: a worker actor calls it, and tests can too.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from flwr.app import Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from atoll import flower
from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.platform.messages.exchange import (
    Chunk,
    ChunkResult,
    Exchange,
    Outcome,
    Timing,
    plain_metrics,
)
from atoll.platform.messages.packing import (
    PackedRecords,
    fresh_copy,
    pack,
    parts_of,
    unpack,
)
from atoll.platform.worker.chunk_sum import ChunkSum
from atoll.platform.worker.gpu_memory import OutOfGpuMemoryError, is_out_of_memory
from atoll.platform.worker.node_context import client_context, kept_of
from atoll.platform.worker.reply_validation import receive
from atoll.randomness import derive_seed, seed_everything


class ClientRunner:
    """Runs clients of one ClientApp, on contents that are unpacked once an exchange.

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
        self._app = app
        self._run_config = run_config
        self._worker = worker
        self._has_gpu = has_gpu
        self._unpacked_for = -1
        self._unpacked: dict[int, RecordDict] = {}
        self._templates: list[flower.InstructionTemplate] = []

    def run_chunk(
        self, exchange: Exchange, chunk: Chunk, contents: Mapping[int, PackedRecords]
    ) -> ChunkResult:
        """Run the clients of ``chunk`` and return their outcomes.

        Raises
        ------
        OutOfGpuMemoryError
            If the worker has a GPU, and there is no room left on it; nothing is kept.
        """
        self._unpack(exchange, contents, chunk.envelopes)
        started = time.perf_counter()
        chunk_sum = None
        if exchange.sum_replies and not chunk.isolated:
            chunk_sum = ChunkSum(chunk.earlier, check_finite=exchange.check_finite)
        result = ChunkResult(chunk.index, [])
        at_once = self._can_run_together(exchange, chunk)
        if self._sum_in_app(exchange, chunk, result, chunk_sum, at_once=at_once):
            pass
        elif at_once:
            self._run_together(exchange, chunk, result, chunk_sum)
        elif exchange.client_timeout is None:
            self._run_in_turn(exchange, chunk, result, chunk_sum, _Watch())
        else:
            self._run_watched(exchange, chunk, result, chunk_sum)
        if chunk_sum is not None:
            result.total = chunk_sum.close()
        result.seconds = time.perf_counter() - started
        return result

    def time_both_ways(
        self, exchange: Exchange, chunk: Chunk, contents: Mapping[int, PackedRecords]
    ) -> Timing:
        """Time ``chunk`` one client after another and at once; its replies are thrown away.

        Each way is warmed up with two clients first.
        """
        if self._obstacle is not None:
            return Timing(obstacle=self._obstacle)
        seconds = []
        for together in (False, True):
            trial = replace(exchange, vectorize=together, captured=())
            self.run_chunk(trial, chunk.part(0, 2), contents)
            seconds.append(self.run_chunk(trial, chunk, contents).seconds)
        return Timing(sequential=seconds[0], vectorized=seconds[1])

    @cached_property
    def _obstacle(self) -> str | None:
        """Why the app's clients cannot train together, or None if they can."""
        can_vectorize = getattr(self._app, "can_vectorize", None)
        return "the app does not offer it" if can_vectorize is None else can_vectorize()

    def _can_run_together(self, exchange: Exchange, chunk: Chunk) -> bool:
        if not exchange.vectorize or len(chunk) == 1 or chunk.isolated:
            return False
        kinds = {exchange.envelopes[envelope].message_type for envelope in chunk.envelopes}
        return kinds == {MessageType.TRAIN} and self._obstacle is None

    def _unpack(
        self, exchange: Exchange, contents: Mapping[int, PackedRecords], envelopes: tuple[int, ...]
    ) -> None:
        if self._unpacked_for != exchange.number:
            self._unpacked_for = exchange.number
            self._unpacked = {}
            self._templates = [
                flower.InstructionTemplate(
                    e.message_type, e.group_id, e.ttl, e.created_at, exchange.delivered_at
                )
                for e in exchange.envelopes
            ]
        for envelope in set(envelopes):
            index = exchange.envelopes[envelope].content
            if index not in self._unpacked:
                self._unpacked[index] = unpack(contents[index])

    def _request(self, exchange: Exchange, chunk: Chunk, place: int) -> Message:
        envelope = chunk.envelopes[place]
        content = self._unpacked[exchange.envelopes[envelope].content]
        return self._templates[envelope].message(
            fresh_copy(content), chunk.nodes[place], chunk.message_ids[place]
        )

    def _context(self, exchange: Exchange, chunk: Chunk, place: int) -> Context:
        node_id = chunk.nodes[place]
        return client_context(
            node_id, exchange.num_partitions, dict(self._run_config), chunk.states.get(node_id)
        )

    def _run_in_turn(
        self,
        exchange: Exchange,
        chunk: Chunk,
        result: ChunkResult,
        chunk_sum: ChunkSum | None,
        watch: _Watch,
    ) -> None:
        for place in range(len(chunk)):
            outcome = Outcome(chunk.positions[place], chunk.nodes[place], worker=self._worker)
            watch.start(outcome)
            started = time.perf_counter()
            answer, state = self._call_app(exchange, chunk, place, outcome)
            with watch.lock:
                if watch.abandoned:
                    return
                if outcome.status == "ok":
                    expected = exchange.expected[chunk.envelopes[place]]
                    receive(exchange, outcome, answer, expected, chunk_sum)
                # A client may answer with an error of its own, and has its state then too.
                is_kept = outcome.status == "ok" or not exchange.checked
                if state is not None and is_kept:
                    outcome.state = chunk.states[outcome.node_id] = state
                outcome.seconds = time.perf_counter() - started
                result.outcomes.append(outcome)

    def _call_app(
        self, exchange: Exchange, chunk: Chunk, place: int, outcome: Outcome
    ) -> tuple[object, bytes | None]:
        """Return the app's answer and the node's new state (None if it has never had one)."""
        request = self._request(exchange, chunk, place)
        context = self._context(exchange, chunk, place)
        category = self._templates[chunk.envelopes[place]].category
        server_round, *repetition = chunk.draws[place]
        seed_everything(
            derive_seed(exchange.seed, server_round, category, outcome.node_id - 1, *repetition)
        )
        flower.speak_for(outcome.node_id)
        try:
            answer = self._app(request, context)
        except (Exception, SystemExit) as error:
            self._refuse_shortage(error, (outcome.node_id,), 1)
            reason = f"the client raised {type(error).__name__}: {error}"
            outcome.fail(reason, flower.RAISED, traceback.format_exc())
            return None, None
        if context.run_config != self._run_config:
            outcome.fail(flower.RUN_CONFIG_CHANGED, flower.UNKNOWN)
            return None, None
        had = outcome.node_id in chunk.states
        return answer, kept_of(context, exchange.num_partitions, had=had)

    def _run_together(
        self, exchange: Exchange, chunk: Chunk, result: ChunkResult, chunk_sum: ChunkSum | None
    ) -> None:
        requests = [self._request(exchange, chunk, place) for place in range(len(chunk))]
        contexts = [self._context(exchange, chunk, place) for place in range(len(chunk))]
        started = time.perf_counter()
        answers: list[Message] = []
        part = slice(0)
        try:
            for part in _parts(chunk, exchange):
                answers += self._app.train_together(  # type: ignore[attr-defined]
                    requests[part], contexts[part]
                )
        except Exception as error:
            nodes = chunk.nodes[part]
            self._refuse_shortage(error, nodes, len(nodes))
            # One client's bad data must not cost the others their round: in turn, it is found.
            self._run_in_turn(exchange, chunk, result, chunk_sum, _Watch())
            return
        seconds = (time.perf_counter() - started) / len(chunk)
        for place, answer in enumerate(answers):
            outcome = Outcome(chunk.positions[place], chunk.nodes[place], worker=self._worker)
            outcome.seconds = seconds
            expected = exchange.expected[chunk.envelopes[place]]
            receive(exchange, outcome, answer, expected, chunk_sum)
            result.outcomes.append(outcome)

    def _sum_in_app(
        self,
        exchange: Exchange,
        chunk: Chunk,
        result: ChunkResult,
        chunk_sum: ChunkSum | None,
        *,
        at_once: bool,
    ) -> bool:
        """Let the app add up its clients' models, if it can; return whether it has.

        Nothing is kept if a client fails or the sum is not what was asked for: with replies, it
        is found which client that was.
        """
        if chunk_sum is None or chunk.isolated or not hasattr(self._app, "can_sum"):
            return False
        request = self._request(exchange, chunk, 0)
        if not self._can_sum_in_app(exchange, chunk, request, at_once=at_once):
            return False
        contexts = [self._context(exchange, chunk, place) for place in range(len(chunk))]
        parts = _parts(chunk, exchange) if at_once else [slice(0, len(chunk))]
        part = slice(0)
        totals: list[WeightedSum] = []
        metrics: list[MetricRecord] = []
        seconds: list[float] = []
        try:
            for part in parts:
                total, records, times = self._app.train_and_sum(  # type: ignore[attr-defined]
                    request, contexts[part], vectorized=at_once
                )
                totals.append(total)
                metrics += records
                seconds += times
        except Exception as error:
            nodes = chunk.nodes[part]
            self._refuse_shortage(error, nodes, len(nodes) if at_once else 1)
            return False
        expected = exchange.expected[chunk.envelopes[0]]
        if expected is not None and any(total.structure() != expected for total in totals):
            return False
        if exchange.check_finite and not all(total.is_finite() for total in totals):
            return False
        sent = parts_of(request.content).arrays
        bytes_up = sum(len(array.data) for array in sent.values()) if sent is not None else 0
        for place, record in enumerate(metrics):
            outcome = Outcome(chunk.positions[place], chunk.nodes[place], worker=self._worker)
            outcome.metrics, outcome.metrics_name = plain_metrics(record), "metrics"
            outcome.arrays_name, outcome.bytes_up, outcome.summed = "arrays", bytes_up, True
            outcome.seconds = seconds[place]
            if outcome.node_id in exchange.captured:
                outcome.captured = self._reply_apart(exchange, chunk, place)
            result.outcomes.append(outcome)
        for total in totals:
            chunk_sum.merge(total)
        return True

    def _refuse_shortage(self, error: BaseException, nodes: tuple[int, ...], at_once: int) -> None:
        """Raise if the GPU had no room: that says nothing of the clients."""
        if self._has_gpu and is_out_of_memory(error):
            raise OutOfGpuMemoryError(nodes, at_once) from error

    def _reply_apart(self, exchange: Exchange, chunk: Chunk, place: int) -> PackedRecords | None:
        """Return what a client of a sum made in the app would have replied; None if it raises."""
        apart = Outcome(chunk.positions[place], chunk.nodes[place])
        answer, _ = self._call_app(exchange, chunk, place, apart)
        return pack(answer.content) if isinstance(answer, Message) else None

    def _can_sum_in_app(
        self, exchange: Exchange, chunk: Chunk, request: Message, *, at_once: bool
    ) -> bool:
        if self._app.can_sum(request) is not None or chunk.states:  # type: ignore[attr-defined]
            return False
        is_one_message = len(set(chunk.envelopes)) == 1
        message_type = exchange.envelopes[chunk.envelopes[0]].message_type
        is_watched = exchange.client_timeout is not None and not at_once
        return (
            is_one_message
            and message_type == MessageType.TRAIN
            and exchange.weighted_by == self._app.summed_by  # type: ignore[attr-defined]
            and not is_watched
        )

    def _run_watched(
        self, exchange: Exchange, chunk: Chunk, result: ChunkResult, chunk_sum: ChunkSum | None
    ) -> None:
        """Run the clients in a thread of their own, and give up on one that takes too long.

        Python cannot stop a thread, so the worker is marked as stuck and the driver replaces it;
        what the clients before the late one did is kept.
        """
        watch = _Watch()
        timeout = exchange.client_timeout or 0.0
        failures: list[BaseException] = []

        def run() -> None:
            try:
                self._run_in_turn(exchange, chunk, result, chunk_sum, watch)
            except BaseException as error:
                failures.append(error)
            watch.done.set()

        threading.Thread(target=run, name="clients", daemon=True).start()
        while not watch.done.wait(watch.seconds_left(timeout)):
            if watch.seconds_left(timeout) > 0.0:
                continue
            late = watch.abandon()
            if late is not None:
                late.seconds = timeout
                late.fail(f"timed out after {timeout:g} s", flower.UNAVAILABLE)
                result.outcomes.append(late)
                result.stuck = True
                return
        if failures:
            raise failures[0]


class _Watch:
    """Which client is running, and since when."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.lock = threading.Lock()
        self.abandoned = False
        self._started = time.monotonic()
        self._current: Outcome | None = None

    def start(self, outcome: Outcome) -> None:
        """Note that a client starts now."""
        self._current, self._started = outcome, time.monotonic()

    def seconds_left(self, timeout: float) -> float:
        """Return how long the running client may still take."""
        return max(0.0, self._started + timeout - time.monotonic())

    def abandon(self) -> Outcome | None:
        """Give up on the running client; None if all have just finished."""
        with self.lock:
            if self.done.is_set():
                return None
            self.abandoned = True
            return self._current


def _parts(chunk: Chunk, exchange: Exchange) -> list[slice]:
    """Return which clients of a chunk train at once."""
    size = exchange.at_once or len(chunk)
    return [slice(start, start + size) for start in range(0, len(chunk), size)]
