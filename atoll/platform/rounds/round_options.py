"""Options of the round loop: checkpoints, observers, early stopping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from atoll.platform.callbacks.observers import Observer, RoundRecord
from atoll.platform.rounds.client_failures import ClientFailures
from atoll.platform.rounds.kept_round import KeptRound
from atoll.platform.run_directory.checkpoint import CheckpointStore


class StoppingRule(Protocol):
    """Rule for stopping before the last round."""

    def should_stop(self, record: RoundRecord) -> str | None:
        """Return why to stop after this round, or None."""

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs to continue."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""


@dataclass
class RoundOptions:
    """Options of the round loop beside the strategy's rounds.

    Attributes
    ----------
    checkpoints : CheckpointStore or None
        Store of the checkpoints; None writes none.
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
    keep : KeptRound
        Whose checkpoint stays beside the newest.
    before_checkpoint : Callable[[], None]
        Called before a checkpoint is written: what belongs to its rounds must be on disk by then.
    name : str
        The run's name, for observers.
    directory : Path or None
        The run directory, for observers.
    notes : Sequence[str]
        Lines that observers show at the start.
    reduce : bool or "auto"
        See :func:`~atoll.platform.config.aggregation.aggregation_of`.
    domain_of : callable
        The domain of a partition, for the ledger.
    failures : ClientFailures or None
        Told of every exchange.

    Examples
    --------
    >>> from atoll import RoundOptions
    >>> records = []
    >>> options = RoundOptions(callbacks=[records.append], evaluate_every=5)
    >>> options.checkpoints is None, options.reduce
    (True, 'auto')
    """

    checkpoints: CheckpointStore | None = None
    checkpoint_every: int | None = 5
    evaluate_every: int = 1
    observers: Sequence[Observer] = ()
    callbacks: Sequence[Callable[[RoundRecord], None]] = ()
    stopping: StoppingRule | None = None
    keep: KeptRound = field(default_factory=KeptRound)
    before_checkpoint: Callable[[], None] = lambda: None
    name: str = "federation"
    directory: Path | None = None
    notes: Sequence[str] = ()
    reduce: bool | str = "auto"
    domain_of: Callable[[int], str | None] = field(default=lambda partition: None)
    failures: ClientFailures | None = None
