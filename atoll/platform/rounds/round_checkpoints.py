"""The checkpoints of a run of rounds: the state after a round, written and restored."""

from __future__ import annotations

import logging

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import Result, Strategy

from atoll.errors import CorruptCheckpointError
from atoll.platform.grid.exchange.vectorization import VectorizationChoice
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.array_history import ArrayHistory
from atoll.platform.rounds.round_boundaries import first_round
from atoll.platform.rounds.round_options import RoundOptions
from atoll.platform.run_directory.checkpoint import Checkpoint
from atoll.platform.run_directory.state_tree import (
    StateDecoder,
    StateEncoder,
    random_states,
    restore_random_states,
)

logger = logging.getLogger("atoll")

HISTORIES = (
    "train_metrics_clientapp",
    "evaluate_metrics_clientapp",
    "evaluate_metrics_serverapp",
)


class RoundCheckpoints:
    """Captures, writes and restores the state of a strategy, its result and the engine.

    Parameters
    ----------
    strategy : Strategy
        Whose attributes are part of the state.
    engine : RayGrid or None
        Whose clients' states are.
    result : Result
        The run's result, with the metrics of all rounds.
    options : RoundOptions
        Where checkpoints go, and what stops early.
    """

    def __init__(
        self, strategy: Strategy, engine: RayGrid | None, result: Result, options: RoundOptions
    ) -> None:
        self._strategy = strategy
        self._engine = engine
        self._result = result
        self._options = options
        self._history = ArrayHistory()
        self._pending: Checkpoint | None = None
        self._unsaved_reported = False
        if engine is not None and options.checkpoints is not None:
            engine.states.store_in(options.checkpoints.states_directory)

    def resume(self, initial_arrays: ArrayRecord, num_rounds: int) -> tuple[ArrayRecord, int]:
        """Restore the newest checkpoint, if there is one.

        Returns
        -------
        tuple[ArrayRecord, int]
            The model, and the round that comes next.

        Raises
        ------
        CorruptCheckpointError
            If the checkpoint does not fit the strategy.
        """
        store = self._options.checkpoints
        checkpoint = None if store is None else store.latest()
        if checkpoint is None:
            return initial_arrays, 1
        try:
            self._restore(checkpoint)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptCheckpointError(
                f"the checkpoint of round {checkpoint.server_round} does not fit this strategy and "
                f"this version of Atoll ({type(error).__name__}: {error})"
            ) from error
        logger.info("continuing after round %d", checkpoint.server_round)
        return checkpoint.arrays, first_round(checkpoint, num_rounds)

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Take over what a checkpoint holds."""
        tree, decoder = checkpoint.tree, StateDecoder(checkpoint.state_arrays)
        decoder.restore_attributes(self._strategy, tree["strategy"])
        restore_random_states(decoder.value(tree["random"]))
        if self._engine is not None:
            choice = VectorizationChoice(**tree["vectorization"])
            self._engine.restore(checkpoint.client_states, choice)
        self._result.arrays = checkpoint.arrays
        if self._options.stopping is not None:
            self._options.stopping.load_state_dict(tree["stopping"])
        # Checkpoints of earlier versions have none.
        self._options.keep.load_state_dict(tree.get("kept", {}))
        for name, rounds in tree["metrics"].items():
            history = getattr(self._result, name)
            history.update({int(r): MetricRecord(values) for r, values in rounds.items()})

    def capture(
        self, server_round: int, arrays: ArrayRecord, stopped: str | None
    ) -> Checkpoint | None:
        """Return the state after a round; None if the run writes no checkpoints.

        Parameters
        ----------
        stopped : str or None
            Why the run stops after this round, if it does so early.
        """
        if self._options.checkpoints is None or self._options.checkpoint_every is None:
            return None
        encoder = StateEncoder(self._history.keep)
        result, stopping, engine = self._result, self._options.stopping, self._engine
        choice = VectorizationChoice.requested(False) if engine is None else engine.vectorization
        tree = {
            "strategy": encoder.attributes(self._strategy, "strategy"),
            "random": encoder.value(random_states(), "random"),
            "vectorization": vars(choice),
            "stopping": None if stopping is None else stopping.state_dict(),
            "stopped": stopped,
            "kept": self._options.keep.state_dict(),
            "metrics": {
                name: {r: dict(values) for r, values in getattr(result, name).items()}
                for name in HISTORIES
            },
        }
        if encoder.skipped and not self._unsaved_reported:
            self._unsaved_reported = True
            logger.warning(
                "checkpoints do not hold %s of the strategy: a resumed run starts with them as "
                "they are after __init__ (give it state_dict and load_state_dict to keep them)",
                ", ".join(encoder.skipped),
            )
        states = {} if engine is None else engine.states.snapshot()
        return Checkpoint(server_round, arrays, tree, encoder.arrays, states)

    def keep(self, checkpoint: Checkpoint | None) -> None:
        """Keep a checkpoint as the one to be written next."""
        self._pending = checkpoint

    def save(self) -> None:
        """Write the checkpoint that is kept, if it is not written yet."""
        if self._options.checkpoints is not None and self._pending is not None:
            self._options.before_checkpoint()
            store = self._options.checkpoints
            if self._engine is not None:
                self._engine.states.sync()
            store.write(self._pending, self._options.keep.rounds)
            self._pending = None
            if self._engine is not None:
                self._engine.states.tidy(store.state_segments())
