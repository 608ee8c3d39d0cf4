"""The round loop: what ``Strategy.start`` does, with checkpoints, resume, early stopping, progress.

It calls the four methods of any Flower strategy in the order in which ``Strategy.start`` does, so
a strategy cannot tell the difference.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp.strategy import Result, Strategy

from atoll.errors import CorruptCheckpointError
from atoll.platform import flower
from atoll.platform.aggregation import Aggregation, aggregation_of
from atoll.platform.checkpoint import Checkpoint, CheckpointStore
from atoll.platform.content import copy_config
from atoll.platform.exchange import Outcome
from atoll.platform.grid import RayGrid
from atoll.platform.interrupts import interrupts_held
from atoll.platform.node_sums import Traffic
from atoll.platform.observers import Observer, RoundRecord, RunInfo
from atoll.platform.records import round_record
from atoll.platform.state_tree import (
    StateDecoder,
    StateEncoder,
    random_states,
    restore_random_states,
)
from atoll.platform.vectorization import VectorizationChoice

logger = logging.getLogger("atoll")

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
    checkpoint_every : int
        Rounds between checkpoints; the last round always has one.
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
        See :func:`~atoll.platform.aggregation.aggregation_of`.
    domain_of : callable
        The domain of a partition, for the ledger.
    """

    checkpoints: CheckpointStore | None = None
    checkpoint_every: int = 5
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


def run_rounds(
    strategy: Strategy,
    grid: RayGrid,
    initial_arrays: ArrayRecord,
    num_rounds: int = 3,
    timeout: float | None = 3600,
    train_config: ConfigRecord | None = None,
    evaluate_config: ConfigRecord | None = None,
    evaluate_fn: EvaluateFunction | None = None,
    *,
    options: RoundOptions | None = None,
) -> Result:
    """Run a strategy's rounds on a grid; the parameters are those of ``Strategy.start``.

    If ``options.checkpoints`` holds a checkpoint, the run goes on from it, to the bits that it
    would have come to without the interruption.

    Returns
    -------
    Result
        Flower's result: the final arrays and every round's metrics.

    Raises
    ------
    CorruptCheckpointError
        If there are checkpoints and none of them can be read.
    RunDirectoryError
        If a checkpoint cannot be written.
    """
    loop = _RoundLoop(strategy, grid, num_rounds, timeout, options or RoundOptions())
    configs = copy_config(train_config), copy_config(evaluate_config)
    return loop.run(initial_arrays, *configs, evaluate_fn)


class _RoundLoop:
    def __init__(
        self,
        strategy: Strategy,
        grid: RayGrid,
        num_rounds: int,
        timeout: float | None,
        options: RoundOptions,
    ) -> None:
        self._strategy = strategy
        self._grid = grid
        self._num_rounds = num_rounds
        self._timeout = timeout
        self._options = options
        self._aggregation: Aggregation = aggregation_of(strategy, options.reduce)
        self._result = Result()
        self._outcomes: list[tuple[str, list[Outcome]]] = []
        self._bytes_down = 0
        self._traffic = Traffic()
        self._pending: Checkpoint | None = None
        self._unsaved_reported = False

    def run(
        self,
        initial_arrays: ArrayRecord,
        train_config: ConfigRecord,
        evaluate_config: ConfigRecord,
        evaluate_fn: EvaluateFunction | None,
    ) -> Result:
        arrays, first_round = self._begin(initial_arrays)
        self._announce(arrays, first_round)
        if first_round == 1 and evaluate_fn is not None:
            self._evaluate_on_server(0, arrays, evaluate_fn)
        previous = self._grid.on_outcomes
        self._grid.on_outcomes = self._collect
        # A round makes objects by the thousand, and each full collection would look at all that
        # has been loaded; what there is now is given back to the collector afterwards.
        is_frozen = gc.get_freeze_count() > 0
        gc.freeze()
        try:
            for server_round in range(first_round, self._num_rounds + 1):
                started = time.perf_counter()
                arrays = self._train(server_round, arrays, train_config)
                self._evaluate_on_clients(server_round, arrays, evaluate_config)
                if evaluate_fn is not None and self._is_due(server_round):
                    self._evaluate_on_server(server_round, arrays, evaluate_fn)
                record = replace(
                    self._record(server_round, time.perf_counter() - started),
                    gpus=self._grid.pool.sharing.facts(),
                )
                if self._end_round(record, arrays):
                    break
        except BaseException:
            self._save_pending()
            raise
        finally:
            if not is_frozen:
                gc.unfreeze()
            self._grid.on_outcomes = previous
            self._grid.server_round = None
        self._result.arrays = arrays
        return self._result

    def _announce(self, arrays: ArrayRecord, first_round: int) -> None:
        options = self._options
        info = RunInfo(
            name=options.name,
            directory=options.directory or Path(),
            num_rounds=self._num_rounds,
            first_round=first_round,
            workers=self._grid.workers,
            clients=len(self._grid.get_node_ids()),
            parameters=sum(math.prod(array.shape) for array in arrays.values()),
            strategy=type(self._strategy).__name__,
            notes=[f"aggregation: {self._aggregation.reason}", *options.notes],
        )
        for observer in options.observers:
            observer.on_start(info)

    # --- the parts of a round ------------------------------------------------------------------

    def _train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord) -> ArrayRecord:
        self._outcomes, self._bytes_down, self._traffic = [], 0, Traffic()
        self._grid.server_round = server_round
        with self._grid.aggregating(self._aggregation):
            messages = self._strategy.configure_train(server_round, arrays, config, self._grid)
            replies = self._grid.send_and_receive(messages, timeout=self._timeout)
        with flower.without_reply_counts() if self._aggregation.sum_replies else nullcontext():
            aggregated, metrics = self._strategy.aggregate_train(server_round, replies)
        if aggregated is not None:
            arrays = aggregated
        elif replies:
            logger.warning("round %d: no update could be used; the model stays", server_round)
        if metrics is not None:
            self._result.train_metrics_clientapp[server_round] = metrics
        return arrays

    def _evaluate_on_clients(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord
    ) -> None:
        messages = self._strategy.configure_evaluate(server_round, arrays, config, self._grid)
        replies: Iterable[Message] = self._grid.send_and_receive(messages, timeout=self._timeout)
        metrics = self._strategy.aggregate_evaluate(server_round, replies)
        if metrics is not None:
            self._result.evaluate_metrics_clientapp[server_round] = metrics

    def _evaluate_on_server(
        self, server_round: int, arrays: ArrayRecord, evaluate_fn: EvaluateFunction
    ) -> None:
        metrics = evaluate_fn(server_round, arrays)
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
        captured = self._capture(record.server_round, arrays, reason)
        with interrupts_held():
            for observer in self._options.observers:
                observer.on_round(record)
            # Only now: what ends the loop writes this, which must not be ahead of the ledger.
            self._pending = captured
            if is_last or record.server_round % self._options.checkpoint_every == 0:
                self._save_pending()
        for callback in self._options.callbacks:
            callback(record)
        if reason is not None:
            logger.info("stopped early after round %d: %s", record.server_round, reason)
        return is_last

    # --- the ledger's row ----------------------------------------------------------------------

    def _collect(self, kind: str, server_round: int, outcomes: list[Outcome]) -> None:
        self._outcomes.append((kind, outcomes))
        self._bytes_down += self._grid.bytes_down
        self._traffic.made += self._grid.traffic.made
        self._traffic.moved += self._grid.traffic.moved

    def _record(self, server_round: int, seconds: float) -> RoundRecord:
        result = self._result
        return round_record(
            server_round,
            self._num_rounds,
            seconds,
            self._outcomes,
            self._bytes_down,
            self._traffic,
            self._options.domain_of,
            train=result.train_metrics_clientapp.get(server_round),
            evaluate=result.evaluate_metrics_clientapp.get(server_round),
            server=result.evaluate_metrics_serverapp.get(server_round),
        )

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
        self._grid.states = dict(checkpoint.client_states)
        self._grid.vectorization = VectorizationChoice(**tree["vectorization"])
        if self._options.stopping is not None:
            self._options.stopping.load_state_dict(tree["stopping"])
        for name, rounds in tree["metrics"].items():
            history = getattr(self._result, name)
            history.update({int(r): MetricRecord(values) for r, values in rounds.items()})
        is_stopped = tree["stopped"] is not None
        return self._num_rounds + 1 if is_stopped else checkpoint.server_round + 1

    def _capture(self, server_round: int, arrays: ArrayRecord, reason: str | None) -> Checkpoint:
        encoder = StateEncoder()
        result, stopping = self._result, self._options.stopping
        histories = (
            "train_metrics_clientapp",
            "evaluate_metrics_clientapp",
            "evaluate_metrics_serverapp",
        )
        tree = {
            "strategy": encoder.attributes(self._strategy, "strategy"),
            "random": encoder.value(random_states(), "random"),
            "vectorization": vars(self._grid.vectorization),
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
        return Checkpoint(server_round, arrays, tree, encoder.arrays, dict(self._grid.states))

    def _save_pending(self) -> None:
        if self._options.checkpoints is not None and self._pending is not None:
            self._options.before_checkpoint()
            self._options.checkpoints.write(self._pending)
            self._pending = None
