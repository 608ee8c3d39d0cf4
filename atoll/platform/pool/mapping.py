"""A function over a list of arguments, spread over the workers, results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from atoll.errors import EngineError
from atoll.platform.pool.jobs import Job
from atoll.platform.pool.worker_pool import WorkerPool
from atoll.platform.worker.gpu_memory import Shortage

MAX_LOSSES = 3


def _name_of(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", "call")).strip("_").replace("_", " ")


class _Calls:
    """A job source: one call a job, repeated if its worker dies."""

    def __init__(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> None:
        self.results: list[Any] = [None] * len(arguments)
        self._missing = len(arguments)
        self._losses: dict[int, int] = {}
        self._queue = deque(
            Job(
                "call",
                (function, *some),
                payload=index,
                name=_name_of(function),
                # A federation's clients do, and it is they who need most.
                measures=False,
            )
            for index, some in enumerate(arguments)
        )

    @property
    def finished(self) -> bool:
        return self._missing == 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def put_back(self, job: Job) -> None:
        self._queue.appendleft(job)

    def next_job(self, workers: int, worker: str) -> Job | None:
        return self._queue.popleft() if self._queue else None

    def done(self, job: Job, result: Any) -> bool:
        self.results[job.payload] = result
        self._missing -= 1
        return True

    def lost(self, job: Job, *, overdue: bool) -> None:
        losses = self._losses[job.payload] = self._losses.get(job.payload, 0) + 1
        if losses >= MAX_LOSSES:
            raise EngineError(f"{losses} workers died while they ran part {job.payload}")
        self._queue.append(job)

    def too_large(self, job: Job, shortage: Shortage) -> bool:
        return False

    def expired(self) -> None:
        raise EngineError("timed out")


def map_over_workers(
    pool: WorkerPool, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
) -> list[Any]:
    """Return ``[function(*a) for a in arguments]``, computed by the workers.

    Parameters
    ----------
    pool : WorkerPool
        The workers.
    function : Callable
        Importable or picklable; Ray object references among its arguments are resolved.
    arguments : Sequence[tuple]
        One tuple a call.

    Raises
    ------
    EngineError
        If the function raises, or workers keep dying with the same call.
    """
    calls = _Calls(function, arguments)
    pool.run(calls)
    return calls.results
