"""A worker as the driver sees it: its actor, its jobs, and what Ray says of its death."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import ActorDiedError, RayActorError, RayError

from atoll.platform.pool.jobs import Job, JobSource

# How Ray says that an actor did not die alone.
NODE_DIED = "node has died"


@dataclass
class RunningJob:
    """A job that a worker has been given, and until when it must be done."""

    worker: WorkerHandle
    job: Job
    source: JobSource
    overdue_at: float | None
    left: Any = None


@dataclass
class WorkerHandle:
    """A worker: its actor, where it is, and what it has to do.

    Attributes
    ----------
    name : str
        The worker's name.
    actor : ActorHandle
        The Ray actor.
    pid : int
        The id of its process, once it has started.
    node : str
        The Ray id of its node.
    gpus : list[str]
        The GPUs that it has a share of.
    bytes_brought : int
        The bytes of data that were sent to its node for it.
    jobs : list
        The references to its jobs' results, the one that it runs first.
    methods : dict
        By method, the name that its jobs had last, and the method under that name.
    """

    name: str
    actor: Any
    pid: int = 0
    node: str = ""
    gpus: list[str] = field(default_factory=list)
    bytes_brought: int = 0
    jobs: list[Any] = field(default_factory=list)
    methods: dict[str, tuple[str, Any]] = field(default_factory=dict)

    def submit(self, job: Job) -> tuple[Any, Any]:
        """Send a job to the worker under its name.

        Returns
        -------
        tuple
            The reference to its result, and one to what it leaves on its node (or None).
        """
        name, method = self.methods.get(job.method, ("", None))
        if name != job.name:
            # Naming a method costs more than calling it; a round's jobs have one name.
            options = {"name": job.name, "num_returns": 2 if job.leaves else 1}
            method = getattr(self.actor, job.method).options(**options)
            self.methods[job.method] = job.name, method
        returned = method.remote(*job.arguments)
        return tuple(returned) if job.leaves else (returned, None)


def is_lost_node(error: RayError) -> bool:
    """Tell whether a worker, or what it had made, was lost with its node or is out of reach.

    What it was doing is not to blame then; it is if the worker's process alone has died.
    """
    return not isinstance(error, ActorDiedError) or NODE_DIED in str(error)


def cause_in_constructor(error: RayActorError) -> str | None:
    """Return what the worker's constructor raised, or None if its process was killed."""
    text = str(error)
    marker = "The actor died because of an error raised in its creation task"
    return text.strip().splitlines()[-1] if marker in text else None


def brief(error: Exception) -> str:
    """Return the first line of an error's text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
