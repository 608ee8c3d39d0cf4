"""A sweep's trials, run side by side on Ray and each at most once.

A trial is a run like any other, in a directory of its own that is named by a hash of its resolved
configuration. So a sweep that was interrupted (or grew) runs only what is missing: finished trials
are read, interrupted ones resumed. Trials' drivers are Ray tasks on this machine; their workers
are wherever the cluster has room.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import tomli_w
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from atoll.errors import AtollError, RunDirectoryError
from atoll.platform.atomic import write_text
from atoll.platform.cluster import Cluster
from atoll.platform.experiment import Experiment
from atoll.platform.ledger import CONFIG, RESULT, RunLock, read_result
from atoll.platform.session import terminated_as_interrupt
from atoll.platform.sweep_plan import Sweep, Trial
from atoll.platform.sweep_results import read_curve, write_results

SWEEP_CONFIG, TRIALS = "sweep.toml", "trials"
# How long interrupted trials may take to write their checkpoints.
INTERRUPT_SECONDS = 30.0
# How long a trial of a killed sweep may go on.
ORPHAN_SECONDS = 60.0


@dataclass(frozen=True)
class TrialEnd:
    """What came of a trial.

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
    """

    trial: Trial
    done: int
    of: int
    metrics: dict[str, Any]
    seconds: float
    error: str | None


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to.

    Attributes
    ----------
    directory : Path
        The sweep directory.
    tables : str
        The tables of results, as text.
    failed : dict[str, str]
        Why trials failed, by their description.
    """

    directory: Path
    tables: str
    failed: dict[str, str]


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
    is_empty = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
    if not is_empty and not (directory / TRIALS).is_dir():
        raise RunDirectoryError(
            f"--out = {str(directory)!r}: is there already and no sweep; expected a new directory "
            "or this sweep's own"
        )
    return directory


def run_sweep(
    sweep: Sweep,
    directory: Path,
    *,
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
    on_start : Callable
        Told how many trials there are, how many are finished, and how many run at once.
    on_end : Callable
        Told of each trial's end.

    Raises
    ------
    AtollError
        If the directory is in use, or no worker fits on the cluster.
    """
    try:
        (directory / TRIALS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"{directory}: cannot be written to ({error.strerror})") from error
    lock = RunLock(directory)
    lock.acquire()
    try:
        tables = {"sweep": sweep.settings.model_dump(mode="json"), **sweep.base.to_dict()}
        write_text(directory / SWEEP_CONFIG, tomli_w.dumps(tables))
        failed = _run_missing(sweep, directory, on_start, on_end)
        return _finish(sweep, directory, failed)
    finally:
        lock.release()


def _run_missing(sweep: Sweep, directory: Path, on_start: OnStart, on_end: OnEnd) -> dict[str, str]:
    """Run the trials that are not finished; return why some failed, by their names."""
    missing = [t for t in sweep.trials if not (_place(directory, t) / RESULT).exists()]
    finished = len(sweep.trials) - len(missing)
    if not missing:
        on_start(len(sweep.trials), finished, 0)
        return {}
    settings = sweep.base.ray
    cluster = Cluster(settings.address)
    try:
        slots = cluster.allocate("auto", settings.cpus_per_worker, settings.gpus_per_worker).workers
        parallel, workers = _shares(sweep, slots, len(missing))
        on_start(len(sweep.trials), finished, parallel)
        running = _Running(directory, workers, parallel, missing)
        # Only now: Ray sets a handler of its own when it starts.
        with terminated_as_interrupt():
            return running.run(on_end, finished, len(sweep.trials))
    finally:
        cluster.close()


def _shares(sweep: Sweep, slots: int, missing: int) -> tuple[int, int]:
    """Return how many trials run at once, and on how many workers each."""
    wanted = sweep.base.ray.workers
    given = sweep.settings.parallel
    most = max(1, slots // (1 if wanted == "auto" else wanted)) if given == "auto" else given
    parallel = min(most, missing)
    return parallel, max(1, slots // parallel) if wanted == "auto" else wanted


def _place(directory: Path, trial: Trial) -> Path:
    return directory / TRIALS / trial.name


class _Running:
    """Keeps so many trials under way until all have ended."""

    def __init__(self, directory: Path, workers: int, parallel: int, trials: list[Trial]) -> None:
        self._directory, self._workers, self._parallel = directory, workers, parallel
        self._waiting = deque(trials)
        self._under_way: dict[Any, tuple[Trial, float]] = {}
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._task = ray.remote(run_trial).options(
            num_cpus=0, max_retries=2, scheduling_strategy=here
        )

    def run(self, on_end: OnEnd, done: int, of: int) -> dict[str, str]:
        failed: dict[str, str] = {}
        try:
            while self._waiting or self._under_way:
                while self._waiting and len(self._under_way) < self._parallel:
                    self._start(self._waiting.popleft())
                [reference], _ = ray.wait(list(self._under_way), num_returns=1)
                trial, started = self._under_way.pop(reference)
                done += 1
                error = _outcome(reference)
                if error is not None:
                    failed[trial.name] = error
                result = read_result(_place(self._directory, trial)) or {}
                seconds = time.monotonic() - started
                on_end(TrialEnd(trial, done, of, result.get("metrics", {}), seconds, error))
        except KeyboardInterrupt:
            self._interrupt()
            raise
        return failed

    def _start(self, trial: Trial) -> None:
        place = _place(self._directory, trial)
        arguments = trial.experiment.to_dict(), str(place), self._workers, list(sys.path)
        self._under_way[self._task.remote(*arguments)] = trial, time.monotonic()

    def _interrupt(self) -> None:
        """Have the trials under way write their checkpoints."""
        for reference in self._under_way:
            ray.cancel(reference, force=False)
        if self._under_way:
            references = list(self._under_way)
            ray.wait(references, num_returns=len(references), timeout=INTERRUPT_SECONDS)


def _outcome(reference: Any) -> str | None:
    """Return why a trial failed, or None."""
    try:
        error: str | None = ray.get(reference)
    except RayError as problem:
        return f"its process ended ({(str(problem).strip().splitlines() or ['?'])[0]})"
    return error


def run_trial(
    tables: dict[str, Any], directory: str, workers: int, search_path: list[str]
) -> str | None:
    """Run or resume a trial (in a process of its own); return why it failed, or None."""
    sys.path.extend(path for path in search_path if path not in sys.path)
    from atoll.platform.federation import resume, run

    place = Path(directory)
    with _LogFile(place.with_suffix(".log")) as log:
        try:
            _wait_until_free(place)
            if (place / CONFIG).is_file():
                resume(place, workers=workers)
            else:
                # What a trial leaves that was killed before it could begin.
                shutil.rmtree(place, ignore_errors=True)
                tables["ray"]["workers"] = workers
                run(Experiment.from_dict(tables), out=place)
        except AtollError as error:
            log.exception("failed")
            return str(error)
        except Exception as error:
            log.exception("failed")
            return f"{type(error).__name__}: {error} ({place.with_suffix('.log')} has more)"
    return None


def _wait_until_free(place: Path) -> None:
    """Wait for a trial's process that outlived its sweep (Ray ends it after some seconds)."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while place.exists():
        lock = RunLock(place)
        try:
            lock.acquire()
        except RunDirectoryError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            lock.release()
            return


class _LogFile:
    """Within this context, Atoll's log goes to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> logging.Logger:
        self._handler = logging.FileHandler(self._path)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger = logging.getLogger("atoll")
        self._before = logger.handlers[:], logger.propagate, logger.level
        logger.handlers, logger.propagate = [self._handler], False
        logger.setLevel(logging.INFO)
        logging.getLogger("flwr").setLevel(logging.ERROR)
        return logger

    def __exit__(self, *exception: object) -> None:
        logger = logging.getLogger("atoll")
        logger.handlers, logger.propagate, level = self._before
        logger.setLevel(level)
        self._handler.close()


def _finish(sweep: Sweep, directory: Path, failed: dict[str, str]) -> SweepResult:
    states, curves = [], []
    for trial in sweep.trials:
        place = _place(directory, trial)
        result = read_result(place)
        if result is not None:
            curves.append(read_curve(trial, place))
        states.append(_state(trial, place, result, failed.get(trial.name)))
    text = write_results(directory, sweep, states, curves)
    described = {str(trial): failed[trial.name] for trial in sweep.trials if trial.name in failed}
    return SweepResult(directory, text, described)


def _state(
    trial: Trial, place: Path, result: dict[str, Any] | None, error: str | None
) -> dict[str, Any]:
    """Return a trial's row of the table of trials."""
    metrics = {} if result is None else result["metrics"]
    return {
        "key": trial.key,
        "method": trial.method,
        "hyperparameters": trial.hyperparameters,
        "held_out": "+".join(trial.held_out),
        "seed": trial.seed,
        "for_validation": trial.is_validation,
        "status": "failed" if result is None else "finished",
        "error": error,
        "directory": str(place),
        "rounds": None if result is None else result["rounds"],
        "seconds": None if result is None else result["wall_seconds"],
        "parameters_sha256": None if result is None else result["parameters_sha256"],
        "metrics": json.dumps({k: v for k, v in metrics.items() if not isinstance(v, list)}),
    }
