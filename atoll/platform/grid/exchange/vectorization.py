"""Choice between training a chunk's clients sequentially and vectorised."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from atoll.platform.messages.exchange import Chunk, Exchange, Timing
from atoll.platform.messages.packing import PackedRecords
from atoll.platform.pool.jobs import Job
from atoll.platform.pool.worker_pool import WorkerPool
from atoll.platform.run_directory.node_states import NodeStates
from atoll.platform.worker.gpu_memory import Shortage

logger = logging.getLogger("atoll")

# How many times faster vectorised training must be; how far from that a race is clear; how often a
# race that is not clear is run.
MARGIN, CLEAR, TRIES = 1.1, 1.25, 3
NO_ROOM = "two vectorised clients do not fit into the GPU"


@dataclass(frozen=True)
class VectorizationChoice:
    """The choice, kept for the whole run (and on resume: the bits depend on it).

    Attributes
    ----------
    vectorized : bool
        Whether chunks train vectorised.
    decided : bool
        Whether the choice is made; "auto" is not until the first chunk was timed.
    reason : str
        Why, in a few words.
    at_once : int or None
        The most clients that train vectorised, where a chunk's did not fit into a GPU.
    """

    vectorized: bool
    decided: bool
    reason: str
    at_once: int | None = None

    @classmethod
    def requested(cls, vectorize: bool | str) -> VectorizationChoice:
        """Return the choice that ``client.vectorize`` asks for."""
        if vectorize == "auto":
            return cls(
                vectorized=False, decided=False, reason="to be decided by timing the first chunk"
            )
        return cls(vectorized=bool(vectorize), decided=True, reason="as asked for")

    def lowered_to(self, at_once: int) -> VectorizationChoice:
        """Return the choice when more than ``at_once`` clients do not fit into a GPU together."""
        if at_once < 2:
            return replace(self, vectorized=False, reason=NO_ROOM, at_once=None)
        return replace(self, at_once=at_once)


class _OneJob:
    """A job source of a single job."""

    def __init__(self, job: Job) -> None:
        self._job: Job | None = job
        self.finished = False
        self.result: Any = None
        self.waiting = 0
        # How many vectorised clients may fit, if the job's did not.
        self.fitting: int | None = None

    def next_job(self, workers: int, worker: str) -> Job | None:
        job, self._job = self._job, None
        return job

    def put_back(self, job: Job) -> None:
        self._job = job

    def done(self, job: Job, result: Any) -> bool:
        self.result, self.finished = result, True
        return True

    def lost(self, job: Job, *, overdue: bool) -> None:
        self.result, self.finished = Timing(obstacle="timing it killed a worker"), True

    def too_large(self, job: Job, shortage: Shortage) -> bool:
        self.fitting, self.finished = shortage.at_once // 2, shortage.at_once > 1
        return self.finished

    def expired(self) -> None:
        self.finished = True


def choose(
    pool: WorkerPool,
    exchange: Exchange,
    chunks: list[Chunk],
    contents: Sequence[PackedRecords],
    states: NodeStates,
) -> VectorizationChoice:
    """Time the largest chunk both ways on one worker and choose the faster.

    Vectorised training must win by a margin, and a close race is run again: the bits depend on the
    choice, so chance should not make it. The replies are thrown away; the round starts
    afterwards, with the choice made.
    """
    chunk = states.loaded(max(chunks, key=len))
    if len(chunk) < 2:
        return _sequential("one client a chunk")
    indices = tuple(sorted({exchange.envelopes[e].content for e in chunk.envelopes}))
    needed = tuple(contents[index] for index in indices)
    sequential = vectorized = math.inf
    at_once: int | None = None
    tries = 0
    while tries < TRIES:
        arguments = (replace(exchange, at_once=at_once), chunk, indices, *needed)
        name = "time both ways"
        source = _OneJob(Job("time_both_ways", arguments, None, name=name, measures=False))
        pool.run(source)
        if source.fitting is not None:
            at_once = source.fitting
            if at_once < 2:
                return _sequential(NO_ROOM)
            continue
        tries += 1
        timing: Timing = source.result
        if timing.obstacle is not None:
            return _sequential(f"cannot be vectorised: {timing.obstacle}")
        sequential = min(sequential, timing.sequential)
        vectorized = min(vectorized, timing.vectorized)
        if not 1 / CLEAR < sequential / (MARGIN * vectorized) < CLEAR:
            break
    figures = (
        f"{len(chunk)} clients sequential {sequential * 1e3:.1f} ms, "
        f"{'' if at_once is None else f'{at_once} '}vectorised {vectorized * 1e3:.1f} ms"
    )
    return VectorizationChoice(
        vectorized=MARGIN * vectorized < sequential, decided=True, reason=figures, at_once=at_once
    )


def _sequential(reason: str) -> VectorizationChoice:
    return VectorizationChoice(vectorized=False, decided=True, reason=reason)
