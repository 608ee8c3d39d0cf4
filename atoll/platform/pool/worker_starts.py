"""Workers on their way: actors that were asked for and have not said yet that they are there."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from atoll.errors import EngineError
from atoll.platform.cluster.bounded_waits import get
from atoll.platform.cluster.capacity import Allocation
from atoll.platform.pool.worker_handle import WorkerHandle, cause_in_constructor, is_lost_node
from atoll.platform.worker.actor import Worker, WorkerSetup

logger = logging.getLogger("atoll")

# Seconds without a start, and none at work, after which that is said.
PATIENCE_SECONDS = 60.0
# Deaths of starting workers in a row after which there is no point in trying again.
MAX_FAILED_STARTS = 3


class WorkerStarts:
    """Starts workers, and waits for them for so long.

    Parameters
    ----------
    setup : WorkerSetup
        What each worker starts with.
    allocation : Allocation
        What each worker takes of its node.
    label : str
        What the workers work for, for Ray's dashboard.
    timeout : float
        Seconds after which it is an error that no worker has started and none is at work.

    Attributes
    ----------
    allocation : Allocation
        What workers that are started from now on take of their nodes.
    pending : dict
        The workers that have not started yet, by the reference that is ready once they have.
    """

    def __init__(
        self, setup: WorkerSetup, allocation: Allocation, label: str, timeout: float
    ) -> None:
        self._setup = setup
        self.allocation = allocation
        # Names are unique in a cluster's namespace; a label need not be.
        self._label = f"{label}-{os.urandom(3).hex()}"
        self._timeout = timeout
        self._actor_class = ray.remote(scheduling_strategy="SPREAD")(Worker)
        self.pending: dict[Any, WorkerHandle] = {}
        self._started = 0
        self._failed = 0
        self._last_news = time.monotonic()

    def start(self) -> None:
        """Start one more worker."""
        name = f"worker-{self._started}"
        self._started += 1
        actor_class = self._actor_class.options(
            name=f"{self._label}/{name}", **self.allocation.options()
        )
        handle = WorkerHandle(name, actor_class.remote(name, self._setup))
        self.pending[handle.actor.where.remote()] = handle

    def give_up(self, count: int) -> None:
        """Give up the workers that were started last and are not there yet."""
        for reference in list(self.pending)[::-1][: max(0, count)]:
            ray.kill(self.pending.pop(reference).actor)

    def take(self, reference: Any) -> WorkerHandle | None:
        """Return a worker that has started; if it has died, start another.

        Raises
        ------
        EngineError
            If workers cannot be set up, or die as they start again and again.
        """
        worker = self.pending.pop(reference)
        try:
            place = get(reference)
        except RayTaskError as error:
            raise EngineError(f"a worker could not be set up: {error.cause}") from error
        except RayActorError as error:
            self._failed += not is_lost_node(error)
            cause = cause_in_constructor(error)
            if cause is not None or self._failed >= MAX_FAILED_STARTS:
                raise EngineError(f"workers cannot be started: {cause or error}") from error
            self.start()
            return None
        self._failed = 0
        worker.pid, worker.node = place["pid"], place["node"]
        worker.gpus, worker.bytes_brought = place["gpus"], place["bytes_brought"]
        return worker

    @property
    def patience(self) -> float:
        """Seconds to wait for a worker at a time."""
        return min(PATIENCE_SECONDS, self._timeout)

    def note_news(self) -> None:
        """Count the wait for a worker from now on."""
        self._last_news = time.monotonic()

    def check_patience(self) -> None:
        """Say that no worker starts, and end the run if none ever does.

        Raises
        ------
        EngineError
            If none has started in time.
        """
        waited = time.monotonic() - self._last_news
        taken = "are the cluster's CPUs or GPUs taken by others, or its nodes gone?"
        if waited >= self._timeout:
            limit = f"ray.nodes_timeout = {self._timeout:g} s"
            raise EngineError(f"no worker has started within {limit}; {taken}")
        if waited >= PATIENCE_SECONDS:
            logger.warning("no worker has started for %.0f s; %s", waited, taken)
