"""Execution of an arena's missing jobs, by any callable that maps a function over arguments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from atoll.attacks.arena.arena_job import Conditions, Job, JobResult, run_job
from atoll.attacks.arena.result_store import JobStore


class MapOver(Protocol):
    """Callable that maps a function over arguments, in this process or others."""

    def __call__(
        self, function: Callable[[Any], Any], arguments: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        """Yield each argument's place and its result, or an exception, in any order."""


@dataclass(frozen=True)
class JobEnd:
    """Outcome of a job: its result, or its error.

    Attributes
    ----------
    job : Job
        The job.
    done, of : int
        How many have ended, and how many there are.
    result : JobResult or None
        What it came to; None if it failed.
    error : str or None
        Why it failed.
    """

    job: Job
    done: int
    of: int
    result: JobResult | None
    error: str | None


def first_victims_first(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs in an order in which every attack on every federation has an early answer.

    Each has its first victim before any has its second one, so intervals over victims narrow
    everywhere at once.
    """
    before: Counter[tuple[str, object, str]] = Counter()
    ranks = []
    for job in jobs:
        cell = (job.federation, job.labels.get("attack_label", job.attack), job.knowledge)
        ranks.append(before[cell])
        before[cell] += 1
    return [job for _, job in sorted(zip(ranks, jobs, strict=True), key=lambda ranked: ranked[0])]


def run_jobs(
    jobs: Sequence[Job],
    conditions: Conditions,
    store: JobStore,
    map_over: MapOver,
    *,
    keep_images: bool = False,
    on_end: Callable[[JobEnd], None] = lambda end: None,
) -> dict[str, str]:
    """Run the jobs that are not in the store, first victims first; each result is kept.

    Parameters
    ----------
    jobs : Sequence[Job]
        The jobs.
    conditions : Conditions
        What they share.
    store : JobStore
        Has the finished ones.
    map_over : callable
        Maps a function over jobs.
    keep_images : bool
        Whether true images and reconstructions are kept, for pictures.
    on_end : callable
        Told of each job's end.

    Returns
    -------
    dict[str, str]
        Why jobs failed, by their keys. They are tried again next time.
    """
    ordered = first_victims_first(jobs)
    missing = list(
        {key: job for job in ordered if (key := job.key(conditions)) not in store}.values()
    )
    done = len(jobs) - len(missing)
    failed: dict[str, str] = {}
    for place, result in map_over(partial(run_job, conditions), missing):
        job, done = missing[place], done + 1
        key = job.key(conditions)
        if isinstance(result, BaseException):
            failed[key] = str(result) or type(result).__name__
            on_end(JobEnd(job, done, len(jobs), None, failed[key]))
            continue
        store.write(key, result, images=keep_images)
        on_end(JobEnd(job, done, len(jobs), result, None))
    return failed


def table_of(jobs: Sequence[Job], conditions: Conditions, store: JobStore) -> list[dict[str, Any]]:
    """Return the rows of all finished jobs with their labels, in the jobs' order."""
    return [
        {"key": key, **job.labels, **row}
        for job in jobs
        if (key := job.key(conditions)) in store
        for row in store.rows(key)
    ]
