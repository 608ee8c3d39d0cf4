"""The round loop: what ``Strategy.start`` does, with checkpoints, resume, early stopping, progress.

It calls the methods of any Flower strategy, and the grid, as often as ``Strategy.start`` does, in
the same order and with the same arguments, and logs the same lines, so a strategy cannot tell the
difference. Of the grid it needs Flower's interface alone; what more ours can do is asked of the
engine beneath it.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from atoll import flower
from atoll.errors import CorruptCheckpointError
from atoll.platform.callbacks.observers import Observer, RoundRecord, RunInfo
from atoll.platform.config.aggregation import Aggregation, aggregation_of
from atoll.platform.grid.dispatch import ExchangeReport
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.grid.vectorization import VectorizationChoice
from atoll.platform.rounds.array_history import ArrayHistory
from atoll.platform.rounds.client_failures import ClientFailures
from atoll.platform.rounds.round_records import round_record
from atoll.platform.run_directory.checkpoint import Checkpoint, CheckpointStore
from atoll.platform.run_directory.interrupts import interrupts_held
from atoll.platform.run_directory.state_tree import (
    StateDecoder,
    StateEncoder,
    random_states,
    restore_random_states,
)

logger = logging.getLogger("atoll")
logger_of_flower = logging.getLogger("flwr")

EvaluateFunction = Callable[[int, ArrayRecord], MetricRecord | None]


class StoppingRule(Protocol):
    """When to stop before the last round."""

    def should_stop(self, record: RoundRecord) -> str | None:
        """Return why to stop after this round, or None."""

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs to go on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""


@dataclass
class RoundOptions:
    """What the loop does beside the strategy's rounds.

    Attributes
    ----------
    checkpoints : CheckpointStore or None
        Where checkpoints go; None writes none.
    checkpoint_every : int or None
        Rounds between checkpoints; the last round always has one. None writes none.
    evaluate_every : int
        Rounds between calls of ``evaluate_fn``; the last round always has one.
    observers : Sequence[Observer]
        Told of every round's end.
    callbacks : Sequence[Callable[[RoundRecord], None]]
        Called after every round.
    stopping : StoppingRule or None
        Early stopping.
    before_checkpoint : Callable[[], None]
        Called before a checkpoint is written: what belongs to its rounds must be on disk by then.
    name : str
        The run's name, for observers.
    directory : Path or None
        The run directory, for observers.
    notes : Sequence[str]
        What else observers show at the start.
    reduce : bool or "auto"
        See :func:`~atoll.platform.config.aggregation.aggregation_of`.
    domain_of : callable
        The domain of a partition, for the ledger.
    failures : ClientFailures or None
        Told of every exchange.
    """

    checkpoints: CheckpointStore | None = None
    checkpoint_every: int | None = 5
    evaluate_every: int = 1
    observers: Sequence[Observer] = ()
    callbacks: Sequence[Callable[[RoundRecord], None]] = ()
    stopping: StoppingRule | None = None
    before_checkpoint: Callable[[], None] = lambda: None
    name: str = "federation"
    directory: Path | None = None
    notes: Sequence[str] = ()
    reduce: bool | str = "auto"
    domain_of: Callable[[int], str | None] = field(default=lambda partition: None)
    failures: ClientFailures | None = None


def run_rounds(
    strategy: Strategy,
    grid: Grid,
    initial_arrays: ArrayRecord,
    num_rounds: int = 3,
    timeout: float | None = 3600,
    train_config: ConfigRecord | None = None,
    evaluate_config: ConfigRecord | None = None,
    evaluate_fn: EvaluateFunction | None = None,
    *,
    options: RoundOptions | None = None,
    engine: RayGrid | None = None,
) -> Result:
    """Run a strategy's rounds on a grid; the parameters are those of ``Strategy.start``.

    If ``options.checkpoints`` holds a checkpoint, the run goes on from it, to the bits that it
    would have come to without the interruption.

    Parameters
    ----------
    options : RoundOptions, optional
        What the loop does beside the rounds.
    engine : RayGrid, optional
        What ``grid`` hands messages on to, where it is another: a grid that counts them, say.

    Returns
    -------
    Result
        Flower's result: the final arrays and every round's metrics. As with Flower, it has no
        arrays where no round had an update.

    Raises
    ------
    CorruptCheckpointError
        If there are checkpoints and none of them can be read.
    RunDirectoryError
        If a checkpoint cannot be written.

    Examples
    --------
    >>> from flwr.serverapp.strategy import FedAvg
    >>> from atoll import RayGrid, run_rounds
    >>> with RayGrid(client_app, num_nodes=100, seed=0) as grid:  # doctest: +SKIP
    ...     result = run_rounds(FedAvg(fraction_train=0.1), grid, initial_arrays, num_rounds=10)
    """
    if isinstance(grid, RayGrid):
        engine = grid
    loop = _RoundLoop(strategy, grid, engine, num_rounds, timeout, options or RoundOptions())
    return loop.run(initial_arrays, train_config, evaluate_config, evaluate_fn)


class _RoundLoop:
    def __init__(
        self,
        strategy: Strategy,
        grid: Grid,
        engine: RayGrid | None,
        num_rounds: int,
        timeout: float | None,
        options: RoundOptions,
    ) -> None:
        self._strategy = strategy
        self._grid = grid
        self._engine = engine
        self._num_rounds = num_rounds
        self._timeout = timeout
        self._options = options
        self._aggregation = self._aggregation_on(engine)
        self._result = Result()
        self._reports: list[ExchangeReport] = []
        self._history = ArrayHistory()
        self._pending: Checkpoint | None = None
        self._unsaved_reported = False

    def _aggregation_on(self, engine: RayGrid | None) -> Aggregation:
        aggregation = aggregation_of(self._strategy, self._options.reduce)
        if self._grid is engine:
            return aggregation
        return replace(
            aggregation, sum_replies=False, reason="every reply is kept: the grid is the app's own"
        )

    def run(
        self,
        initial_arrays: ArrayRecord,
        train_config: ConfigRecord | None,
        evaluate_config: ConfigRecord | None,
        evaluate_fn: EvaluateFunction | None,
    ) -> Result:
        started = time.monotonic()
        arrays, first_round = self._begin(initial_arrays)
        self._announce(arrays, first_round)
        flower.log_start(self._strategy, self._num_rounds, arrays, train_config, evaluate_config)
        train_config = ConfigRecord() if train_config is None else train_config
        evaluate_config = ConfigRecord() if evaluate_config is None else evaluate_config
        if first_round == 1 and evaluate_fn:
            metrics = evaluate_fn(0, arrays)
            logger_of_flower.info("Initial global evaluation results: %s", metrics)
            self._keep_server_metrics(0, metrics)
        with self._engine_told():
            for server_round in range(first_round, self._num_rounds + 1):
                clock = time.perf_counter()
                logger_of_flower.info("")
                logger_of_flower.info("[ROUND %s/%s]", server_round, self._num_rounds)
                arrays = self._train(server_round, arrays, train_config)
                self._evaluate_on_clients(server_round, arrays, evaluate_config)
                if evaluate_fn and self._is_due(server_round):
                    self._evaluate_on_server(server_round, arrays, evaluate_fn)
                record = self._record(server_round, time.perf_counter() - clock)
                if self._end_round(record, arrays):
                    break
        flower.log_result(self._result, time.monotonic() - started)
        return self._result

    @contextmanager
    def _engine_told(self) -> Iterator[None]:
        """Within this context the engine tells of its exchanges; what ends it saves the state."""
        engine = self._engine
        previous = engine.on_exchange if engine else None
        if engine is not None:
            engine.on_exchange = self._collect
        # A round makes objects by the thousand, and each full collection would look at all that
        # has been loaded; what there is now is given back to the collector afterwards.
        is_frozen = gc.get_freeze_count() > 0
        gc.freeze()
        try:
            yield
        except BaseException:
            self._save_pending()
            raise
        finally:
            if not is_frozen:
                gc.unfreeze()
            if engine is not None and previous is not None:
                engine.on_exchange = previous
                engine.server_round = None

    def _announce(self, arrays: ArrayRecord, first_round: int) -> None:
        options = self._options
        info = RunInfo(
            name=options.name,
            directory=options.directory or Path(),
            num_rounds=self._num_rounds,
            first_round=first_round,
            workers=0 if self._engine is None else self._engine.workers,
            clients=0 if self._engine is None else len(self._engine.get_node_ids()),
            parameters=sum(math.prod(array.shape) for array in arrays.values()),
            strategy=type(self._strategy).__name__,
            notes=[f"aggregation: {self._aggregation.reason}", *options.notes],
        )
        for observer in options.observers:
            observer.on_start(info)

    # --- the parts of a round ------------------------------------------------------------------

    def _train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord) -> ArrayRecord:
        self._reports = []
        engine, sums = self._engine, self._aggregation.sum_replies
        if engine is not None:
            engine.server_round = server_round
        with engine.aggregating(self._aggregation) if engine is not None else nullcontext():
            replies = self._grid.send_and_receive(
                messages=self._strategy.configure_train(server_round, arrays, config, self._grid),
                timeout=self._timeout,
            )
        with flower.reply_counts(*self._counts()) if sums else nullcontext():
            aggregated, metrics = self._strategy.aggregate_train(server_round, replies)
        if aggregated is not None:
            self._result.arrays = arrays = aggregated
        elif replies:
            logger.warning("round %d: no update could be used; the model stays", server_round)
        if metrics is not None:
            flower.log_metrics(metrics)
            self._result.train_metrics_clientapp[server_round] = metrics
        return arrays

    def _counts(self) -> tuple[int, int]:
        """Return how many clients have replied, and how many have failed, in training."""
        outcomes = [o for r in self._reports if r.kind.startswith("train") for o in r.outcomes]
        results = sum(outcome.status == "ok" for outcome in outcomes)
        return results, sum(o.status == "error" and not o.without_reply for o in outcomes)

    def _evaluate_on_clients(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord
    ) -> None:
        replies = self._grid.send_and_receive(
            messages=self._strategy.configure_evaluate(server_round, arrays, config, self._grid),
            timeout=self._timeout,
        )
        metrics = self._strategy.aggregate_evaluate(server_round, replies)
        if metrics is not None:
            flower.log_metrics(metrics)
            self._result.evaluate_metrics_clientapp[server_round] = metrics

    def _evaluate_on_server(
        self, server_round: int, arrays: ArrayRecord, evaluate_fn: EvaluateFunction
    ) -> None:
        logger_of_flower.info("Global evaluation")
        metrics = evaluate_fn(server_round, arrays)
        flower.log_metrics(metrics, "MetricRecord")
        self._keep_server_metrics(server_round, metrics)

    def _keep_server_metrics(self, server_round: int, metrics: MetricRecord | None) -> None:
        if metrics is not None:
            self._result.evaluate_metrics_serverapp[server_round] = metrics

    def _is_due(self, server_round: int) -> bool:
        return server_round % self._options.evaluate_every == 0 or server_round == self._num_rounds

    def _end_round(self, record: RoundRecord, arrays: ArrayRecord) -> bool:
        """Tell observers, keep the state, write a checkpoint if due; return whether to stop."""
        reason = None
        if self._options.stopping is not None:
            reason = self._options.stopping.should_stop(record)
        is_last = reason is not None or record.server_round == self._num_rounds
        every = self._options.checkpoint_every
        captured = None
        if self._options.checkpoints is not None and every is not None:
            captured = self._capture(record.server_round, arrays, reason)
        with interrupts_held():
            for observer in self._options.observers:
                observer.on_round(record)
            # Only now: what ends the loop writes this, which must not be ahead of the ledger.
            self._pending = captured
            if every is not None and (is_last or record.server_round % every == 0):
                self._save_pending()
        for callback in self._options.callbacks:
            callback(record)
        if reason is not None:
            logger.info("stopped early after round %d: %s", record.server_round, reason)
        return is_last

    # --- the ledger's row ----------------------------------------------------------------------

    def _collect(self, report: ExchangeReport) -> None:
        self._reports.append(report)
        if self._options.failures is not None:
            self._options.failures.note(report)

    def _record(self, server_round: int, seconds: float) -> RoundRecord:
        result, engine = self._result, self._engine
        record = round_record(
            server_round,
            self._num_rounds,
            seconds,
            self._reports,
            self._options.domain_of,
            train=result.train_metrics_clientapp.get(server_round),
            evaluate=result.evaluate_metrics_clientapp.get(server_round),
            server=result.evaluate_metrics_serverapp.get(server_round),
        )
        return record if engine is None else replace(record, gpus=engine.pool.sharing.facts())

    # --- checkpoints ---------------------------------------------------------------------------

    def _begin(self, initial_arrays: ArrayRecord) -> tuple[ArrayRecord, int]:
        store = self._options.checkpoints
        checkpoint = None if store is None else store.latest()
        if checkpoint is None:
            return initial_arrays, 1
        try:
            first = self._restore(checkpoint)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptCheckpointError(
                f"the checkpoint of round {checkpoint.server_round} does not fit this strategy and "
                f"this version of Atoll ({type(error).__name__}: {error})"
            ) from error
        logger.info("going on after round %d", checkpoint.server_round)
        return checkpoint.arrays, first

    def _restore(self, checkpoint: Checkpoint) -> int:
        """Take over what a checkpoint holds; return the round that comes next."""
        tree, decoder = checkpoint.tree, StateDecoder(checkpoint.state_arrays)
        decoder.restore_attributes(self._strategy, tree["strategy"])
        restore_random_states(decoder.value(tree["random"]))
        if self._engine is not None:
            self._engine.states = dict(checkpoint.client_states)
            self._engine.vectorization = VectorizationChoice(**tree["vectorization"])
        self._result.arrays = checkpoint.arrays
        if self._options.stopping is not None:
            self._options.stopping.load_state_dict(tree["stopping"])
        for name, rounds in tree["metrics"].items():
            history = getattr(self._result, name)
            history.update({int(r): MetricRecord(values) for r, values in rounds.items()})
        is_stopped = tree["stopped"] is not None
        return self._num_rounds + 1 if is_stopped else checkpoint.server_round + 1

    def _capture(self, server_round: int, arrays: ArrayRecord, reason: str | None) -> Checkpoint:
        encoder = StateEncoder(self._history.keep)
        result, stopping = self._result, self._options.stopping
        histories = (
            "train_metrics_clientapp",
            "evaluate_metrics_clientapp",
            "evaluate_metrics_serverapp",
        )
        tree = {
            "strategy": encoder.attributes(self._strategy, "strategy"),
            "random": encoder.value(random_states(), "random"),
            "vectorization": vars(self._vectorization),
            "stopping": None if stopping is None else stopping.state_dict(),
            "stopped": reason,
            "metrics": {
                name: {r: dict(values) for r, values in getattr(result, name).items()}
                for name in histories
            },
        }
        if encoder.skipped and not self._unsaved_reported:
            self._unsaved_reported = True
            logger.warning(
                "checkpoints do not hold %s of the strategy: a resumed run starts with them as "
                "they are after __init__ (give it state_dict and load_state_dict to keep them)",
                ", ".join(encoder.skipped),
            )
        states = {} if self._engine is None else dict(self._engine.states)
        return Checkpoint(server_round, arrays, tree, encoder.arrays, states)

    @property
    def _vectorization(self) -> VectorizationChoice:
        engine = self._engine
        return VectorizationChoice.requested(False) if engine is None else engine.vectorization

    def _save_pending(self) -> None:
        if self._options.checkpoints is not None and self._pending is not None:
            self._options.before_checkpoint()
            self._options.checkpoints.write(self._pending)
            self._pending = None
