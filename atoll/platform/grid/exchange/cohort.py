"""One exchange as jobs for the workers: chunks out, outcomes and sums back, faults made good.

A chunk whose worker dies is dispatched again. When a second worker dies with it, its clients are
run one a job: the one that kills its worker again (twice) is an error, the others are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any

from atoll import flower
from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.platform.grid.exchange.cohort_sums import CohortSums, Places
from atoll.platform.grid.exchange.node_sums import Merge, Traffic
from atoll.platform.messages.exchange import Chunk, ChunkResult, Exchange
from atoll.platform.messages.outcome import Failure, Outcome
from atoll.platform.pool.jobs import Job
from atoll.platform.run_directory.node_states import NodeStates
from atoll.platform.worker.gpu_memory import Shortage

# Deaths of workers with a chunk (then with an isolated client) before it is treated as the cause.
MAX_DEATHS = 2
# Chunks that take next to no time are sent several a job, up to about this much work.
SECONDS_A_JOB = 0.25
# Seconds beside its clients' own timeouts that a job may take before its worker is given up.
GRACE_SECONDS = 10.0
# How far ahead in the queue a worker's own clients are looked for.
LOOK_AHEAD = 64


class Cohort:
    """The chunks of one exchange on their way through the workers (a job source).

    Parameters
    ----------
    exchange : Exchange
        What was sent.
    contents : Sequence
        Per content its Ray object reference, or the content itself where one chunk needs it.
    chunks : list[Chunk]
        In dispatch order.
    suspects : set[int]
        Nodes that have killed workers before; they are run alone from the start.
    chunk_seconds : float or None
        How long a chunk took in earlier exchanges.
    workers : Places
        Where the workers are.
    states : NodeStates
        Where the nodes' states are, and new ones go.
    places : mapping
        By a chunk's nodes, the worker that had them in the exchange before. A worker gets its own
        clients again where it can, because it may have their data at hand.
    one_at_a_time : bool
        Whether every chunk is a job, given to a worker that is free: replies are so large that
        the driver should not hold many, and sums that they stay where they are made.
    on_progress : callable
        Called with the number of clients that have ended.
    on_ended : callable
        Called with the outcomes of clients that have just ended.

    Attributes
    ----------
    at_once : int or None
        If a chunk's vectorised clients did not fit into a GPU: how many may train so when the
        exchange is restarted, which it must be. All chunks are then cut alike, so what a run
        comes to depends on what fits, not on which chunk was tried first.
    """

    def __init__(
        self,
        exchange: Exchange,
        contents: Sequence[Any],
        chunks: list[Chunk],
        suspects: set[int],
        chunk_seconds: float | None = None,
        *,
        workers: Places,
        states: NodeStates,
        places: Mapping[tuple[int, ...], str] = MappingProxyType({}),
        one_at_a_time: bool = False,
        on_progress: Callable[[int], None] = lambda ended: None,
        on_ended: Callable[[Sequence[Outcome]], None] = lambda outcomes: None,
    ) -> None:
        self._exchange = exchange
        self._contents = contents
        self._suspects = suspects
        self._chunk_seconds = None if one_at_a_time else chunk_seconds
        self._one_at_a_time = one_at_a_time
        self._workers = workers
        self._states = states
        self._earlier_places = places
        self.places: dict[tuple[int, ...], str] = {}
        self._on_progress = on_progress
        self._on_ended = on_ended
        self._chunks = chunks
        self._job_name = _name_of(exchange)
        self._queue: deque[Chunk] = deque()
        self._deaths: dict[int, int] = {}
        self._deaths_alone: dict[int, int] = {}
        self._outcomes: dict[int, Outcome] = {}
        self._missing = {chunk.index: len(chunk) for chunk in chunks}
        self._ended = 0
        self.at_once: int | None = None
        self._sums = CohortSums(exchange, chunks, workers, stay_on_nodes=one_at_a_time)
        self._under_way = 0
        self._measured: list[float] = []
        for chunk in chunks:
            if suspects.isdisjoint(chunk.nodes):
                self._queue.append(chunk)
            else:
                self._isolate(chunk)

    @property
    def finished(self) -> bool:
        """Whether every client has ended and the driver has the sum, or none will end."""
        is_done = self._ended == len(self._chunks) and self._sums.are_here
        return self.at_once is not None or is_done

    @property
    def total(self) -> WeightedSum:
        """The weighted sum of all replies that match, once finished."""
        return self._sums.total

    @property
    def traffic(self) -> Traffic:
        """Bytes of sums between the cluster's nodes."""
        return self._sums.traffic

    @property
    def chunk_seconds(self) -> float | None:
        """The mean time a chunk took, or None if none was timed."""
        return sum(self._measured) / len(self._measured) if self._measured else None

    def outcomes(self) -> list[Outcome]:
        """Return every client's outcome, in the cohort's order."""
        return [self._outcomes[position] for position in sorted(self._outcomes)]

    @property
    def waiting(self) -> int:
        """Number of chunks that have not been started and may be given to workers ahead."""
        if self._one_at_a_time or not self._queue or not self._is_plain(self._queue[0]):
            return 0
        return len(self._queue)

    def put_back(self, job: Job) -> None:
        """Take back a job's chunks; nothing speaks against them."""
        self._under_way -= 1
        if isinstance(job.payload, Merge):
            self._sums.give_back(job.payload, lost=False)
        else:
            self._queue.extendleft(reversed(job.payload))
        self._gather()

    def next_job(self, workers: int, worker: str) -> Job | None:
        """Return the next chunk, or several if they are short; or sums that can be added up."""
        job = self._sums.merge_job(worker)
        if job is None and not self._queue:
            # The workers that were to add sums up may have gone without a job to lose.
            self._gather()
        if job is None and self._queue:
            job = self._chunks_job(workers, worker)
        self._under_way += job is not None
        return job

    def _chunks_job(self, workers: int, worker: str) -> Job:
        chunks = [self._next_chunk(worker)]
        is_plain = self._is_plain(chunks[0])
        if is_plain:
            limit = len(self._queue) // (2 * workers)
            if self._chunk_seconds is not None:
                limit = min(limit, int(SECONDS_A_JOB / max(self._chunk_seconds, 1e-6)))
            else:
                limit = 0
            while limit > 0 and self._queue and self._is_plain(self._queue[0]):
                chunks.append(self._next_chunk(worker))
                limit -= 1
        envelopes = {envelope for chunk in chunks for envelope in chunk.envelopes}
        indices = sorted({self._exchange.envelopes[envelope].content for envelope in envelopes})
        timeout = self._exchange.client_timeout
        clients = sum(map(len, chunks))
        leaves = self._sums.stay_on_nodes and not chunks[0].isolated
        return Job(
            method="run_and_leave" if leaves else "run",
            arguments=(
                self._exchange,
                [self._states.loaded(chunk) for chunk in chunks],
                tuple(indices),
                *(self._contents[index] for index in indices),
            ),
            payload=chunks,
            seconds=None if timeout is None else timeout * clients + GRACE_SECONDS,
            alone=not is_plain,
            name=self._job_name,
            leaves=leaves,
            node=self._workers.node_of(worker),
        )

    def _next_chunk(self, worker: str) -> Chunk:
        """Take the first chunk of this worker's from the queue, or else the first."""
        if self._one_at_a_time:
            place = self._next_on_node(self._workers.node_of(worker))
        else:
            own = (
                place
                for place, chunk in enumerate(islice(self._queue, LOOK_AHEAD))
                if self._is_plain(chunk) and self._earlier_places.get(chunk.nodes) == worker
            )
            place = next(own, 0)
        chunk = self._queue[place]
        del self._queue[place]
        self.places[chunk.nodes] = worker
        return chunk

    def _next_on_node(self, node: str) -> int:
        """Return the place in the queue of the chunk whose sum is best made on a node."""
        if not self._sums.stay_on_nodes or not self._is_plain(self._queue[0]):
            return 0
        waiting = {c.index: place for place, c in enumerate(self._queue) if self._is_plain(c)}
        return waiting[self._sums.choose(waiting, node)]

    def _is_plain(self, chunk: Chunk) -> bool:
        return not chunk.isolated and chunk.index not in self._deaths

    def done(self, job: Job, result: Any) -> bool:
        """Take the results of a job's chunks, or note a sum."""
        self._under_way -= 1
        results, reference = result if job.leaves else (result, None)
        if isinstance(job.payload, Merge):
            self._sums.merged(job.payload, reference, results)
            self._gather()
            return True
        chunks: list[Chunk] = job.payload
        for chunk, chunk_result in zip(chunks, results, strict=False):
            self._sums.take(chunk, chunk_result, job.node, reference)
            self._take(chunk, chunk_result)
        self._queue.extendleft(reversed(chunks[len(results) :]))
        self._gather()
        return not results[-1].stuck

    def _take(self, chunk: Chunk, result: ChunkResult) -> None:
        self._measured.append(result.seconds)
        if result.stuck and len(result.outcomes) < len(chunk):
            rest = chunk.part(len(result.outcomes), len(chunk))
            self._queue.appendleft(
                Chunk(
                    rest.index,
                    rest.positions,
                    rest.nodes,
                    rest.envelopes,
                    rest.message_ids,
                    rest.draws,
                    rest.states,
                    isolated=chunk.isolated,
                    earlier=result.total,
                    kept=rest.kept,
                )
            )
        self._end(chunk.index, [self._states.put_of(outcome) for outcome in result.outcomes])

    def lost(self, job: Job, *, overdue: bool) -> None:
        """DispatchedExchange a lost job's chunks again, or isolate their clients."""
        self._under_way -= 1
        chunks: list[Chunk] = job.payload
        if isinstance(job.payload, Merge):
            self._sums.give_back(job.payload, lost=True)
            chunks = []
        for chunk in reversed(chunks):
            if chunk.isolated:
                self._lost_alone(chunk, overdue=overdue)
                continue
            self._deaths[chunk.index] = self._deaths.get(chunk.index, 0) + 1
            if overdue or self._deaths[chunk.index] >= MAX_DEATHS:
                self._isolate(chunk)
            else:
                self._queue.appendleft(chunk)
        self._gather()

    def _isolate(self, chunk: Chunk) -> None:
        self._sums.isolate(chunk)
        parts = [chunk.part(place, place + 1, isolated=True) for place in range(len(chunk))]
        self._queue.extendleft(reversed(parts))

    def _lost_alone(self, chunk: Chunk, *, overdue: bool) -> None:
        node_id, position = chunk.nodes[0], chunk.positions[0]
        deaths = self._deaths_alone[position] = self._deaths_alone.get(position, 0) + 1
        if overdue:
            reason = f"timed out after {self._exchange.client_timeout:g} s"
            failure = Failure(reason, flower.UNAVAILABLE)
        elif deaths >= MAX_DEATHS:
            failure = Failure(f"the client killed its worker {deaths} times", flower.CRASHED)
        else:
            self._queue.appendleft(chunk)
            return
        self._suspects.add(node_id)
        self._end(chunk.index, [Outcome(position, node_id, failure)])

    def too_large(self, job: Job, shortage: Shortage) -> bool:
        """Stop the exchange, to be restarted with half as many vectorised clients."""
        if shortage.at_once > 1:
            self.at_once = shortage.at_once // 2
        return shortage.at_once > 1

    def _gather(self) -> None:
        """Fetch the sums on nodes once nothing is left to do there; run again what was lost."""
        if self._under_way == 0 and self._ended == len(self._chunks):
            for index in self._forgotten(self._sums.fetch()):
                self._queue.append(self._chunks[index])

    def _forgotten(self, lost: list[int]) -> list[int]:
        """Return chunks whose sums were lost with their node, as if they had not been run."""
        for index in lost:
            chunk = self._chunks[index]
            for position in chunk.positions:
                del self._outcomes[position]
            self._missing[index] = len(chunk)
        self._ended -= len(lost)
        return lost

    def expired(self) -> None:
        """Turn every client that has not ended into an error."""
        self._queue.clear()
        self._under_way = 0
        self._forgotten(self._sums.fetch_all())
        for chunk in self._chunks:
            late = []
            for position, node_id in zip(chunk.positions, chunk.nodes, strict=True):
                if position not in self._outcomes:
                    late.append(late_outcome(position, node_id))
            if late:
                self._end(chunk.index, late)

    def _end(self, index: int, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._outcomes[outcome.position] = outcome
        self._missing[index] -= len(outcomes)
        if outcomes:
            self._on_progress(len(self._outcomes))
            self._on_ended(outcomes)
        if self._missing[index] == 0:
            self._ended += 1
            self._sums.add(self._chunks[index], self._outcomes)


def late_outcome(position: int, node_id: int) -> Outcome:
    """Return the outcome of a client that was not done in time."""
    reason = "not done when the round's timeout passed"
    return Outcome(position, node_id, Failure(reason, flower.UNAVAILABLE, without_reply=True))


def _name_of(exchange: Exchange) -> str:
    """Return what an exchange is, for Ray's dashboard: "train, round 3"."""
    kinds = sorted({envelope.message_type for envelope in exchange.envelopes})
    return f"{' and '.join(kinds)}, round {exchange.server_round}"
