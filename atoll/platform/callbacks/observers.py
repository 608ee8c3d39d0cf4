"""Observers of a run: the ledger, the terminal, TensorBoard, a user's callback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.platform.callbacks.metric_names import (
    EVALUATE,
    ROUND,
    SERVER,
    TRAIN,
    column_of,
    group_of,
    main_metric,
)

MetricValues = Mapping[str, "float | list[float]"]


@dataclass(frozen=True)
class RunInfo:
    """Facts of a run that are known when its rounds begin.

    Attributes
    ----------
    name : str
        The run's name.
    directory : Path
        The run directory.
    num_rounds : int
        The last round.
    first_round : int
        The round that comes first: 1, or later in a resumed run.
    workers : int
        Worker processes.
    clients : int
        Registered nodes.
    parameters : int
        Scalars in the model.
    strategy : str
        The strategy's class.
    notes : Sequence[str]
        Decisions of the engine, one line each.
    members : str
        Unit of ``clients``: "clients" or "layers".

    Examples
    --------
    >>> from pathlib import Path
    >>> from atoll import RunInfo
    >>> info = RunInfo(
    ...     "first", Path("runs/first"), num_rounds=10, first_round=4, workers=2, clients=100,
    ...     parameters=650, strategy="FedAvg",
    ... )
    >>> info.num_rounds - info.first_round + 1  # the rounds that a resumed run has left
    7
    """

    name: str
    directory: Path
    num_rounds: int
    first_round: int
    workers: int
    clients: int
    parameters: int
    strategy: str
    notes: Sequence[str] = ()
    members: str = "clients"


@dataclass(frozen=True)
class RoundRecord:
    """A round's end.

    Attributes
    ----------
    server_round, num_rounds : int
        Round, from 1, and number of rounds.
    seconds : float
        Seconds of the round, evaluation included.
    cohort : int
        Clients asked to train.
    replies : int
        Clients whose training reply was used.
    errors : int
        Clients that failed, in any phase.
    examples : int
        Examples trained on.
    train_metrics, evaluate_metrics, server_metrics : Mapping
        Aggregated metrics of training, of the clients' evaluation and of the server's.
    bytes_down, bytes_up : int
        Bytes of arrays sent to and by clients.
    sum_bytes_made, sum_bytes_moved : int
        Bytes of sums of replies that were made on other nodes of the cluster than the driver's,
        and of those that came from there: fewer if they were added up on the way.
    clients : dict[str, list]
        Columns with a row per client: round, phase, node_id, partition, domain, examples, loss,
        accuracy, seconds, bytes_down, bytes_up, layers, peak_memory, worker, status, reason.
    gpus : Sequence[Mapping]
        State of each GPU: the number of its workers, the memory that one needs, and how
        often they were made fewer.

    Examples
    --------
    >>> from atoll import RoundRecord
    >>> record = RoundRecord(3, 10, seconds=0.5, cohort=20, replies=19, errors=1, examples=1140)
    >>> f"{record.replies} of {record.cohort} clients in {record.seconds} s"
    '19 of 20 clients in 0.5 s'
    """

    server_round: int
    num_rounds: int
    seconds: float
    cohort: int
    replies: int
    errors: int
    examples: int
    train_metrics: MetricValues = field(default_factory=dict)
    evaluate_metrics: MetricValues = field(default_factory=dict)
    server_metrics: MetricValues = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    sum_bytes_made: int = 0
    sum_bytes_moved: int = 0
    clients: dict[str, list[Any]] = field(default_factory=dict)
    gpus: Sequence[Mapping[str, Any]] = ()

    @property
    def groups(self) -> dict[str, MetricValues]:
        """The metrics by group."""
        return {
            TRAIN: self.train_metrics,
            EVALUATE: self.evaluate_metrics,
            SERVER: self.server_metrics,
        }

    @property
    def main_metric(self) -> str | None:
        """The column of the server's main metric; None if the server did not evaluate."""
        columns = [column_of(SERVER, name) for name in self.server_metrics]
        return main_metric(columns, (SERVER,))

    def metric(self, column: str) -> float | None:
        """Return a metric, named as in ``rounds.parquet``; None if the round has none."""
        group, name = group_of(column.replace("-", "_"))
        for key, value in self.groups.get(group, {}).items():
            if key.replace("-", "_") == name and isinstance(value, int | float):
                return float(value)
        return None

    def scalars(self) -> Iterator[tuple[str, float]]:
        """Yield ``GROUP/NAME`` and value of each number, for logs."""
        of_round = {"seconds": self.seconds, "errors": self.errors}
        for group, metrics in {**self.groups, ROUND: of_round}.items():
            for name, value in metrics.items():
                if isinstance(value, int | float):
                    yield f"{group}/{name}", value


class Observer:
    """Observer of a run; a subclass overrides the events that it handles.

    Examples
    --------
    >>> from atoll import Observer, RoundRecord
    >>> class Failures(Observer):
    ...     '''Counts the clients that failed.'''
    ...
    ...     errors = 0
    ...
    ...     def on_round(self, record):
    ...         self.errors += record.errors
    >>> observer = Failures()
    >>> observer.on_round(RoundRecord(1, 10, 0.5, cohort=20, replies=18, errors=2, examples=1000))
    >>> observer.errors
    2
    """

    def on_start(self, run: RunInfo) -> None:
        """Take note that the rounds begin."""

    def on_clients(self, kind: str, ended: int, of: int) -> None:
        """Take note that so many clients of an exchange have ended."""

    def on_unit(self, name: str, server_round: int, num_rounds: int) -> None:
        """Take note that a unit of layer-wise training (a block, say) has ended an epoch."""

    def on_round(self, record: RoundRecord) -> None:
        """Take note of a round's end."""

    def on_end(self, result: Mapping[str, Any]) -> None:
        """Take note of the run's end."""

    def close(self) -> None:
        """Let go of what is held; called last, whatever ended the run."""
