"""Allocation of workers: those that fit on the cluster's nodes now, and those that wait for nodes.

On a cluster with an autoscaler a run starts as many worker actors as would have work. Actors that
find no node are the autoscaler's demand: it brings nodes for them, up to its own limit, and lets
nodes go that have been idle. Nothing else is asked of it, so nothing outlives the run's driver.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray

from atoll.errors import EngineError, InvalidExperimentError
from atoll.platform.cluster.autoscaler import AutoscalerReport, read_report
from atoll.platform.cluster.capacity import Allocation, WorkerRequest, allocate
from atoll.platform.cluster.connection import Cluster
from atoll.platform.config.sections import NODES_TIMEOUT, RaySettings

logger = logging.getLogger("atoll")

# Seconds that an autoscaler which has just been started is given to say that it is there.
SILENCE_SECONDS = 10.0
POLL_SECONDS = 0.5
# Seconds between a run's looks at whether there is an autoscaler.
LOOK_SECONDS = 1.0
# Actors that wait for nodes at a time: each is an entry in Ray's books, and a round has thousands
# of chunks. As nodes come, others wait in their place.
MOST_AWAITING = 64


class WorkerAllocator:
    """Says how many workers a run may have, as nodes come and go.

    Parameters
    ----------
    cluster : Cluster
        Where.
    request : WorkerRequest
        The workers that are asked for.
    timeout : float
        Seconds to wait for nodes that an autoscaler brings, where none is there that holds a
        worker.
    most : int, optional
        How many workers could ever have work, if their number is "auto".

    Attributes
    ----------
    could_use : int
        How many workers would have work now, if their number is "auto".
    measures_gpus : bool
        Whether what the first worker on a GPU needs decides how many work on it.
    """

    def __init__(
        self,
        cluster: Cluster,
        request: WorkerRequest,
        timeout: float = NODES_TIMEOUT,
        most: int | None = None,
    ) -> None:
        self.could_use = 1
        self.most = most
        self._cluster = cluster
        self._request = request
        self.timeout = timeout
        self.measures_gpus = request.gpus == "auto"
        self._has_autoscaler: bool | None = False if cluster.started else None
        self._looked = -LOOK_SECONDS
        self._share_told: float | None = None
        self._said = ""

    @classmethod
    def of(cls, cluster: Cluster, settings: RaySettings) -> WorkerAllocator:
        """Return the allocator of the workers that ``[ray]`` asks for."""
        return cls(cluster, request_of(settings), settings.nodes_timeout)

    @property
    def can_change(self) -> bool:
        """Whether nodes may join and leave: a Ray that was started here stays as it is."""
        return not self._cluster.started

    def allocate(self) -> Allocation:
        """Return the workers that fit now, and how many others should wait for nodes.

        Raises
        ------
        InvalidExperimentError
            As :func:`~atoll.platform.cluster.capacity.allocate`.
        """
        # Where nodes can come, workers wait for them rather than share the CPUs that there are.
        is_elastic = bool(self._look_for_autoscaler())
        allocation = allocate(self._request, shares_cpus=not is_elastic)
        self._tell_share(allocation.cpus)
        workers = allocation.workers
        if self._request.workers == "auto":
            workers = workers if self.most is None else min(workers, self.most)
            wanted = min(self.could_use, self.most or self.could_use)
        else:
            wanted = self._request.workers
        awaiting = min(max(0, wanted - workers), MOST_AWAITING) if is_elastic else 0
        return replace(allocation, workers=workers, awaiting_nodes=awaiting)

    def _look_for_autoscaler(self) -> bool | None:
        """Tell whether the cluster has an autoscaler; None as long as it does not say."""
        now = time.monotonic()
        if self._has_autoscaler is None and now >= self._looked + LOOK_SECONDS:
            self._looked = now
            report = read_report()
            if report is not None:
                self._has_autoscaler = isinstance(report, AutoscalerReport)
        return self._has_autoscaler

    def _tell_share(self, cpus: float) -> None:
        if cpus < self._request.cpus and cpus != self._share_told:
            logger.info("%s workers share the CPUs: %g of one each", self._request.workers, cpus)
            self._share_told = cpus

    def wait(self) -> Allocation:
        """Return the workers that fit, once at least one does.

        Raises
        ------
        InvalidExperimentError
            If no node holds one, and the cluster has no autoscaler that could bring such a node.
        EngineError
            If its autoscaler has not brought one in time.
        """
        allocation = self._wait()
        # What a worker takes of a GPU stays as it is, whatever nodes join.
        self._request = replace(self._request, gpus=allocation.gpus)
        return allocation

    def _wait(self) -> Allocation:
        try:
            return self.allocate()
        except InvalidExperimentError as error:
            refused = error
        deadline = time.monotonic() + self.timeout
        silent_until = time.monotonic() + SILENCE_SECONDS
        while self._look_for_autoscaler() is None and time.monotonic() < silent_until:
            time.sleep(POLL_SECONDS)
        if not self._look_for_autoscaler():
            raise refused
        with self._pending_actor() as needed:
            while True:
                try:
                    return self.allocate()
                except InvalidExperimentError as error:
                    refused = error
                self._check_wait(refused, needed, deadline)
                time.sleep(POLL_SECONDS)

    def _check_wait(
        self,
        refused: InvalidExperimentError,
        needed: tuple[dict[str, float], frozenset[str]],
        deadline: float,
    ) -> None:
        """Say what is waited for; raise if it cannot come, or has not come in time."""
        report = read_report()
        if isinstance(report, AutoscalerReport) and needed in report.impossible:
            raise InvalidExperimentError(f"{refused}; nor can its autoscaler bring such a node")
        said = str(report) if report else "its autoscaler says nothing"
        if time.monotonic() > deadline:
            raise EngineError(
                f"{refused}; its autoscaler has brought no such node within "
                f"ray.nodes_timeout = {self.timeout:g} s ({said})"
            )
        if said != self._said:
            what = _describe(self._request)
            logger.info("waiting up to %g s for nodes that hold %s (%s)", self.timeout, what, said)
            self._said = said

    @contextmanager
    def _pending_actor(self) -> Iterator[tuple[dict[str, float], frozenset[str]]]:
        """Within this context an actor waits for a node that holds a worker.

        It gives the resources and labels that the actor waits for.
        """
        request = self._request
        needed = Allocation(1, request.cpus, 0.0, label_selector=request.label_selector)
        if request.gpus != "auto":
            needed = replace(needed, gpus=request.gpus)
        if not needed.cpus and not needed.gpus:
            # An actor that takes nothing fits on a head without CPUs, which holds no worker.
            needed = replace(needed, cpus=1.0)
        actor: Any = ray.remote(_Pending).options(**needed.options()).remote()
        amounts = {"CPU": needed.cpus, "GPU": needed.gpus}
        try:
            yield (
                {name: amount for name, amount in amounts.items() if amount},
                frozenset(request.label_selector),
            )
        finally:
            ray.kill(actor)


class _Pending:
    """An actor that does nothing."""


def request_of(settings: RaySettings) -> WorkerRequest:
    """Return the workers that ``[ray]`` asks for."""
    return WorkerRequest(
        settings.workers,
        settings.cpus_per_worker,
        settings.gpus_per_worker,
        settings.label_selector or {},
    )


def _describe(request: WorkerRequest) -> str:
    wanted = "a worker" if request.workers == "auto" else f"one of {request.workers} workers"
    gpus = "" if request.gpus in ("auto", 0) else f" and {request.gpus:g} GPU"
    labels = f", with the labels {dict(request.label_selector)}" if request.label_selector else ""
    return f"{wanted} of {request.cpus:g} CPU{gpus}{labels}"
