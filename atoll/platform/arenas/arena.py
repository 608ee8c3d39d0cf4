"""An arena, run: its federations first, then every attack on their captures, then the report.

Both are resumable. Federations are the trials of a sweep, named by a hash of their configuration;
attacks are jobs, keyed by a hash of their content. What is finished is read, not run again, and the
table is made from the jobs' own files in the plan's order: the same bits, however often the arena
was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import tomli_w

from atoll.attacks.arena.arena_job import Conditions, Job, prepare_process
from atoll.attacks.arena.arena_run import JobEnd, run_jobs, table_of
from atoll.attacks.arena.result_store import JobStore
from atoll.credentials import tables_without_credentials
from atoll.errors import CaptureError, RunDirectoryError
from atoll.files.recorded import (
    write_recorded_json,
    write_recorded_rows,
    write_recorded_text,
)
from atoll.platform.arenas.arena_checks import check_before_run
from atoll.platform.arenas.arena_plan import Arena, facts_of, jobs_of
from atoll.platform.arenas.jobs_file import write_jobs
from atoll.platform.callbacks.metric_names import SERVER_ACCURACY
from atoll.platform.cluster.capacity import WorkerRequest
from atoll.platform.cluster.connection import Cluster
from atoll.platform.cluster.worker_allocation import WorkerAllocator
from atoll.platform.pool.mapping import map_over_cluster
from atoll.platform.reports.arena.facts import ArenaFacts
from atoll.platform.reports.arena_report import write_arena_report
from atoll.platform.run_directory.interrupts import terminated_as_interrupt
from atoll.platform.run_directory.run_files import read_result
from atoll.platform.run_directory.run_lock import RunLock, is_free
from atoll.platform.sweeps.sweep import OnEnd, run_sweep
from atoll.platform.sweeps.trial_rows import TRIALS

ARENA_CONFIG, FEDERATIONS, JOBS = "arena.toml", "federations", "jobs"
RESULTS, COSTS, FAILED = "results.parquet", "costs.parquet", "failed.json"


@dataclass(frozen=True)
class ArenaResult:
    """Result of an arena.

    Attributes
    ----------
    directory : Path
        The arena directory.
    report : Path
        The report's page.
    failed : dict[str, str]
        Why federations and jobs failed, by their names and keys.
    """

    directory: Path
    report: Path
    failed: dict[str, str]


def arena_directory(arena: Arena, out: Path | None) -> Path:
    """Return an arena's directory: ``out``, or ``run.out/run.name``.

    Raises
    ------
    RunDirectoryError
        If there is something else in it.
    """
    run = arena.federations.base.run
    directory = out or run.out / run.name
    if not is_free(directory) and not (directory / FEDERATIONS).is_dir():
        raise RunDirectoryError(
            f"--out = {str(directory)!r}: is there already and no arena; expected a new directory "
            "or this arena's own"
        )
    return directory


def run_arena(
    arena: Arena,
    directory: Path,
    *,
    on_federation: OnEnd = lambda end: None,
    on_job: Callable[[JobEnd], None] = lambda end: None,
    trust_code: bool = False,
) -> ArenaResult:
    """Run what is missing of an arena, and write its table and report.

    Parameters
    ----------
    arena : Arena
        The arena.
    directory : Path
        Its directory (:func:`arena_directory`).
    on_federation, on_job : callable
        Told of the end of each federation and of each attack.
    trust_code : bool
        Whether captures that are there already may name code that the arena's file does not.

    Raises
    ------
    AtollError
        If an attack lacks something that it needs or fits no federation, the directory is in use,
        or no worker fits on the cluster.

    Examples
    --------
    >>> from atoll import load_arena, run_arena
    >>> arena = load_arena(Path("experiments/arena.toml"))  # doctest: +SKIP
    >>> result = run_arena(arena, Path("runs/arena"))  # doctest: +SKIP
    >>> result.report  # doctest: +SKIP
    """
    check_before_run(arena)
    lock = RunLock(directory)
    lock.acquire()
    try:
        tables = arena.tables()
        (directory / FEDERATIONS).mkdir(exist_ok=True)
        text = tomli_w.dumps(tables_without_credentials(tables))
        write_recorded_text(directory / ARENA_CONFIG, text)
        settings = arena.federations.base.ray
        cluster = Cluster(settings.address)
        try:
            done = run_sweep(arena.federations, directory / FEDERATIONS, on_end=on_federation)
            jobs, without = jobs_of_federations(arena, directory / FEDERATIONS)
            store = JobStore(directory / JOBS)
            conditions = arena.conditions(trust_code=trust_code)
            facts = facts_of(arena, directory / FEDERATIONS, {**done.failed, **without})
            write_jobs(directory, jobs, conditions, facts)
            failed = _attack(arena, jobs, conditions, store, cluster, on_job)
        finally:
            cluster.close()
        facts = replace(facts, failed={**facts.failed, **failed})
        return _finish(arena, directory, jobs, conditions, store, facts)
    finally:
        lock.release()


def jobs_of_federations(arena: Arena, federations: Path) -> tuple[list[Job], dict[str, str]]:
    """Return the jobs on all federations' captures, and which federations have none, and why."""
    jobs: list[Job] = []
    failed: dict[str, str] = {}
    for trial in arena.federations.trials:
        place = federations / TRIALS / trial.name
        result = read_result(place)
        if result is not None:
            accuracy = result["metrics"].get(SERVER_ACCURACY)
            try:
                jobs += jobs_of(arena, trial, place, accuracy)
            except CaptureError as error:
                failed[str(trial)] = str(error)
    return jobs, failed


def _attack(
    arena: Arena,
    jobs: list[Job],
    conditions: Conditions,
    store: JobStore,
    cluster: Cluster,
    on_job: Callable[[JobEnd], None],
) -> dict[str, str]:
    settings = arena.settings
    ray_settings = arena.federations.base.ray
    labels = ray_settings.label_selector or {}
    request = WorkerRequest("auto", settings.cpus_per_job, settings.gpus_per_job, labels)
    allocator = WorkerAllocator(cluster, request, ray_settings.nodes_timeout)
    map_over = partial(map_over_cluster, allocator, prepare_process)
    with terminated_as_interrupt():
        return run_jobs(
            jobs, conditions, store, map_over, keep_images=settings.pictures, on_end=on_job
        )


def _finish(
    arena: Arena,
    directory: Path,
    jobs: list[Job],
    conditions: Conditions,
    store: JobStore,
    facts: ArenaFacts,
) -> ArenaResult:
    rows = table_of(jobs, conditions, store)
    write_recorded_rows(directory / RESULTS, rows)
    keys = [key for job in jobs if (key := job.key(conditions)) in store]
    costs = [{"key": key, "cpu_seconds": store.seconds(key)} for key in dict.fromkeys(keys)]
    write_recorded_rows(directory / COSTS, costs)
    write_recorded_json(directory / FAILED, dict(facts.failed))
    write_jobs(directory, jobs, conditions, facts)
    images = {key: store.images(key) for key in keys} if arena.settings.pictures else {}
    report = write_arena_report(directory, rows, arena.baseline, images, facts)
    return ArenaResult(directory, report, dict(facts.failed))
