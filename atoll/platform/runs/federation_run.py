"""From an experiment to its result: run, resumed, and left alone where it is finished."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from atoll import flower
from atoll.errors import RunDirectoryError
from atoll.platform.callbacks.early_stopping import EarlyStopping
from atoll.platform.callbacks.observers import Observer, RoundRecord
from atoll.platform.config.client_mods import with_references
from atoll.platform.config.experiment import Experiment, load_experiment
from atoll.platform.config.privacy.budget import spent_after, with_private_examples
from atoll.platform.grid.message_capture import CaptureRecorder, SumRecorder
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.reports.run_report import REPORT, write_report
from atoll.platform.rounds.client_failures import ClientFailures
from atoll.platform.rounds.kept_round import KeptRound
from atoll.platform.rounds.privacy_budget import PrivacyBudget
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.rounds.round_options import StoppingRule
from atoll.platform.run_directory.checkpoint import CheckpointStore, parameters_sha256
from atoll.platform.run_directory.identity import FROZEN, RunIdentity, relevant
from atoll.platform.run_directory.interrupts import terminated_as_interrupt
from atoll.platform.run_directory.run_config import load_run_config
from atoll.platform.run_directory.run_files import (
    CONFIG,
    check_run_directory,
    read_config,
    read_result,
)
from atoll.platform.run_directory.run_lock import RunLock
from atoll.platform.runs.checks.preflight import check_settings
from atoll.platform.runs.federation import Federation, domain_of, prepare, write_partition
from atoll.platform.runs.layerwise.layerwise_run import LayerwiseTraining, start_workers
from atoll.platform.runs.layerwise.network_arrays import network_arrays
from atoll.platform.runs.natural_clients import with_natural_clients
from atoll.platform.runs.run_observers import observers_of
from atoll.platform.runs.run_result import RunResult
from atoll.platform.runs.server_figures import server_evaluation
from atoll.platform.runs.session import Session, claim_run_directory, versions
from atoll.platform.runs.started_cluster import StartedCluster, main_code_of
from atoll.platform.runs.unlearning import UNLEARNED
from atoll.randomness import derive_seed, seed_everything
from atoll.strategies.sec_agg_plus import SecAggPlus
from atoll.user_code.source_identity import references_in, source_hashes
from atoll.user_code.trust import Ask, admitted, note, refuse, uses_in

logger = logging.getLogger("atoll")

Observers = Callable[[Path], list[Observer]]
Callback = Callable[[RoundRecord], None]


class Start(Enum):
    """Beginning of a run."""

    NEW = "in a directory of its own"
    CONTINUED = "in the directory of an interrupted run of the experiment that is given"
    RESUMED = "in the directory of an interrupted run, whose experiment is read from there"

    @property
    def has_own_config(self) -> bool:
        """Whether the experiment is given, and not read from the run directory."""
        return self is not Start.RESUMED


@dataclass(frozen=True)
class _Listeners:
    """Observers and callbacks of a run, beside its ledger."""

    observers: Observers
    callbacks: Sequence[Callback]

    @classmethod
    def of(cls, observers: Observers | None, callbacks: Sequence[Callback]) -> _Listeners:
        return cls(observers or (lambda directory: []), callbacks)


def run(
    experiment: Experiment | Path | str,
    *,
    out: Path | None = None,
    resume: bool = False,
    observers: Observers | None = None,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Run an experiment.

    Parameters
    ----------
    experiment : Experiment or path
        An experiment, or the path of its file.
    out : Path, optional
        The run directory; by default a new one below ``run.out``.
    resume : bool
        Whether to continue the run that is in ``out`` (by default ``run.out/run.name``), if one
        is: a job that is tried again then ends as if nothing had happened.
    observers : callable, optional
        Makes observers beside the ledger, given the run directory.
    callbacks : Sequence
        Called with every round's record.

    Returns
    -------
    RunResult
        The final model and metrics.

    Raises
    ------
    AtollError
        If the experiment cannot be run; before anything starts, where that can be known. If
        there is a run in ``out`` that is of another configuration or other data.

    Examples
    --------
    >>> from atoll import load_experiment, run
    >>> experiment = load_experiment(Path("experiments/quickstart.toml"))  # doctest: +SKIP
    >>> run(experiment).metrics["server_accuracy"]  # doctest: +SKIP
    """
    if not isinstance(experiment, Experiment):
        experiment = load_experiment(Path(experiment))
    check_settings(experiment)
    experiment = with_natural_clients(experiment)
    note(uses_in(experiment.to_dict()))
    if resume and out is None:
        out = experiment.run.out / experiment.run.name
    if resume and out is not None and (out / CONFIG).is_file():
        logger.info("%s: there is a run in it, which continues", out)
        return _go_on(experiment, out, Start.CONTINUED, _Listeners.of(observers, callbacks))
    with claim_run_directory(out, experiment.run.out, experiment.run.name) as lock:
        return _run(experiment, lock, Start.NEW, _Listeners.of(observers, callbacks))


def resume(
    directory: Path,
    *,
    workers: int | None = None,
    observers: Observers | None = None,
    callbacks: Sequence[Callback] = (),
    ask: Ask = refuse,
) -> RunResult:
    """Resume an interrupted run; the result has the bits of the uninterrupted run.

    Parameters
    ----------
    directory : Path
        The run directory.
    workers : int, optional
        Worker processes; by default as the run began.
    observers, callbacks
        As for :func:`run`.
    ask : callable
        Whether code that the directory names may be imported, where it is not known to be the
        user's own (:mod:`atoll.user_code.trust`).

    Raises
    ------
    RunDirectoryError
        If the folder is not a run directory, or no checkpoint in it is whole.
    UntrustedCodeError
        If it names code that is not trusted.

    Examples
    --------
    >>> from atoll import resume
    >>> resume(Path("runs/quickstart")).summary["rounds"]  # doctest: +SKIP
    """
    check_run_directory(directory)
    overrides = [] if workers is None else [f"ray.workers={workers}"]
    experiment = load_run_config(directory, overrides)
    with admitted(uses_in(read_config(directory)), directory / CONFIG, ask):
        return _go_on(experiment, directory, Start.RESUMED, _Listeners.of(observers, callbacks))


def _go_on(
    experiment: Experiment, directory: Path, start: Start, listeners: _Listeners
) -> RunResult:
    """Continue a run that is there."""
    finished = _finished(directory, experiment.run.rounds)
    if finished is not None:
        before = RunIdentity.read(directory)
        if start.has_own_config and before is not None:
            # Without the data, which a finished run does not need.
            device = before.config.get("ray", {}).get("device", "cpu")
            _identity(experiment, before.data, device).check_same(directory)
        logger.info("%s is finished; its result is as it was", directory)
        return finished
    # Before Ray starts: a directory that cannot be had is known at once.
    with RunLock(directory) as lock:
        return _run(experiment, lock, start, listeners)


def _identity(experiment: Experiment, data: Mapping[str, str], device: str) -> RunIdentity:
    """Return what a run is; its data are known by their contents, wherever they lie."""
    config = relevant(experiment.to_dict())
    config["data"].pop("path", None)
    if device != "cpu":
        # Another device has other kernels, which add up in another order.
        config["ray"]["device"] = device
    return RunIdentity(config, dict(data), versions(), source_hashes(references_in(config)))


def _finished(directory: Path, rounds: int) -> RunResult | None:
    """Return the result of a run that is over, without a cluster."""
    try:
        summary = read_result(directory)
    except RunDirectoryError as error:
        logger.warning("%s; it is made again", error)
        return None
    if summary is None:
        return None
    checkpoint = CheckpointStore(directory / "checkpoints").latest()
    if checkpoint is None or checkpoint.server_round != summary["rounds"]:
        return None
    if rounds > summary["rounds"] and checkpoint.tree.get("stopped") is None:
        return None
    if not (directory / REPORT).exists():
        write_report(directory)
    arrays = checkpoint.arrays
    if "failed_layers" in summary:
        arrays = network_arrays(directory)
    return RunResult(directory, arrays, summary["metrics"], summary)


def _run(experiment: Experiment, lock: RunLock, start: Start, listeners: _Listeners) -> RunResult:
    directory = lock.directory
    if experiment.layers is not None:
        return _run_layers(experiment, lock, start, listeners)
    with StartedCluster(experiment) as cluster:
        federation = prepare(experiment).on(cluster.device)
        with (
            cluster.grid(federation, directory.name) as grid,
            terminated_as_interrupt(),
            _session(experiment, federation, lock, start, listeners) as session,
        ):
            write_partition(directory, federation, experiment.data.held_out)
            arrays = _run_rounds(experiment, federation, grid, session, listeners.callbacks)
            summary = session.finish(
                arrays, initial=federation.initial_arrays, vectorized=vars(grid.vectorization)
            )
    return RunResult(directory, arrays, summary["metrics"], summary)


def _run_layers(
    experiment: Experiment, lock: RunLock, start: Start, listeners: _Listeners
) -> RunResult:
    with StartedCluster(experiment) as cluster:
        federation = prepare(experiment).on(cluster.device)
        connection = cluster.connection
        # Only now: Ray sets a handler of its own when it starts.
        with (
            terminated_as_interrupt(),
            _session(experiment, federation, lock, start, listeners) as session,
        ):
            write_partition(lock.directory, federation, experiment.data.held_out)
            layers = LayerwiseTraining(experiment, federation, session, listeners.callbacks)
            main = main_code_of(experiment)
            pool = start_workers(connection, experiment.ray, federation, layers.units, main)
            try:
                arrays = layers.run(pool)
            finally:
                pool.close()
            summary = session.finish(arrays, **layers.facts())
    return RunResult(lock.directory, arrays, summary["metrics"], summary)


def _session(
    experiment: Experiment,
    federation: Federation,
    lock: RunLock,
    start: Start,
    listeners: _Listeners,
) -> Session:
    data = {experiment.data.dataset: federation.dataset.fingerprint}
    if federation.spec.frozen is not None:
        data[FROZEN] = federation.spec.frozen
    if experiment.unlearn is not None and experiment.unlearn.run is not None:
        data[UNLEARNED] = parameters_sha256(federation.initial_arrays)
    config = experiment.to_dict()
    if experiment.data.path is not None:
        # In config.toml a relative path would be relative to the run directory.
        config["data"]["path"] = str(experiment.data.path.absolute())
    if experiment.unlearn is not None and experiment.unlearn.run is not None:
        config["unlearn"]["run"] = str(experiment.unlearn.run.absolute())
    return Session(
        lock.directory,
        config if start.has_own_config else None,
        identity=_identity(experiment, data, federation.spec.device),
        is_new=start is Start.NEW,
        keep_checkpoints=experiment.run.keep_checkpoints,
        observers=lambda directory: [
            *listeners.observers(directory),
            *observers_of(experiment, federation.dataset.classes, directory),
        ],
        lock=lock,
    )


def _run_rounds(
    experiment: Experiment,
    federation: Federation,
    grid: RayGrid,
    session: Session,
    callbacks: Sequence[Callback],
) -> ArrayRecord:
    settings, strategy = experiment.run, federation.strategy
    seed_everything(derive_seed(settings.seed, "server"))
    told = session.ledger.on_confusion
    evaluation = server_evaluation(experiment, federation, grid, told)
    options = session.options(
        name=settings.name,
        checkpoint_every=settings.checkpoint_every,
        keep=KeptRound(settings.keep, settings.keep_metric, settings.keep_mode),
        evaluate_every=settings.evaluate_every,
        callbacks=callbacks,
        stopping=_stopping(experiment, strategy),
        reduce=experiment.strategy.reduce,
        domain_of=domain_of(federation),
        failures=ClientFailures(session.directory),
    )
    recorder = _recorder(experiment, federation, session.directory)
    grid.record_with(recorder)
    grid.show_progress(partial(_tell_of_clients, options.observers))
    named: dict[str, Any] = {
        "grid": grid,
        "initial_arrays": federation.initial_arrays,
        "num_rounds": settings.rounds,
        "timeout": settings.round_timeout,
        "evaluate_fn": evaluation,
    }
    loop = partial(run_rounds, options=options)
    if flower.overrides_start(strategy):
        with flower.route_start_to(loop):
            arrays = strategy.start(**named).arrays
    else:
        arrays = loop(strategy, **named).arrays
    if settings.keep == "best" and not options.keep.rounds:
        logger.warning(
            "run.keep_metric = %r: no round had such a metric, so no round is the best",
            settings.keep_metric or "the task's main metric",
        )
    # As with Flower, a result has no arrays where no round had an update.
    arrays = arrays or federation.initial_arrays
    if recorder is not None:
        recorder.warn_of_missing()
    return arrays


def _stopping(experiment: Experiment, strategy: Strategy) -> StoppingRule | None:
    """Return what stops a run before its last round: early stopping, a budget of privacy."""
    early = experiment.run.early_stopping
    rule = None if early is None else EarlyStopping(early)
    if experiment.privacy is None:
        return rule
    spent = partial(spent_after, with_private_examples(experiment), strategy)
    return PrivacyBudget(experiment.privacy.epsilon, spent, rule)


def _tell_of_clients(observers: Sequence[Observer], kind: str, ended: int, of: int) -> None:
    for observer in observers:
        observer.on_clients(kind, ended, of)


def _recorder(
    experiment: Experiment, federation: Federation, directory: Path
) -> CaptureRecorder | None:
    if experiment.capture is None:
        return None
    # What attacks are told of clients is what honest ones are; no other is captured.
    spec = replace(federation.spec, client=with_references(experiment.client))
    what = directory, experiment.capture, spec, federation.dataset
    if not isinstance(federation.strategy, SecAggPlus):
        return CaptureRecorder(*what)
    recorder = SumRecorder(*what)
    federation.strategy.on_sum = recorder.record_sum
    return recorder
