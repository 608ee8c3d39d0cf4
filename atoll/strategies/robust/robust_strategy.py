"""Base class of robust strategies: one function of the clients' updates, as vectors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from atoll.flower.arrays import array_record, to_array, view
from atoll.strategies.strategy_fields import Fraction, NonNegativeCount, check_fields

Floats = NDArray[np.float64]
# BatchNorm's running statistics are no part of an update: variances must stay positive.
RUNNING = ("running_mean", "running_var")


@dataclass(kw_only=True, eq=False)
class RobustStrategy(FedAvg):
    """FedAvg with another rule in the place of the mean; every client counts the same.

    The numbers of examples that clients report are not used: an attacker would report large ones.
    The rule sees updates (a client's floating-point arrays minus the broadcast ones) as vectors in
    float64, a client a row, all of which the server holds at once. Integers and BatchNorm's
    running statistics become their medians.

    Parameters
    ----------
    fraction_train, fraction_evaluate : float
        The shares of clients that train, and that evaluate.
    min_train_nodes, min_evaluate_nodes, min_available_nodes : int
        The least numbers of clients that train, evaluate, and are there.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> from atoll.strategies import RobustStrategy
    >>> @dataclass(kw_only=True, eq=False)
    ... class Median(RobustStrategy):
    ...     '''The median of each value.'''
    ...
    ...     def combine(self, server_round, updates, nodes):
    ...         import numpy as np
    ...         return np.median(updates, axis=0)
    >>> Median(fraction_train=0.5).fraction_train
    0.5
    """

    fraction_train: Fraction = 1.0
    fraction_evaluate: Fraction = 1.0
    min_train_nodes: NonNegativeCount = 2
    min_evaluate_nodes: NonNegativeCount = 2
    min_available_nodes: NonNegativeCount = 2

    def __post_init__(self) -> None:
        check_fields(self)
        super().__init__(
            fraction_train=self.fraction_train,
            fraction_evaluate=self.fraction_evaluate,
            min_train_nodes=self.min_train_nodes,
            min_evaluate_nodes=self.min_evaluate_nodes,
            min_available_nodes=self.min_available_nodes,
        )
        self._sent: ArrayRecord | None = None
        self.figures: dict[str, float] = {}

    @abstractmethod
    def combine(self, server_round: int, updates: Floats, nodes: Sequence[int]) -> Floats:
        """Return the update of the global model.

        Parameters
        ----------
        server_round : int
            The round.
        updates : NDArray[float64]
            Shape (clients, values), finite.
        nodes : Sequence[int]
            The clients' node ids.
        """

    def before_combining(self, server_round: int, sent: ArrayRecord) -> None:
        """See the model that was sent to the clients."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the model as FedAvg does, and keep it until the replies are there."""
        self._sent = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Apply the rule to the replies; figures of it are among the metrics."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        sent, self._sent = self._sent, None
        if not valid or sent is None:
            return None, None
        contents = [message.content for message in valid]
        records = [next(iter(content.array_records.values())) for content in contents]
        nodes = [message.metadata.src_node_id for message in valid]
        keys = [key for key, array in sent.items() if _is_update(key, view(array))]
        start = _flat(sent, keys)
        updates = np.stack([_flat(record, keys) for record in records]) - start
        self.figures = {}
        self.before_combining(server_round, sent)
        combined = start + self.combine(server_round, updates, nodes)
        metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key)
        metrics.update(self.figures)
        return _with_values(sent, keys, combined, records), metrics


def _is_update(key: str, values: NDArray[np.generic]) -> bool:
    return values.dtype.kind == "f" and not key.endswith(RUNNING)


def _flat(record: ArrayRecord, keys: Sequence[str]) -> Floats:
    parts = [view(record[key]).astype(np.float64).ravel() for key in keys]
    return np.concatenate(parts) if parts else np.zeros(0)


def flat_update(after: ArrayRecord, before: ArrayRecord) -> Floats:
    """Return the update between two models as a robust strategy's rule sees it."""
    keys = [key for key, array in before.items() if _is_update(key, view(array))]
    return _flat(after, keys) - _flat(before, keys)


def _with_values(
    like: ArrayRecord, keys: Sequence[str], values: Floats, records: Sequence[ArrayRecord]
) -> ArrayRecord:
    """Return a model of combined values, and medians of what is no part of an update."""
    arrays, start = {}, 0
    for key, array in like.items():
        old = view(array)
        if key in keys:
            new = values[start : start + old.size].reshape(old.shape)
            start += old.size
        else:
            new = np.median(np.stack([view(record[key]) for record in records]), axis=0)
        arrays[key] = to_array(new.astype(old.dtype))
    return array_record(arrays)
