"""Jobs of a worker pool, and their sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from atoll.platform.worker.gpu_memory import Shortage


@dataclass(frozen=True)
class Job:
    """One call of a worker's method.

    Attributes
    ----------
    method : str
        The name of the :class:`~atoll.platform.worker.actor.Worker` method.
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
    leaves : bool
        Whether the method returns two values, of which the second stays on the worker's node: the
        source gets a reference to it.
    node : str
        Where it is run, if the source wants to know it later.
    """

    method: str
    arguments: tuple[Any, ...]
    payload: Any
    seconds: float | None = None
    alone: bool = False
    name: str = "call"
    measures: bool = True
    leaves: bool = False
    node: str = ""


class JobSource(Protocol):
    """Source of jobs, which also takes their results."""

    @property
    def finished(self) -> bool:
        """Whether every job has ended."""

    @property
    def waiting(self) -> int:
        """About how many jobs may be given to workers that are not free yet."""

    def next_job(self, workers: int, worker: str) -> Job | None:
        """Return the next job for one of ``workers`` workers, or None if there is none now."""

    def put_back(self, job: Job) -> None:
        """Take back a job that came to nothing through no fault of its own.

        It was given to a worker and never started there, or the worker's node was lost.
        """

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
