"""Whether a chunk's clients train one after another or at once, and why."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from atoll.platform.content import PackedRecords
from atoll.platform.exchange import Chunk, Exchange, Timing
from atoll.platform.pool import Job, WorkerPool

logger = logging.getLogger("atoll")

# How many times faster training at once must be; how far from that a race is clear; how often a
# race that is not clear is run.
MARGIN, CLEAR, TRIES = 1.1, 1.25, 3


@dataclass(frozen=True)
class VectorizationChoice:
    """The choice, kept for the whole run (and on resume: the bits depend on it).

    Attributes
    ----------
    vectorized : bool
        Whether chunks train at once.
    decided : bool
        Whether the choice is made; "auto" is not until the first chunk was timed.
    reason : str
        Why, in a few words.
    """

    vectorized: bool
    decided: bool
    reason: str

    @classmethod
    def requested(cls, vectorize: bool | str) -> VectorizationChoice:
        """Return the choice that ``client.vectorize`` asks for."""
        if vectorize == "auto":
            return cls(False, False, "to be decided by timing the first chunk")
        return cls(bool(vectorize), True, "as asked for")


class _OneJob:
    """A job source of a single job."""

    def __init__(self, job: Job) -> None:
        self._job: Job | None = job
        self.finished = False
        self.result: Any = None
        self.waiting = 0

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

    def expired(self) -> None:
        self.finished = True


def choose(
    pool: WorkerPool, exchange: Exchange, chunks: list[Chunk], contents: Sequence[PackedRecords]
) -> VectorizationChoice:
    """Time the largest chunk both ways on one worker and choose the faster.

    Training at once must win by a margin, and a close race is run again: the bits depend on the
    choice, so chance should not make it. The replies are thrown away; the round starts
    afterwards, with the choice made.
    """
    chunk = max(chunks, key=len)
    if len(chunk) < 2:
        return VectorizationChoice(False, True, "one client a chunk")
    indices = tuple(sorted({exchange.envelopes[e].content for e in chunk.envelopes}))
    arguments = (exchange, chunk, indices, *(contents[index] for index in indices))
    sequential = vectorized = math.inf
    for _ in range(TRIES):
        source = _OneJob(Job("time_both_ways", arguments, payload=None, name="time both ways"))
        pool.run(source)
        timing: Timing = source.result
        if timing.obstacle is not None:
            return VectorizationChoice(False, True, f"cannot be vectorised: {timing.obstacle}")
        sequential = min(sequential, timing.sequential)
        vectorized = min(vectorized, timing.vectorized)
        if not 1 / CLEAR < sequential / (MARGIN * vectorized) < CLEAR:
            break
    figures = (
        f"{len(chunk)} clients one after another {sequential * 1e3:.1f} ms, "
        f"at once {vectorized * 1e3:.1f} ms"
    )
    return VectorizationChoice(MARGIN * vectorized < sequential, True, figures)
