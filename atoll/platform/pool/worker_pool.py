"""The workers of a run: started on every node, kept busy, replaced when they die.

The pool knows nothing of federated learning. It takes jobs from a source (``jobs.py``), gives each
to an idle worker, and tells the source of its end. It follows nodes that join the cluster or leave.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from atoll.errors import EngineError
from atoll.platform.cluster.bounded_waits import get, wait_for_one
from atoll.platform.cluster.capacity import Allocation
from atoll.platform.config.sections import NODES_TIMEOUT
from atoll.platform.pool.cluster_watch import ClusterWatch
from atoll.platform.pool.gpu_sharing import GpuSharing, does_not_fit
from atoll.platform.pool.jobs import Job, JobSource
from atoll.platform.pool.turns import Turns
from atoll.platform.pool.worker_handle import RunningJob, WorkerHandle, brief, is_lost_node
from atoll.platform.pool.worker_starts import WorkerStarts
from atoll.platform.worker.actor import WorkerSetup
from atoll.platform.worker.gpu_memory import OnGpu, Shortage

logger = logging.getLogger("atoll")

# Jobs lost with their nodes for each worker, and none done meanwhile, after which jobs are blamed.
MAX_LOST_WITH_NODES = 4
# How long the driving thread waits where others may bring jobs: beside an idle worker, or none.
IDLE_SECONDS, BUSY_SECONDS = 0.02, 0.25


class WorkerPool:
    """Long-lived workers, spread over the cluster's nodes.

    Several threads may run sources at once: one of them drives the pool for all, an event at a
    time, and the others wait for it.

    Parameters
    ----------
    setup : WorkerSetup
        What each worker starts with.
    allocation : Allocation
        How many workers, and what each takes of its node.
    label : str
        What the workers work for, for Ray's dashboard: they are named ``label/worker-0``, ....
    measure_gpus : bool
        Whether what the first worker on a GPU needs decides how many work on it.
    look : callable, optional
        Returns the workers that the cluster allows now; by default it is taken not to change.
    start_timeout : float
        Seconds after which it is an error that no worker has started and none is at work.

    Attributes
    ----------
    sharing : GpuSharing
        Which workers may use their GPUs; the others wait, and hold no memory there.
    deaths : int
        Workers that were replaced.
    bytes_brought : Counter[str]
        By node, the bytes of data that were sent there for its workers.
    is_shared : bool
        Whether several threads use the pool.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        allocation: Allocation,
        label: str = "federation",
        *,
        measure_gpus: bool = False,
        look: Callable[[], Allocation] | None = None,
        start_timeout: float = NODES_TIMEOUT,
    ) -> None:
        self._allocation = allocation
        self.sharing = GpuSharing(allocation.gpus, is_measured=measure_gpus)
        self._watch = ClusterWatch(look)
        self._starts = WorkerStarts(setup, allocation, label, start_timeout)
        self._idle: list[WorkerHandle] = []
        self._running: dict[Any, RunningJob] = {}
        self._node_of: dict[str, str] = {}
        self.bytes_brought: Counter[str] = Counter()
        self._lost_with_nodes = self.deaths = 0
        self._turns, self.is_shared = Turns(), False
        self._start_missing()

    @property
    def size(self) -> int:
        """How many workers the cluster's nodes hold."""
        return self._allocation.workers

    def pids(self) -> list[int]:
        """Return the process ids of the workers that have started, in order of their start."""
        handles = self._idle + self._busy()
        return [handle.pid for handle in sorted(handles, key=lambda h: h.name) if handle.pid]

    def _busy(self) -> list[WorkerHandle]:
        return [r.worker for reference, r in self._running.items() if reference == r.worker.jobs[0]]

    @cached_property
    def here(self) -> str:
        """The Ray id of the driver's node."""
        return str(ray.get_runtime_context().get_node_id())

    def nodes(self) -> set[str]:
        """Return the Ray ids of the nodes that have workers."""
        return {worker.node for worker in [*self._idle, *self._busy()]}

    def node_of(self, worker: str) -> str:
        """Return the Ray id of the node that a worker was started on."""
        return self._node_of[worker]

    def _fit(self) -> None:
        """Follow the cluster: use nodes that have joined, forget those that have left.

        Workers that shared the CPUs are started again once nodes have a share for each. Those
        without a node wait for one, or are given up if their number follows the cluster.
        """
        allowed = self._watch.allowed()
        if allowed is None:
            return
        gone = [worker for worker in self._idle if worker.node not in allowed.nodes]
        if allowed.cpus > self._starts.allocation.cpus and not self._running:
            logger.info("nodes have joined: %d workers are spread anew", allowed.workers)
            gone, self._starts.allocation = list(self._idle), allowed
            self._starts.give_up(len(self._starts.pending))
        for worker in gone:
            self._idle.remove(worker)
            self.sharing.leave(worker.name)
            ray.kill(worker.actor)
        if allowed.workers != self.size:
            logger.info("the cluster has changed: %d workers, from %d", allowed.workers, self.size)
        self._allocation = allowed
        self._starts.give_up(-self._missing())
        self._start_missing()

    def _missing(self) -> int:
        """Return how many workers are to be started; those that no node holds yet wait for one."""
        there = len(self._idle) + len(self._starts.pending) + len(self._busy())
        return self.size + self._allocation.awaiting_nodes - there

    def _start_missing(self) -> None:
        for _ in range(self._missing()):
            self._starts.start()

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
        self.add(source)
        try:
            while not source.finished:
                self.turn(deadline)
                if deadline is None and timeout is not None and self.is_at_work:
                    deadline = time.monotonic() + timeout
                if deadline is not None and time.monotonic() >= deadline and not source.finished:
                    with self._turns.driving():
                        self._abandon_running(source)
                        source.expired()
        except BaseException:
            self.give_up(source)
            raise
        finally:
            self._turns.forget(source)

    def await_worker(self) -> None:
        """Wait until a worker has started."""
        while not (self._idle or self._running):
            self.turn()

    @property
    def is_at_work(self) -> bool:
        """Whether a worker has something to do."""
        return bool(self._running)

    def add(self, source: JobSource) -> None:
        """Take jobs from ``source`` too, whoever drives the pool; :meth:`turn` drives it."""
        if self._turns.add(source):
            self._starts.note_news()

    def give_up(self, source: JobSource) -> None:
        """Stop what workers do for ``source``, and take no more of its jobs."""
        with self._turns.driving():
            # No new ones: Ray may be gone with what ended this, and would be waited for.
            self._abandon_running(source, replace=False)
        self._turns.forget(source)

    def turn(self, deadline: float | None = None) -> None:
        """Give out jobs and wait for one event; or wait for the thread that does so.

        Parameters
        ----------
        deadline : float or None
            When to return at the latest, as of ``time.monotonic``.

        Raises
        ------
        EngineError
            If workers cannot be started, or fail for a reason that is not a client's.
        """
        if self._turns.has_waited(deadline):
            return
        with self._turns.driving():
            try:
                # What ended a run before (a user who continued after Ctrl-C) took its workers.
                self._start_missing()
                self._fit()
                sources = self._turns.unfinished()
                self._assign(sources)
                self._wait(sources, deadline)
            except EngineError as error:
                self._turns.fail(error)
                raise

    def _assign(self, sources: list[JobSource]) -> None:
        for worker in reversed(list(self._idle)):
            if not self.sharing.admits(worker.name):
                continue
            for source in sources:
                job = source.next_job(self.size, worker.name)
                if job is not None:
                    self._idle.remove(worker)
                    self._give(worker, job, source)
                    break
        # A job ahead spares a worker the wait for the driver; one that has a time limit must
        # start when it is given, and the last jobs are for whoever is free first. A worker that
        # dies with a second job may not have sent the result of the first, which is then blamed.
        for worker in self._busy():
            running = self._running[worker.jobs[0]]
            first, source = running.job, running.source
            if len(worker.jobs) == 1 and first.seconds is None and not first.alone:
                ahead = source.waiting >= self.size
                job = source.next_job(self.size, worker.name) if ahead else None
                if job is not None:
                    self._give(worker, job, source)

    def _give(self, worker: WorkerHandle, job: Job, source: JobSource) -> None:
        self.sharing.enter(worker.name)
        reference, left = worker.submit(job)
        overdue_at = None if job.seconds is None else time.monotonic() + job.seconds
        self._running[reference] = RunningJob(worker, job, source, overdue_at, left)
        worker.jobs.append(reference)

    def _wait(self, sources: list[JobSource], deadline: float | None) -> None:
        references = [*self._running, *self._starts.pending]
        has_ended = any(source.finished for source in sources)
        if not references or has_ended:
            if not has_ended and sources and not self._idle:
                raise EngineError("the engine has no workers left")
            return
        moments = [r.overdue_at for r in self._running.values() if r.overdue_at is not None]
        moments += [] if deadline is None else [deadline]
        if self._running and self.is_shared:
            moments.append(time.monotonic() + (IDLE_SECONDS if self._idle else BUSY_SECONDS))
        seconds = max(0.0, min(moments) - time.monotonic()) if moments else None
        if seconds is None and not self._running:
            seconds = self._starts.patience
        ready = wait_for_one(references, seconds)
        if ready or self._running:
            self._starts.note_news()
        self._starts.check_patience()
        for reference in ready:
            if reference in self._starts.pending:
                self._take_started(reference)
            else:
                self._take_result(reference)
        self._kill_overdue()

    def _take_started(self, reference: Any) -> None:
        worker = self._starts.take(reference)
        if worker is not None:
            self.sharing.place(worker.name, worker.node, worker.gpus)
            self._node_of[worker.name] = worker.node
            self.bytes_brought[worker.node] += worker.bytes_brought
            self._idle.append(worker)

    def _take_result(self, reference: Any) -> None:
        if reference not in self._running:
            return
        worker = self._running[reference].worker
        # A job ahead fails with its worker; what came of the one before it must be taken first.
        first = worker.jobs[0]
        job, source = self._running[first].job, self._running[first].source
        try:
            result = get(first)
        except RayTaskError as error:
            raise EngineError(f"a worker failed: {error}") from error
        except (RayError, GetTimeoutError) as error:
            self._take_death(worker, job, source, error)
            return
        self._lost_with_nodes = 0
        if isinstance(result, OnGpu):
            if result.shortage is not None:
                self._back_off(worker, job, result.shortage, source)
                return
            self.sharing.ended(worker.name, result.memory, decides=job.measures)
            result = result.value
        if job.leaves:
            result = result, self._running[first].left
        if not source.done(job, result):
            self._replace(worker)
            return
        del self._running[first]
        worker.jobs.pop(0)
        if not worker.jobs:
            self._idle.append(worker)
            self._free_surplus()

    def _take_death(
        self, worker: WorkerHandle, job: Job, source: JobSource, error: RayError | GetTimeoutError
    ) -> None:
        """Replace a worker that died; its job is blamed unless its node was lost."""
        logger.warning("%s died and is replaced (%s)", worker.name, brief(error))
        self._replace(worker)
        self._lost_with_nodes += is_lost_node(error)
        limit = MAX_LOST_WITH_NODES * self.size
        if is_lost_node(error) and self._lost_with_nodes <= limit:
            source.put_back(job)
        else:
            source.lost(job, overdue=False)

    def _back_off(
        self, worker: WorkerHandle, job: Job, shortage: Shortage, source: JobSource
    ) -> None:
        """Run a job again that found no room on its GPU: beside fewer workers, or in parts."""
        gpu = self.sharing.name_of(worker.name)
        was_empty = self.sharing.out_of_memory(worker.name)
        # A process that ran out of memory may have it in pieces; a fresh one has none at all.
        self._replace(worker, has_died=False)
        if not was_empty:
            source.put_back(job)
            self._free_surplus()
        elif source.too_large(job, shortage):
            self._abandon_running(source)
        else:
            raise does_not_fit(shortage, gpu)

    def _free_surplus(self) -> None:
        """Restart waiting workers that hold memory of a GPU where fewer should."""
        for worker in list(self._idle):
            if self.sharing.is_surplus(worker.name):
                self._idle.remove(worker)
                self._replace(worker, has_died=False)

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for running in list(self._running.values()):
            if running.overdue_at is not None and running.overdue_at <= now:
                self._replace(running.worker)
                running.source.lost(running.job, overdue=True)

    def _replace(self, worker: WorkerHandle, *, has_died: bool = True) -> None:
        """Start another worker in place of this one; the jobs ahead of it go back."""
        self._drop(worker, has_died=has_died)
        self._start_missing()

    def _drop(self, worker: WorkerHandle, *, has_died: bool) -> None:
        self.deaths += has_died
        self.sharing.leave(worker.name)
        ahead = [self._running.pop(reference) for reference in worker.jobs][1:]
        for running in reversed(ahead):
            running.source.put_back(running.job)
        ray.kill(worker.actor)

    def _abandon_running(self, source: JobSource, *, replace: bool = True) -> None:
        """Stop the workers that are at work for ``source``."""
        own = [w for w in self._busy() if self._running[w.jobs[0]].source is source]
        for worker in own:
            self._drop(worker, has_died=replace)
        if replace:
            self._start_missing()

    def close(self) -> None:
        """Stop all workers."""
        for handle in [*self._idle, *self._starts.pending.values(), *self._busy()]:
            ray.kill(handle.actor)
        self._idle, self._running = [], {}
        self._starts.pending.clear()
