"""An arena, run: for each seed its federations, then every attack on their captures; the report.

A first answer for every cell of the report comes early: the first seed's federations are attacked
before the second seed's are run, and every attack has its first victims before any has others. A
time budget ends it in between, with the report of what there is.

Both are resumable. Federations are the trials of a sweep, named by a hash of their configuration;
attacks are jobs, keyed by a hash of their content. What is finished is read, not run again, and the
table is made from the jobs' own files in the plan's order: the same bits, however often the arena
was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from atoll.platform.arenas.arena_membership import membership_rows, membership_table
from atoll.platform.arenas.arena_plan import Arena, facts_of, jobs_of
from atoll.platform.arenas.jobs_file import write_jobs
from atoll.platform.callbacks.metric_names import SERVER_ACCURACY
from atoll.platform.cluster.capacity import WorkerRequest
from atoll.platform.cluster.connection import Cluster
from atoll.platform.cluster.worker_allocation import WorkerAllocator
from atoll.platform.pool.mapping import map_over_cluster
from atoll.platform.reports.arena.facts import ArenaFacts
from atoll.platform.reports.arena_report import write_arena_report
from atoll.platform.run_directory.interrupts import (
    TimeBudget,
    interrupted_when_spent,
    terminated_as_interrupt,
)
from atoll.platform.run_directory.run_files import read_result
from atoll.platform.run_directory.run_lock import RunLock, is_free
from atoll.platform.sweeps.sweep import OnEnd, run_sweep
from atoll.platform.sweeps.trial_rows import TRIALS

ARENA_CONFIG, FEDERATIONS, JOBS = "arena.toml", "federations", "jobs"
MEMBERSHIP = "membership.parquet"
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
    federations_left, attacks_left : int
        How many federations, and how many attacks on those that ended, the budget did not reach.
    """

    directory: Path
    report: Path
    failed: dict[str, str]
    federations_left: int = 0
    attacks_left: int = 0


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
    budget: float | None = None,
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
    budget : float, optional
        Seconds after which what runs is stopped, and the report made of what has ended; the next
        call continues from there. None for the whole arena.
    on_federation, on_job : callable
        Told of the end of each federation and of each attack.
    trust_code : bool
        Whether captures that are there already may name code that the arena's file does not.

    Raises
    ------
    AtollError
        If an attack lacks something that it needs or fits no federation, the directory is in use,
        or no worker fits on the cluster.
    ValueError
        If there is a budget, and this is not the main thread.

    Examples
    --------
    >>> from atoll import load_arena, run_arena
    >>> arena = load_arena(Path("experiments/arena.toml"))  # doctest: +SKIP
    >>> result = run_arena(arena, Path("runs/arena"))  # doctest: +SKIP
    >>> result.report  # doctest: +SKIP
    """
    check_before_run(arena)
    time_budget = TimeBudget(budget)
    lock = RunLock(directory)
    lock.acquire()
    try:
        (directory / FEDERATIONS).mkdir(exist_ok=True)
        text = tomli_w.dumps(tables_without_credentials(arena.tables()))
        write_recorded_text(directory / ARENA_CONFIG, text)
        conditions = arena.conditions(trust_code=trust_code)
        run = _ArenaRun(arena, directory, conditions, JobStore(directory / JOBS))
        cluster = Cluster(arena.federations.base.ray.address)
        try:
            with interrupted_when_spent(time_budget):
                for seed in arena.settings.seeds:
                    run.run_seed(seed, cluster, on_federation, on_job)
        except KeyboardInterrupt:
            if not time_budget.is_spent:
                raise
        finally:
            cluster.close()
        return run.finish()
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


class _ArenaRun:
    """The parts of an arena that have been run so far."""

    def __init__(
        self, arena: Arena, directory: Path, conditions: Conditions, store: JobStore
    ) -> None:
        self._arena, self._directory = arena, directory
        self._conditions, self._store = conditions, store
        self._failed: dict[str, str] = {}

    def run_seed(
        self, seed: int, cluster: Cluster, on_federation: OnEnd, on_job: Callable[[JobEnd], None]
    ) -> None:
        """Run the federations of a seed, and attack them."""
        done = run_sweep(
            self._arena.federations,
            self._directory / FEDERATIONS,
            wanted=lambda trial: trial.seed == seed,
            on_end=on_federation,
        )
        jobs, without = jobs_of_federations(self._arena, self._directory / FEDERATIONS)
        self._failed |= {**done.failed, **without}
        write_jobs(self._directory, jobs, self._conditions, self._facts(jobs))
        of_seed = [job for job in jobs if job.seed == seed]
        self._failed |= self._attack(of_seed, cluster, on_job)

    def finish(self) -> ArenaResult:
        """Write the table and the report of what there is."""
        arena, directory, store = self._arena, self._directory, self._store
        jobs, _ = jobs_of_federations(arena, directory / FEDERATIONS)
        rows = table_of(jobs, self._conditions, store)
        write_recorded_rows(directory / RESULTS, rows)
        keys = list(dict.fromkeys(job.key(self._conditions) for job in jobs))
        ended = [key for key in keys if key in store]
        costs = [{"key": key, "cpu_seconds": store.seconds(key)} for key in ended]
        write_recorded_rows(directory / COSTS, costs)
        write_recorded_json(directory / FAILED, self._failed)
        images = {key: store.images(key) for key in ended} if arena.settings.pictures else {}
        facts = self._facts(jobs)
        write_jobs(directory, jobs, self._conditions, facts)
        members = membership_rows(arena, directory / FEDERATIONS)
        if members:
            write_recorded_rows(directory / MEMBERSHIP, members)
            facts = replace(facts, membership=list(membership_table(members, facts)))
        report = write_arena_report(directory, rows, arena.baseline, images, facts)
        return ArenaResult(
            directory, report, self._failed, facts.federations_left, facts.attacks_left
        )

    def _facts(self, jobs: Sequence[Job]) -> ArenaFacts:
        """Return what the report says beside the rows, as far as it is known."""
        keys = {job.key(self._conditions) for job in jobs}
        return replace(
            facts_of(self._arena, self._directory / FEDERATIONS, self._failed),
            federations_left=self._federations_left(),
            attacks_left=sum(key not in self._store and key not in self._failed for key in keys),
        )

    def _federations_left(self) -> int:
        """Return how many federations have neither ended nor failed."""
        trials = self._directory / FEDERATIONS / TRIALS
        return sum(
            str(trial) not in self._failed and read_result(trials / trial.name) is None
            for trial in self._arena.federations.trials
        )

    def _attack(
        self, jobs: list[Job], cluster: Cluster, on_job: Callable[[JobEnd], None]
    ) -> dict[str, str]:
        settings = self._arena.settings
        ray_settings = self._arena.federations.base.ray
        labels = ray_settings.label_selector or {}
        request = WorkerRequest("auto", settings.cpus_per_job, settings.gpus_per_job, labels)
        allocator = WorkerAllocator(cluster, request, ray_settings.nodes_timeout)
        map_over = partial(map_over_cluster, allocator, prepare_process)
        with terminated_as_interrupt():
            return run_jobs(
                jobs,
                self._conditions,
                self._store,
                map_over,
                keep_images=settings.pictures,
                on_end=on_job,
            )
