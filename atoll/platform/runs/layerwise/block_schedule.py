"""Schedule of layer-wise training: its jobs, for a pool of workers.

A unit is what is trained apart: a block of the network, its head, or a member of a baseline.

The unit with the fewest epochs comes first, and no unit waits for another; only where blocks train
what they share does an epoch begin when all have ended the one before. A unit whose worker dies
continues from its own checkpoint; one that fails for good is left out, and the run continues.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from atoll.clients.apps.client_spec import ClientSpec
from atoll.errors import EngineError
from atoll.platform.pool.jobs import Job
from atoll.platform.runs.layerwise.block_job import UnitReport, train_unit
from atoll.platform.worker.gpu_memory import Shortage

logger = logging.getLogger("atoll")

# Workers that may die with the same epoch of the same unit.
MAX_LOSSES = 3


class Evaluating(Protocol):
    """An evaluation in jobs."""

    jobs: list[Job]

    def take(self, payload: tuple[Any, ...], result: Any) -> list[Job]:
        """Take a job's result; return the jobs that can start now."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""

    def metrics(self) -> dict[str, Any]:
        """Return the result."""


@dataclass
class _Progress:
    """Progress of a unit."""

    next_epoch: int
    running: bool = False
    losses: int = 0
    failed: str | None = None


class UnitSchedule:
    """A job source: epochs of units, and evaluations.

    Parameters
    ----------
    spec : ClientSpec
        What every unit is trained with.
    directory : Path
        Of the units' checkpoints.
    blocks, others : Sequence[str]
        The network's blocks, and the other units (head, baselines).
    first_epoch, last_epoch : int
        The epochs to report, from 1.
    in_step : bool
        Whether an epoch begins only when all blocks have ended the one before.
    on_report : Callable[[UnitReport], None]
        Called after every epoch of a unit.
    on_epoch : Callable[[int], Evaluating | None]
        Called when all units have ended an epoch, epoch after epoch; what it returns is run next.
    on_evaluated : Callable[[int, dict or None], bool]
        Called, epoch after epoch, with the metrics of its evaluation (None if it had none);
        returns whether to stop.
    failed : Mapping[str, str]
        Units that failed for good before the run was interrupted, with the reason.

    Attributes
    ----------
    restarts : dict[str, int]
        How often each unit continued from its checkpoint after its worker had died.
    """

    def __init__(
        self,
        spec: ClientSpec,
        directory: Path,
        blocks: Sequence[str],
        others: Sequence[str],
        first_epoch: int,
        last_epoch: int,
        *,
        in_step: bool,
        on_report: Callable[[UnitReport], None],
        on_epoch: Callable[[int], Evaluating | None],
        on_evaluated: Callable[[int, dict[str, Any] | None], bool],
        failed: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._spec = spec
        self._directory = directory
        self._blocks = list(blocks)
        self._units = {name: _Progress(first_epoch) for name in [*blocks, *others]}
        for name, reason in failed.items():
            self._units[name].failed = reason
        self._last = last_epoch
        self._in_step = in_step
        self._on_report, self._on_epoch = on_report, on_epoch
        self._on_evaluated = on_evaluated
        self._closed = self._recorded = first_epoch - 1
        self._evaluations: dict[int, Evaluating | None] = {}
        self._ready: deque[Job] = deque()
        self._stopped = first_epoch > last_epoch
        self.restarts = dict.fromkeys(self._units, 0)

    @property
    def failed(self) -> dict[str, str]:
        """The units that failed for good, with the reason."""
        return {name: p.failed for name, p in self._units.items() if p.failed is not None}

    def is_alive(self, name: str) -> bool:
        """Tell whether a unit has not failed."""
        return self._units[name].failed is None

    # --- a job source ---------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether every epoch has been evaluated and reported."""
        return self._stopped

    @property
    def waiting(self) -> int:
        """No job is given ahead: which unit is next is not known before a worker is free."""
        return 0

    def next_job(self, workers: int, worker: str) -> Job | None:
        """Return an evaluation's job, or the next epoch of the unit that is least far."""
        if self._ready:
            return self._ready.popleft()
        limit = self._closed + 1 if self._in_step else self._last
        able = [
            (progress.next_epoch, place, name)
            for place, (name, progress) in enumerate(self._units.items())
            if progress.failed is None and not progress.running and progress.next_epoch <= limit
        ]
        if not able:
            return None
        epoch, _, name = min(able)
        self._units[name].running = True
        call = (train_unit, self._spec, self._directory, name, epoch, self._recorded)
        return Job("call", call, payload=name)

    def put_back(self, job: Job) -> None:
        """Take back a job that was not started."""
        if isinstance(job.payload, str):
            self._units[job.payload].running = False
        else:
            self._ready.appendleft(job)

    def done(self, job: Job, result: Any) -> bool:
        """Take a unit's report, or a part of an evaluation."""
        if isinstance(job.payload, str):
            self._take_report(result)
        else:
            self._ready.extend(job.payload[0].take(job.payload, result))
            self._record()
        return True

    def lost(self, job: Job, *, overdue: bool) -> None:
        """Start a dead worker's job again; a unit that keeps killing its workers has failed."""
        if not isinstance(job.payload, str):
            self._ready.append(job)
            return
        progress = self._units[job.payload]
        progress.running = False
        progress.losses += 1
        if progress.losses < MAX_LOSSES:
            self.restarts[job.payload] += 1
            logger.warning("%s continues from its own checkpoint", job.payload)
            return
        reason = f"{progress.losses} workers died in its epoch {progress.next_epoch}"
        report = UnitReport(job.payload, progress.next_epoch, "error", reason)
        self._take_report(report)

    def too_large(self, job: Job, shortage: Shortage) -> bool:
        """Leave it at that: a unit's epoch has no smaller parts."""
        return False

    def expired(self) -> None:
        """Refuse a deadline: layer-wise training has none."""
        raise EngineError("timed out")

    # --- epochs ---------------------------------------------------------------------------------

    def _take_report(self, report: UnitReport) -> None:
        progress = self._units[report.name]
        progress.running = False
        if report.status == "error":
            progress.failed = report.reason
            logger.warning("%s has failed for good: %s", report.name, report.reason)
        else:
            progress.losses = 0
            progress.next_epoch = report.epoch + 1
        self._on_report(report)
        if not any(self.is_alive(name) for name in self._blocks):
            raise EngineError(f"every block has failed, the last one because {report.reason}")
        self.close_epochs()

    def close_epochs(self) -> None:
        """Close every epoch that all units have ended."""
        alive = [p.next_epoch for p in self._units.values() if p.failed is None]
        while self._closed < min(min(alive) - 1, self._last):
            self._closed += 1
            evaluation = self._on_epoch(self._closed)
            self._evaluations[self._closed] = evaluation
            if evaluation is not None:
                self._ready.extend(evaluation.jobs)
        self._record()

    def _record(self) -> None:
        while not self._stopped and self._recorded < self._closed:
            evaluation = self._evaluations[self._recorded + 1]
            if evaluation is not None and not evaluation.finished:
                return
            self._recorded += 1
            del self._evaluations[self._recorded]
            metrics = None if evaluation is None else evaluation.metrics()
            wants_to_stop = self._on_evaluated(self._recorded, metrics)
            self._stopped = wants_to_stop or self._recorded == self._last
