"""A sweep's trials, run side by side on Ray and each at most once.

A trial is a run like any other, in a directory of its own that is named by a hash of its resolved
configuration. So a sweep that was interrupted (or grew) runs only what is missing: finished trials
are read, interrupted ones resumed. Trials' drivers are Ray tasks on this machine; their workers
are wherever the cluster has room. Trials that are stopped early are told so by an actor that holds
Ray Tune's scheduler (sweep_stopping.py).
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import tomli_w
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from atoll.credentials import tables_without_credentials
from atoll.errors import RunDirectoryError
from atoll.files.recorded import write_recorded_text
from atoll.platform.cluster.bounded_waits import answer, get, wait_for_one
from atoll.platform.cluster.connection import Cluster
from atoll.platform.cluster.worker_allocation import WorkerAllocator
from atoll.platform.reports.tables import Table
from atoll.platform.run_directory.interrupts import (
    TimeBudget,
    interrupted_when_spent,
    terminated_as_interrupt,
)
from atoll.platform.run_directory.run_lock import RunLock, is_free
from atoll.platform.runs.started_cluster import main_code_of
from atoll.platform.sweeps.sweep_plan import Sweep, Trial
from atoll.platform.sweeps.sweep_results import figures_of, read_curve, tables_of, write_results
from atoll.platform.sweeps.trial_checks import check_trials
from atoll.platform.sweeps.trial_process import run_trial
from atoll.platform.sweeps.trial_rows import EARLY, FINISHED, TRIALS, place_of
from atoll.platform.sweeps.trial_stopping import (
    AskAfterRound,
    Halving,
    asha_scheduler,
    recorded_metric,
)
from atoll.platform.sweeps.trials import TrialTable, check_same_data

SWEEP_CONFIG = "sweep.toml"
# How long interrupted trials may take to write their checkpoints.
INTERRUPT_SECONDS = 30.0


@dataclass(frozen=True)
class TrialEnd:
    """Result of a trial.

    Attributes
    ----------
    trial : Trial
        The trial.
    done, of : int
        How many have ended, and how many there are.
    metrics : dict
        The last round's metrics; empty if it failed.
    seconds : float
        How long it took, from its start or resumption.
    error : str or None
        Why it failed.
    is_stopped : bool
        Whether it was stopped early.
    """

    trial: Trial
    done: int
    of: int
    metrics: dict[str, Any]
    seconds: float
    error: str | None
    is_stopped: bool = False


@dataclass(frozen=True)
class SweepResult:
    """Result of a sweep.

    Attributes
    ----------
    directory : Path
        The sweep directory.
    tables : str
        The tables of results, as text.
    printed : list[Table]
        The same as tables, for other forms.
    failed : dict[str, str]
        Why trials failed, by their description.
    left : int
        How many trials have neither ended nor failed: the budget did not reach them.
    """

    directory: Path
    tables: str
    failed: dict[str, str]
    printed: list[Table] = field(default_factory=list)
    left: int = 0


OnEnd = Callable[[TrialEnd], None]
OnStart = Callable[[int, int, int], None]


def sweep_directory(sweep: Sweep, out: Path | None) -> Path:
    """Return a sweep's directory: ``out``, or ``run.out/run.name``.

    Raises
    ------
    RunDirectoryError
        If there is something else in it.
    """
    directory = out or sweep.base.run.out / sweep.base.run.name
    if not is_free(directory) and not (directory / TRIALS).is_dir():
        raise RunDirectoryError(
            f"--out = {str(directory)!r}: is there already and no sweep; expected a new directory "
            "or this sweep's own"
        )
    return directory


def run_sweep(
    sweep: Sweep,
    directory: Path,
    *,
    wanted: Callable[[Trial], bool] = lambda trial: True,
    budget: float | None = None,
    on_start: OnStart = lambda trials, finished, parallel: None,
    on_end: OnEnd = lambda end: None,
) -> SweepResult:
    """Run what is missing of a sweep, and write its tables.

    Parameters
    ----------
    sweep : Sweep
        The sweep.
    directory : Path
        Its directory (:func:`sweep_directory`).
    wanted : Callable
        Tells which trials to run; the others wait for another time.
    budget : float, optional
        Seconds after which what runs is stopped with a checkpoint, and the tables made of what has
        ended; the next call continues from there. None for the whole sweep.
    on_start : Callable
        Told how many trials there are, how many are finished, and how many run at once.
    on_end : Callable
        Told of each trial's end.

    Raises
    ------
    AtollError
        If a trial cannot be run, the directory is in use, or no worker fits on the cluster.
    ValueError
        If there is a budget, and this is not the main thread.

    Examples
    --------
    >>> from atoll import load_sweep, run_sweep
    >>> sweep = load_sweep(Path("experiments/emoji.toml"))  # doctest: +SKIP
    >>> result = run_sweep(sweep, Path("runs/emoji"))  # doctest: +SKIP
    >>> print(result.tables)  # doctest: +SKIP
    """
    time_budget = TimeBudget(budget)
    try:
        (directory / TRIALS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"{directory}: cannot be written to ({error.strerror})") from error
    lock = RunLock(directory)
    lock.acquire()
    try:
        settings = sweep.settings.model_dump(mode="json", exclude_none=True)
        tables = {"sweep": settings, **sweep.base.to_dict()}
        text = tomli_w.dumps(tables_without_credentials(tables))
        write_recorded_text(directory / SWEEP_CONFIG, text)
        table = TrialTable(directory, sweep)
        check_same_data(directory, [t for t in sweep.trials if table.has_ended(t)])
        table.write()
        missing = [trial for trial in table.missing() if wanted(trial)]
        failed: dict[str, str] = {}
        try:
            with interrupted_when_spent(time_budget):
                _run_missing(sweep, directory, table, missing, failed, on_start, on_end)
        except KeyboardInterrupt:
            if not time_budget.is_spent:
                raise
        return _finish(sweep, directory, table, failed)
    finally:
        lock.release()


def _run_missing(
    sweep: Sweep,
    directory: Path,
    table: TrialTable,
    missing: list[Trial],
    failed: dict[str, str],
    on_start: OnStart,
    on_end: OnEnd,
) -> None:
    """Run trials that have not ended; add why some failed, by their names."""
    finished = len(sweep.trials) - len(table.missing())
    if not missing:
        on_start(len(sweep.trials), finished, 0)
        return
    check_trials(missing)
    settings = sweep.base.ray.model_copy(update={"workers": "auto"})
    cluster = Cluster(settings.address)
    try:
        # One node is waited for; trials' workers wait for those that they could use.
        whole = WorkerAllocator.of(cluster, settings).wait()
        parallel, workers = _shares(sweep, whole.workers, len(missing))
        on_start(len(sweep.trials), finished, parallel)
        running = _Running(sweep, directory, table, missing, workers, parallel, whole.gpus)
        # Only now: Ray sets a handler of its own when it starts.
        with terminated_as_interrupt():
            running.run(failed, on_end, finished, len(sweep.trials))
    finally:
        cluster.close()


def _shares(sweep: Sweep, slots: int, missing: int) -> tuple[int, int]:
    """Return how many trials run at once, and on how many workers each."""
    wanted = sweep.base.ray.workers
    given = sweep.settings.parallel
    most = max(1, slots // (1 if wanted == "auto" else wanted)) if given == "auto" else given
    parallel = min(most, missing)
    return parallel, max(1, slots // parallel) if wanted == "auto" else wanted


def _start_halving(sweep: Sweep, directory: Path, here: Any) -> Any:
    """Start the actor that stops trials early, with the results of earlier trials."""
    settings = sweep.settings.early_stopping
    if settings is None:
        return None
    # Here, where an error is the user's; in the actor it would be a death.
    asha_scheduler()
    longest = max(trial.experiment.run.rounds for trial in sweep.trials)
    actor = ray.remote(Halving).options(num_cpus=0, scheduling_strategy=here)
    halving = actor.remote(settings, longest)
    reports = [
        halving.report.remote(trial.group, trial.name, server_round, value)
        for trial in sweep.trials
        for server_round, value in recorded_metric(
            place_of(directory, trial), settings.metric, settings.mode
        )
    ]
    answer(reports, "the actor that stops trials early")
    return halving


class _Running:
    """Keeps so many trials under way until all have ended."""

    def __init__(
        self,
        sweep: Sweep,
        directory: Path,
        table: TrialTable,
        missing: list[Trial],
        workers: int,
        parallel: int,
        gpu_share: float,
    ) -> None:
        self._sweep, self._directory, self._table = sweep, directory, table
        self._workers, self._parallel = workers, parallel
        self._gpu_share = gpu_share
        self._waiting = deque(missing)
        self._under_way: dict[Any, tuple[Trial, float]] = {}
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._task = ray.remote(run_trial)
        self._options = {"num_cpus": 0, "max_retries": 2, "scheduling_strategy": here}
        self._halving = _start_halving(sweep, directory, here)

    def run(self, failed: dict[str, str], on_end: OnEnd, done: int, of: int) -> None:
        try:
            while self._waiting or self._under_way:
                while self._waiting and len(self._under_way) < self._parallel:
                    self._start(self._waiting.popleft())
                [reference] = wait_for_one(list(self._under_way))
                trial, started = self._under_way.pop(reference)
                done += 1
                error = _outcome(reference)
                if error is not None:
                    failed[trial.name] = error
                self._table.end(trial, error)
                on_end(
                    TrialEnd(
                        trial,
                        done,
                        of,
                        self._table.metrics(trial),
                        time.monotonic() - started,
                        error,
                        self._table.status(trial) == EARLY,
                    )
                )
        except KeyboardInterrupt:
            self._interrupt()
            raise

    def _start(self, trial: Trial) -> None:
        place = place_of(self._directory, trial)
        ask, stopping = None, self._sweep.settings.early_stopping
        if self._halving is not None and stopping is not None:
            ask = AskAfterRound(
                self._halving, stopping.metric, trial.group, trial.name, stopping.mode
            )
        tables = trial.experiment.to_dict()
        # Trials share the GPUs that there are: one that took what fits would leave none.
        tables["ray"]["gpus_per_worker"] = self._gpu_share
        main = main_code_of(trial.experiment)
        # A Ray that others have started has another current folder.
        arguments = tables, str(place.absolute()), self._workers, list(sys.path), main, ask
        task = self._task.options(name=f"trial {trial}", **self._options)
        self._under_way[task.remote(*arguments)] = trial, time.monotonic()

    def _interrupt(self) -> None:
        """Have the trials under way write their checkpoints."""
        for reference in self._under_way:
            ray.cancel(reference, force=False)
        if self._under_way:
            references = list(self._under_way)
            ray.wait(references, num_returns=len(references), timeout=INTERRUPT_SECONDS)


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or ["?"])[0]


def _outcome(reference: Any) -> str | None:
    """Return why a trial failed, or None."""
    try:
        error: str | None = get(reference)
    except RayError as problem:
        return f"its process ended ({_first_line(problem)})"
    return error


def _finish(
    sweep: Sweep, directory: Path, table: TrialTable, failed: dict[str, str]
) -> SweepResult:
    table.write()
    ended, curves = [], []
    for trial in filter(table.has_ended, sweep.trials):
        place, is_whole = place_of(directory, trial), table.status(trial) == FINISHED
        try:
            curves.append(read_curve(trial, place, is_whole=is_whole))
            ended.append(trial)
        except RunDirectoryError as error:
            failed[trial.name] = f"{error}; without {place} it is run again"
    text = write_results(directory, ended, curves)
    printed = tables_of(figures_of(ended, curves))
    described = {str(trial): failed[trial.name] for trial in sweep.trials if trial.name in failed}
    left = sum(t.name not in failed and not table.has_ended(t) for t in sweep.trials)
    return SweepResult(directory, text, described, printed, left)
