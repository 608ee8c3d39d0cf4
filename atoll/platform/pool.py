"""The workers of a run: started on every node, kept busy, replaced when they die.

The pool knows nothing of federated learning. It takes jobs from a :class:`JobSource`, gives each
to an idle worker, and tells the source what came of it.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from atoll.errors import EngineError
from atoll.platform.gpu_memory import OnGpu, Shortage
from atoll.platform.gpu_sharing import GpuSharing
from atoll.platform.worker import Worker, WorkerSetup

logger = logging.getLogger("atoll")

# Deaths of starting workers in a row after which there is no point in trying again.
PATIENCE_SECONDS = 60.0
MAX_FAILED_STARTS = 3
# Seconds beside a client's own timeout that a job may take before its worker is given up.
GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Job:
    """One call of a worker's method.

    Attributes
    ----------
    method : str
        The name of the :class:`~atoll.platform.worker.Worker` method.
    arguments : tuple
        Its arguments; Ray object references are resolved on the worker's node.
    payload : object
        What the source needs to recognise the job.
    seconds : float or None
        How long the job may take before its worker is killed.
    alone : bool
        Whether no other job may wait behind it: if its worker dies, it was this one.
    name : str
        What it is, for Ray's dashboard ("train, round 3").
    measures : bool
        Whether what it needs of a GPU says how many such jobs fit on it.
    """

    method: str
    arguments: tuple[Any, ...]
    payload: Any
    seconds: float | None = None
    alone: bool = False
    name: str = "call"
    measures: bool = True


class JobSource(Protocol):
    """Where jobs come from and where their results go."""

    @property
    def finished(self) -> bool:
        """Whether every job has come to an end."""

    @property
    def waiting(self) -> int:
        """About how many jobs may be given to workers that are not free yet."""

    def next_job(self, workers: int, worker: str) -> Job | None:
        """Return the next job for one of ``workers`` workers, or None if there is none now."""

    def put_back(self, job: Job) -> None:
        """Take back a job that was given to a worker and never started there."""

    def done(self, job: Job, result: Any) -> bool:
        """Take a result; return False if the worker that made it must be replaced."""

    def lost(self, job: Job, *, overdue: bool) -> None:
        """Take note that the worker died (or was killed, being overdue) with the job."""

    def too_large(self, job: Job, shortage: Shortage) -> bool:
        """Take note that the job does not fit into an empty GPU.

        Return whether it will come in smaller parts: then the source is finished, and what it
        has under way is of no use.
        """

    def expired(self) -> None:
        """Give up what is not done: the deadline of the whole has passed."""


@dataclass
class _Running:
    worker: _WorkerHandle
    job: Job
    overdue_at: float | None


@dataclass
class _WorkerHandle:
    """A worker; ``jobs`` are the references to its jobs' results, the one that it runs first."""

    name: str
    actor: Any
    pid: int = 0
    node: str = ""
    jobs: list[Any] = field(default_factory=list)
    methods: dict[str, tuple[str, Any]] = field(default_factory=dict)

    def submit(self, job: Job) -> Any:
        """Send a job to the worker under its name; return the reference to its result."""
        name, method = self.methods.get(job.method, ("", None))
        if name != job.name:
            # Naming a method costs more than calling it; a round's jobs have one name.
            method = getattr(self.actor, job.method).options(name=job.name)
            self.methods[job.method] = job.name, method
        return method.remote(*job.arguments)


class WorkerPool:
    """A fixed number of long-lived workers.

    Parameters
    ----------
    setup : WorkerSetup
        What each worker starts with.
    size : int
        The number of workers.
    cpus, gpus : float
        The share of a node's CPUs and GPUs that a worker takes.
    label : str
        What the workers work for, for Ray's dashboard: they are named ``label/worker-0``, ....
    measure_gpus : bool
        Whether what the first worker on a GPU needs decides how many work on it.

    Attributes
    ----------
    sharing : GpuSharing
        Which workers may use their GPUs; the others wait, and hold no memory there.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        size: int,
        cpus: float,
        gpus: float,
        label: str = "federation",
        *,
        measure_gpus: bool = False,
    ) -> None:
        self.size = size
        self.sharing = GpuSharing(gpus, is_measured=measure_gpus)
        # Names are unique in a cluster's namespace; a label need not be.
        self._label = f"{label}-{os.urandom(3).hex()}"
        self._setup = setup
        resources = {"num_cpus": cpus, "num_gpus": gpus}
        self._actor_class = ray.remote(scheduling_strategy="SPREAD", **resources)(Worker)
        self._idle: list[_WorkerHandle] = []
        self._starting: dict[Any, _WorkerHandle] = {}
        self._running: dict[Any, _Running] = {}
        self._started = 0
        self._failed_starts = 0
        self.deaths = 0
        for _ in range(size):
            self._start_worker()

    def _start_worker(self) -> None:
        name = f"worker-{self._started}"
        self._started += 1
        actor_class = self._actor_class.options(name=f"{self._label}/{name}")
        handle = _WorkerHandle(name, actor_class.remote(name, self._setup))
        self._starting[handle.actor.where.remote()] = handle

    def pids(self) -> list[int]:
        """Return the process ids of the workers that have started, in order of their start."""
        handles = self._idle + self._busy()
        return [handle.pid for handle in sorted(handles, key=lambda h: h.name) if handle.pid]

    def _busy(self) -> list[_WorkerHandle]:
        return [r.worker for reference, r in self._running.items() if reference == r.worker.jobs[0]]

    def run(self, source: JobSource, timeout: float | None = None) -> None:
        """Run the jobs of ``source`` until it is finished.

        Parameters
        ----------
        source : JobSource
            The jobs.
        timeout : float or None
            Seconds after which what is not done is given up (and its workers are replaced);
            they count from when the first worker is at work, not from its start.

        Raises
        ------
        EngineError
            If workers cannot be started, or fail for a reason that is not a client's.
        """
        deadline = None
        try:
            while not source.finished:
                self._assign(source)
                if deadline is None and timeout is not None and self._running:
                    deadline = time.monotonic() + timeout
                self._wait(source, deadline)
                if deadline is not None and time.monotonic() >= deadline and not source.finished:
                    self._abandon_running()
                    source.expired()
        except BaseException:
            self._abandon_running()
            raise

    def _assign(self, source: JobSource) -> None:
        while (worker := self._next_idle()) is not None:
            job = source.next_job(self.size, worker.name)
            if job is None:
                return
            self._idle.remove(worker)
            self._give(worker, job)
        # A job ahead spares a worker the wait for the driver; one that has a time limit must
        # start when it is given, and the last jobs are for whoever is free first. A worker that
        # dies with a second job may not have sent the result of the first, which is then blamed.
        for worker in self._busy():
            first = self._running[worker.jobs[0]].job
            if len(worker.jobs) == 1 and first.seconds is None and not first.alone:
                ahead = source.waiting >= self.size
                job = source.next_job(self.size, worker.name) if ahead else None
                if job is not None:
                    self._give(worker, job)

    def _next_idle(self) -> _WorkerHandle | None:
        return next((w for w in reversed(self._idle) if self.sharing.admits(w.name)), None)

    def _give(self, worker: _WorkerHandle, job: Job) -> None:
        self.sharing.enter(worker.name)
        reference = worker.submit(job)
        overdue_at = None if job.seconds is None else time.monotonic() + job.seconds
        self._running[reference] = _Running(worker, job, overdue_at)
        worker.jobs.append(reference)

    def _wait(self, source: JobSource, deadline: float | None) -> None:
        references = [*self._running, *self._starting]
        if not references:
            if not source.finished and not self._idle:
                raise EngineError("the engine has no workers left")
            return
        moments = [r.overdue_at for r in self._running.values() if r.overdue_at is not None]
        moments += [] if deadline is None else [deadline]
        seconds = max(0.0, min(moments) - time.monotonic()) if moments else None
        if seconds is None and not self._running:
            seconds = PATIENCE_SECONDS
        ready, _ = ray.wait(references, num_returns=1, timeout=seconds, fetch_local=True)
        if not ready and seconds == PATIENCE_SECONDS:
            logger.warning(
                "no worker has started for %g s; are the cluster's CPUs or GPUs taken by others?",
                PATIENCE_SECONDS,
            )
        for reference in ready:
            if reference in self._starting:
                self._take_started(reference)
            else:
                self._take_result(source, reference)
        self._kill_overdue(source)

    def _take_started(self, reference: Any) -> None:
        worker = self._starting.pop(reference)
        try:
            place = ray.get(reference)
        except RayTaskError as error:
            raise EngineError(f"a worker could not be set up: {error.cause}") from error
        except RayActorError as error:
            self._failed_starts += 1
            cause = _cause_in_constructor(error)
            if cause is not None or self._failed_starts >= MAX_FAILED_STARTS:
                raise EngineError(f"workers cannot be started: {cause or error}") from error
            self._start_worker()
            return
        self._failed_starts = 0
        worker.pid, worker.node = place["pid"], place["node"]
        self.sharing.place(worker.name, worker.node, place["gpus"])
        self._idle.append(worker)

    def _take_result(self, source: JobSource, reference: Any) -> None:
        if reference not in self._running:
            return
        worker = self._running[reference].worker
        # A job ahead fails with its worker; what came of the one before it must be taken first.
        first = worker.jobs[0]
        job = self._running[first].job
        try:
            result = ray.get(first)
        except RayTaskError as error:
            raise EngineError(f"a worker failed: {error}") from error
        except (RayError, GetTimeoutError) as error:
            logger.warning("%s died and is replaced (%s)", worker.name, _brief(error))
            self._replace(worker, source)
            source.lost(job, overdue=False)
            return
        if isinstance(result, OnGpu):
            if result.shortage is not None:
                self._back_off(worker, job, result.shortage, source)
                return
            self.sharing.ended(worker.name, result.memory, decides=job.measures)
            result = result.value
        if not source.done(job, result):
            self._replace(worker, source)
            return
        del self._running[first]
        worker.jobs.pop(0)
        if not worker.jobs:
            self._idle.append(worker)
            self._free_surplus()

    def _back_off(
        self, worker: _WorkerHandle, job: Job, shortage: Shortage, source: JobSource
    ) -> None:
        """Run a job again that found no room on its GPU: beside fewer workers, or in parts."""
        gpu = self.sharing.name_of(worker.name)
        was_empty = self.sharing.out_of_memory(worker.name)
        # A process that ran out of memory may have it in pieces; a fresh one has none at all.
        self._replace(worker, source, has_died=False)
        if not was_empty:
            source.put_back(job)
            self._free_surplus()
        elif source.too_large(job, shortage):
            self._abandon_running()
        else:
            raise EngineError(
                f"{shortage.what} alone does not fit into the memory of {gpu} ({shortage.text}); "
                "lower the batch size (client.batch_size) or take a smaller model, or free the "
                "GPU of other programs"
            )

    def _free_surplus(self) -> None:
        """Start workers anew that wait and hold memory of a GPU where fewer should."""
        for worker in list(self._idle):
            if self.sharing.is_surplus(worker.name):
                self._idle.remove(worker)
                self._replace(worker, has_died=False)

    def _kill_overdue(self, source: JobSource) -> None:
        now = time.monotonic()
        for running in list(self._running.values()):
            if running.overdue_at is not None and running.overdue_at <= now:
                self._replace(running.worker, source)
                source.lost(running.job, overdue=True)

    def _replace(
        self, worker: _WorkerHandle, source: JobSource | None = None, *, has_died: bool = True
    ) -> None:
        """Start another worker in place of this one; the jobs ahead of it go back."""
        self.deaths += has_died
        self.sharing.leave(worker.name)
        ahead = [self._running.pop(reference).job for reference in worker.jobs][1:]
        if source is not None:
            for job in reversed(ahead):
                source.put_back(job)
        ray.kill(worker.actor)
        self._start_worker()

    def _abandon_running(self) -> None:
        for worker in self._busy():
            self._replace(worker)

    def close(self) -> None:
        """Stop all workers."""
        for handle in [*self._idle, *self._starting.values(), *self._busy()]:
            ray.kill(handle.actor)
        self._idle, self._starting, self._running = [], {}, {}


def _cause_in_constructor(error: RayActorError) -> str | None:
    """Return what the worker's constructor raised, or None if its process was killed."""
    text = str(error)
    marker = "The actor died because of an error raised in its creation task"
    return text.strip().splitlines()[-1] if marker in text else None


def _brief(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
