"""Steps before the first round and after each round, shared by federations and layer-wise runs.

There are two loops (:mod:`atoll.platform.rounds.round_loop` and
:mod:`atoll.platform.runs.layerwise.block_schedule`). A federation's is sequential: a round is a
fixed sequence of a strategy's methods, each of which needs the one before. Layer-wise training has
no such sequence: blocks train at their own pace, several epochs apart, and an epoch is a round of
the run once every block has ended it and its evaluation is done, which a pool's events tell. So a
loop calls the strategy, a schedule is called by the pool; what is the same is here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from atoll.platform.callbacks.observers import RoundRecord, RunInfo
from atoll.platform.rounds.round_options import RoundOptions
from atoll.platform.run_directory.checkpoint import Checkpoint
from atoll.platform.run_directory.interrupts import interrupts_held

logger = logging.getLogger("atoll")

State = TypeVar("State")


def first_round(checkpoint: Checkpoint | None, num_rounds: int) -> int:
    """Return the round that comes next: after the last one, of a run that was stopped early."""
    if checkpoint is None:
        return 1
    is_stopped = checkpoint.tree.get("stopped") is not None
    return num_rounds + 1 if is_stopped else checkpoint.server_round + 1


def announce(options: RoundOptions, info: RunInfo) -> None:
    """Tell every observer that the rounds begin."""
    for observer in options.observers:
        observer.on_start(info)


def is_evaluated(options: RoundOptions, server_round: int, num_rounds: int) -> bool:
    """Tell whether a round ends with an evaluation on the server; the last one does."""
    return server_round % options.evaluate_every == 0 or server_round == num_rounds


def end_round(
    record: RoundRecord,
    options: RoundOptions,
    *,
    capture: Callable[[str | None], State],
    save: Callable[[State, bool], None],
) -> bool:
    """Tell everybody of a round's end, keep the state after it; return whether it was the last.

    Parameters
    ----------
    record : RoundRecord
        The round.
    options : RoundOptions
        Observers, callbacks, early stopping.
    capture : callable
        Returns the state after the round, given why the run stops early (None if it does not).
    save : callable
        Keeps that state; told whether the round is the last. No signal comes between the ledger's
        row and this: what is kept must not be ahead of the ledger.
    """
    reason = None if options.stopping is None else options.stopping.should_stop(record)
    is_last = reason is not None or record.server_round == record.num_rounds
    state = capture(reason)
    with interrupts_held():
        for observer in options.observers:
            observer.on_round(record)
        save(state, is_last)
    for callback in options.callbacks:
        callback(record)
    if reason is not None and record.server_round < record.num_rounds:
        logger.info("stopped early after round %d: %s", record.server_round, reason)
    return is_last
