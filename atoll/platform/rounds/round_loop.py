"""The round loop: what ``Strategy.start`` does, with checkpoints, resume, early stopping, progress.

It calls the methods of any Flower strategy, and the grid, as often as ``Strategy.start`` does, in
the same order and with the same arguments, and logs the same lines, so a strategy cannot tell the
difference. Of the grid it needs Flower's interface alone; what more ours can do is asked of the
engine beneath it. Layer-wise training has a schedule in place of this loop; what is the same in
both is in :mod:`~atoll.platform.rounds.round_boundaries`.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from atoll import flower
from atoll.platform.callbacks.observers import RoundRecord, RunInfo
from atoll.platform.config.aggregation import Aggregation, aggregation_of
from atoll.platform.grid.exchange.dispatch import ExchangeReport
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_boundaries import announce, end_round, is_evaluated
from atoll.platform.rounds.round_checkpoints import RoundCheckpoints
from atoll.platform.rounds.round_options import RoundOptions
from atoll.platform.rounds.round_records import round_record
from atoll.platform.run_directory.checkpoint import Checkpoint

logger = logging.getLogger("atoll")
logger_of_flower = logging.getLogger("flwr")

EvaluateFunction = Callable[[int, ArrayRecord], MetricRecord | None]


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

    If ``options.checkpoints`` holds a checkpoint, the run continues from it. The
    result has the bits of the uninterrupted run.

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
        self._checkpoints = RoundCheckpoints(strategy, engine, self._result, self._options)

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
        arrays, first_round = self._checkpoints.resume(initial_arrays, self._num_rounds)
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
                if evaluate_fn and is_evaluated(self._options, server_round, self._num_rounds):
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
        before = None if engine is None else engine.report_to(self._collect)
        # A round makes objects by the thousand, and each full collection would look at all that
        # has been loaded; what there is now is given back to the collector afterwards.
        is_frozen = gc.get_freeze_count() > 0
        gc.freeze()
        try:
            yield
        except BaseException:
            self._checkpoints.save()
            raise
        finally:
            if not is_frozen:
                gc.unfreeze()
            if engine is not None and before is not None:
                engine.report_to(before)
                engine.set_round(None)

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
        announce(options, info)

    # --- the parts of a round ------------------------------------------------------------------

    def _train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord) -> ArrayRecord:
        self._reports = []
        engine, sums = self._engine, self._aggregation.sum_replies
        if engine is not None:
            engine.set_round(server_round)
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
        return results, sum(o.failure is not None and not o.failure.without_reply for o in outcomes)

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

    def _end_round(self, record: RoundRecord, arrays: ArrayRecord) -> bool:
        """Tell observers, keep the state, write a checkpoint if due; return whether to stop."""
        every = self._options.checkpoint_every
        is_kept = self._options.keep.note(record)

        def save(state: Checkpoint | None, is_last: bool) -> None:
            self._checkpoints.keep(state)
            if every is not None and (is_last or is_kept or record.server_round % every == 0):
                self._checkpoints.save()

        capture = partial(self._checkpoints.capture, record.server_round, arrays)
        return end_round(record, self._options, capture=capture, save=save)

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
