"""The room that a run has on the cluster: what is there now, and what an autoscaler brings."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Literal

from atoll.errors import EngineError, InvalidExperimentError
from atoll.platform.cluster.autoscaler import AutoscalerReport, read_report
from atoll.platform.cluster.connection import Allocation, Cluster
from atoll.platform.cluster.node_request import Wish
from atoll.platform.config.sections import NODES_TIMEOUT, RaySettings

logger = logging.getLogger("atoll")

# Seconds that an autoscaler which has just been started is given to say that it is there.
SILENCE_SECONDS = 10.0
POLL_SECONDS = 0.5


class Room:
    """The workers that a run may have, and those that it asks for.

    Parameters
    ----------
    cluster : Cluster
        Where.
    workers, cpus, gpus
        As for :meth:`Cluster.allocate`.
    timeout : float
        Seconds to wait for nodes that an autoscaler brings, where none is there that holds a
        worker.
    most : int, optional
        How many workers could ever have work, if their number is "auto".

    Attributes
    ----------
    could_use : int
        How many workers would have work, if their number is "auto".
    """

    def __init__(
        self,
        cluster: Cluster,
        workers: int | Literal["auto"],
        cpus: float,
        gpus: float | Literal["auto"],
        timeout: float = NODES_TIMEOUT,
        most: int | None = None,
    ) -> None:
        self.could_use = 1
        self._most = most
        self._share = 0.0 if gpus == "auto" else gpus
        self._cluster = cluster
        self._workers, self._cpus, self._gpus = workers, cpus, gpus
        self.timeout = timeout

    @property
    def measures_gpus(self) -> bool:
        """Whether what the first worker on a GPU needs decides how many work on it."""
        return self._gpus == "auto"

    @property
    def can_change(self) -> bool:
        """Whether nodes may join and leave: a Ray that was started here stays as it is."""
        return not self._cluster.started

    @classmethod
    def of(cls, cluster: Cluster, settings: RaySettings) -> Room:
        """Return the room that ``[ray]`` asks for."""
        return cls(
            cluster,
            settings.workers,
            settings.cpus_per_worker,
            settings.gpus_per_worker,
            settings.nodes_timeout,
        )

    def look(self) -> Allocation:
        """Return the workers that fit now; on a cluster with an autoscaler, ask for the others.

        Raises
        ------
        InvalidExperimentError
            As :meth:`Cluster.allocate`.
        """
        if self._cluster.started:
            return self._allocate()
        wanted = self.could_use if self._workers == "auto" else self._workers
        self._cluster.request.ask(Wish(wanted, self._cpus, self._share))
        allocation = self._allocate()
        # "auto" follows the GPUs that there are: those of nodes to come are like them.
        self._share = allocation.gpus
        return allocation

    def _allocate(self) -> Allocation:
        allocation = self._cluster.allocate(self._workers, self._cpus, self._gpus)
        if self._workers != "auto" or self._most is None:
            return allocation
        return replace(allocation, workers=min(allocation.workers, self._most))

    def first(self) -> Allocation:
        """Return the workers that fit, once at least one does, or all that were asked for.

        Raises
        ------
        InvalidExperimentError
            If the cluster does not hold them, and has no autoscaler that could bring what is
            missing.
        EngineError
            If its autoscaler has not brought it in time.
        """
        began, told = time.monotonic(), ""
        while True:
            try:
                return self.look()
            except InvalidExperimentError as error:
                refused = error
            waited = time.monotonic() - began
            request = self._cluster.request
            is_known = request.has_autoscaler is not None or waited > SILENCE_SECONDS
            if self._cluster.started or (is_known and not request.has_autoscaler):
                raise refused
            if request.is_vain:
                raise InvalidExperimentError(f"{refused}; nor can its autoscaler bring such a node")
            said = _said()
            if waited > self.timeout:
                raise EngineError(
                    f"{refused}; its autoscaler has brought no such node within "
                    f"ray.nodes_timeout = {self.timeout:g} s ({said})"
                )
            if request.has_autoscaler and said != told:
                logger.info(
                    "waiting up to %g s for nodes that hold %s (%s)",
                    self.timeout,
                    self._describe(),
                    said,
                )
                told = said
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Let the nodes go that were asked for."""
        self._cluster.request.withdraw()

    def _describe(self) -> str:
        wanted = "a worker" if self._workers == "auto" else f"{self._workers} workers"
        gpus = "" if self._gpus in ("auto", 0) else f" and {self._gpus:g} GPU"
        return f"{wanted} of {self._cpus:g} CPU{gpus}"


def _said() -> str:
    """Return what the autoscaler says of the nodes that it brings."""
    report = read_report()
    if not isinstance(report, AutoscalerReport):
        return "its autoscaler says nothing"
    coming = ", ".join(f"{count} {kind}" for kind, count in sorted(report.coming.items()) if count)
    parts = [f"on their way: {coming}" if coming else "none on its way", *report.failures]
    return "; ".join(parts)
