"""A function over a list of arguments, spread over the workers.

Each call is a job of the pool: a worker that dies with it is replaced, and the call is repeated.
:func:`map_over_workers` is for parts of one result, where an exception ends the whole;
:func:`map_as_they_end` for calls that stand each for itself, as an arena's attacks do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from flwr.clientapp import ClientApp
from ray import cloudpickle

from atoll.errors import EngineError
from atoll.platform.cluster.worker_allocation import WorkerAllocator
from atoll.platform.pool.jobs import Job
from atoll.platform.pool.pool_start import start_pool
from atoll.platform.pool.worker_pool import WorkerPool
from atoll.platform.worker.gpu_memory import Shortage

MAX_LOSSES = 3


def _name_of(function: Callable[..., Any]) -> str:
    inner = function.func if isinstance(function, partial) else function
    return str(getattr(inner, "__name__", "call")).strip("_").replace("_", " ")


class _Calls:
    """A job source: one call a job, repeated if its worker dies.

    Parameters
    ----------
    function : Callable
        What is called.
    arguments : Sequence[tuple]
        One tuple a call.
    name : str
        What the calls are named by in Ray's dashboard.
    keeps_losses : bool
        Whether a call whose workers keep dying results in an error; else it raises it.

    Attributes
    ----------
    ended : deque[tuple[int, Any]]
        The places and results of the calls that have ended, for the caller to take.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        name: str,
        *,
        keeps_losses: bool,
    ) -> None:
        self.ended: deque[tuple[int, Any]] = deque()
        self._missing = len(arguments)
        self._losses: dict[int, int] = {}
        self._keeps_losses = keeps_losses
        # A federation's clients say how much of a GPU workers need: it is they who need most.
        self._queue = deque(
            Job("call", (function, *some), payload=place, name=name, measures=False)
            for place, some in enumerate(arguments)
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
        self.ended.append((job.payload, result))
        self._missing -= 1
        return True

    def lost(self, job: Job, *, overdue: bool) -> None:
        losses = self._losses[job.payload] = self._losses.get(job.payload, 0) + 1
        if losses < MAX_LOSSES:
            self._queue.append(job)
            return
        error = EngineError(f"{losses} workers died while they ran part {job.payload}")
        if not self._keeps_losses:
            raise error
        self.done(job, error)

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
    calls = _Calls(function, arguments, _name_of(function), keeps_losses=False)
    pool.run(calls)
    return [result for _, result in sorted(calls.ended, key=lambda ended: ended[0])]


def map_as_they_end(
    pool: WorkerPool, function: Callable[[Any], Any], arguments: Sequence[Any]
) -> Iterator[tuple[int, Any]]:
    """Yield each argument's place and ``function(argument)``, as they end.

    An exception that the function raised, or an ``EngineError`` if workers keep dying with the
    call, is yielded in the place of a result. What runs when the iterator is closed is stopped.

    Raises
    ------
    EngineError
        If workers cannot be started.
    """
    tuples = [(function, argument) for argument in arguments]
    calls = _Calls(_result_or_error, tuples, _name_of(function), keeps_losses=True)
    pool.add(calls)
    try:
        while calls.ended or not calls.finished:
            if not calls.ended:
                pool.turn()
            while calls.ended:
                yield calls.ended.popleft()
    finally:
        pool.give_up(calls)


def map_over_cluster(
    allocator: WorkerAllocator,
    prepare: Callable[[], None],
    function: Callable[[Any], Any],
    arguments: Sequence[Any],
) -> Iterator[tuple[int, Any]]:
    """Yield what :func:`map_as_they_end` does, on workers that are started for it.

    Parameters
    ----------
    allocator : WorkerAllocator
        The workers that there may be; more than there are arguments are not started.
    prepare : callable
        Called in each worker when it starts.
    function, arguments
        As for :func:`map_as_they_end`.
    """
    if not arguments:
        return
    allocator.could_use = allocator.most = len(arguments)
    pool = start_pool(partial(_prepared, prepare), allocator, label="jobs")
    try:
        yield from map_as_they_end(pool, function, arguments)
    finally:
        pool.close()


def _prepared(prepare: Callable[[], None]) -> ClientApp:
    """Prepare the worker; it is started with an app, which calls do not use."""
    prepare()
    return ClientApp()


def _result_or_error(function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return function(argument)
    except Exception as error:
        try:
            cloudpickle.loads(cloudpickle.dumps(error))
        except Exception:
            # One that holds what cannot be sent, or cannot be made again from its text.
            return EngineError(f"{type(error).__name__}: {error}")
        return error
