"""Base class of asynchronous strategies: a round ends when the server updates its model.

Which replies have arrived, and which version of the model each client was given, follows from the
devices' speeds and availability alone. So the clients of a round are trained together when their
replies are needed, on any Flower Grid, and the result is that of a real asynchronous federation of
such devices. Every model that a client is still training on is kept.
"""

from __future__ import annotations

import math
import random
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from pydantic import Field

from atoll.clients.ranges import Seconds, Seed
from atoll.errors import EngineError
from atoll.flower.arrays import array_record, to_array, view
from atoll.flower.strategies import sample_nodes
from atoll.strategies.asynchronous.devices import Devices
from atoll.strategies.asynchronous.virtual_clock import Task, VirtualClock
from atoll.strategies.strategy_fields import (
    Count,
    Fraction,
    NonNegative,
    NonNegativeCount,
    Positive,
    check_fields,
)

Floats = NDArray[np.float64]
Availability = Annotated[float, Field(ge=1e-6, le=1.0)]
# Times that the clock's whole microseconds can count, and spreads whose exponentials are finite.
Spread = Annotated[float, Field(ge=0.0, le=10.0)]


@dataclass(kw_only=True, eq=False)
class AsynchronousStrategy(FedAvg):
    """Federated averaging of updates that are late by some versions of the model.

    The new model is w + server_learning_rate * sum_i p_i s(tau_i) (w_i - v_i), where v_i is the
    model that client i was given, tau_i the number of updates since, s(tau) = (1 + tau)^-a, and p_i
    what the client counts for.

    Parameters
    ----------
    fraction_evaluate, min_evaluate_nodes, min_available_nodes
        As Flower's FedAvg.
    server_learning_rate : float
        The length of the server's step.
    staleness_exponent : float
        a, at least 0; 0 lets late updates count as others.
    max_staleness : int, optional
        Updates that are later are thrown away; by default none is.
    device_seconds, device_spread, device_jitter, availability, availability_period, device_seed
        The devices: see :class:`~atoll.strategies.asynchronous.devices.Devices`. Times are at most
        1e9 seconds, spreads at most 10.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> from atoll.strategies import AsynchronousStrategy
    >>> @dataclass(kw_only=True, eq=False)
    ... class OneReply(AsynchronousStrategy):
    ...     '''An update of the model for each reply, with two clients at work.'''
    ...
    ...     def arrivals(self, nodes):
    ...         for node in self.first_there(nodes, 2 - len(self.clock)):
    ...             self.begin(node)
    ...         return [self.clock.take()]
    ...
    ...     def shares(self, examples, factors):
    ...         return factors
    >>> strategy = OneReply(device_seconds=60.0, device_seed=1)
    >>> [task.version for task in strategy.arrivals([1, 2, 3])], len(strategy.clock)
    ([0], 1)
    """

    fraction_evaluate: Fraction = 1.0
    min_evaluate_nodes: NonNegativeCount = 1
    min_available_nodes: Count = 1
    server_learning_rate: Positive = 1.0
    staleness_exponent: NonNegative = 0.5
    max_staleness: NonNegativeCount | None = None
    device_seconds: Seconds = 60.0
    device_spread: Spread = 0.5
    device_jitter: Spread = 0.1
    availability: Availability = 1.0
    availability_period: Seconds = 86400.0
    device_seed: Seed = 0

    def __post_init__(self) -> None:
        check_fields(self)
        super().__init__(
            fraction_evaluate=self.fraction_evaluate,
            min_evaluate_nodes=self.min_evaluate_nodes,
            min_available_nodes=self.min_available_nodes,
        )
        devices = Devices(
            self.device_seconds,
            self.device_spread,
            self.device_jitter,
            self.availability,
            self.availability_period,
            self.device_seed,
        )
        self.clock = VirtualClock(devices)
        # The models that clients at work were given, by version, and of this round's replies.
        self.versions: dict[int, ArrayRecord] = {}
        self.version = 0
        self._arrived: dict[int, Task] = {}
        self._discarded = 0

    @abstractmethod
    def arrivals(self, nodes: Sequence[int]) -> list[Task]:
        """Move the clock on to the server's next update, and return the replies that it is made of.

        Parameters
        ----------
        nodes : Sequence[int]
            All nodes of the federation, in ascending order. :meth:`begin` gives one the model.
        """

    @abstractmethod
    def shares(self, examples: Floats, factors: Floats) -> Floats:
        """Return the weight of each reply, p_i s_i.

        Parameters
        ----------
        examples, factors : ndarray
            Per reply: its examples, and s(tau).
        """

    def begin(self, node: int) -> None:
        """Give a node the model of this moment."""
        self.clock.begin(node, self.version)

    def pick(self, nodes: Sequence[int], count: int) -> list[int]:
        """Return nodes that are there and not at work, drawn at random; ``count`` at most."""
        free = self.clock.available(nodes)
        # Flower's strategies sample nodes from this generator, whose state is in checkpoints.
        return sorted(random.sample(free, min(count, len(free))))

    # --- Flower's strategy ---------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the clients whose replies come next the models that they were given."""
        # This waits for the nodes and draws nothing.
        _, nodes = sample_nodes(grid, self.min_available_nodes, 0)
        self.version = server_round - 1
        self.versions[self.version] = arrays
        arrived = self.arrivals(sorted(nodes))
        limit = math.inf if self.max_staleness is None else self.max_staleness
        kept = [task for task in arrived if self.version - task.version <= limit]
        self._discarded = len(arrived) - len(kept)
        self._arrived = {task.node: task for task in kept}
        config["server-round"] = server_round
        contents: dict[int, RecordDict] = {}
        for version in sorted({task.version for task in kept}):
            contents[version] = RecordDict()
            contents[version][self.arrayrecord_key] = self.versions[version]
            contents[version][self.configrecord_key] = config
        return [
            Message(contents[task.version], task.node, MessageType.TRAIN)
            for task in sorted(kept, key=lambda task: task.node)
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add the clients' changes to the model, late ones by less."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        valid.sort(key=lambda reply: reply.metadata.src_node_id)
        tasks = [self._arrived[reply.metadata.src_node_id] for reply in valid]
        metrics = self._metrics(tasks)
        arrays = self.versions[self.version]
        if valid:
            contents = [reply.content for reply in valid]
            metrics.update(self.train_metrics_aggr_fn(contents, self.weighted_by_key))
            updated = [content.array_records[self.arrayrecord_key] for content in contents]
            arrays = self._updated(arrays, tasks, updated, self._counted(contents, tasks))
        self._arrived = {}
        self._forget()
        return arrays, metrics

    def _counted(self, contents: Sequence[RecordDict], tasks: Sequence[Task]) -> Floats:
        key = self.weighted_by_key
        examples = np.array(
            [next(iter(content.metric_records.values()))[key] for content in contents], np.float64
        )
        late = np.array([self.version - task.version for task in tasks], np.float64)
        return self.shares(examples, (1 + late) ** -self.staleness_exponent)

    def _updated(
        self,
        arrays: ArrayRecord,
        tasks: Sequence[Task],
        updated: Sequence[ArrayRecord],
        shares: Floats,
    ) -> ArrayRecord:
        changed = {}
        for key, array in arrays.items():
            if not array.dtype.startswith("float"):
                # Counters (of batches, say) are those of the reply that counts most.
                changed[key] = updated[int(np.argmax(shares))][key]
                continue
            total = np.zeros(array.shape, np.float64)
            for task, reply, share in zip(tasks, updated, shares, strict=True):
                start = view(self.versions[task.version][key])
                total += share * (view(reply[key]).astype(np.float64) - start)
            new = view(array).astype(np.float64) + self.server_learning_rate * total
            changed[key] = to_array(new.astype(array.dtype))
        return array_record(changed)

    def _metrics(self, tasks: Sequence[Task]) -> MetricRecord:
        late = [self.version - task.version for task in tasks]
        return MetricRecord(
            {
                "virtual_seconds": self.clock.seconds,
                "staleness": sum(late) / len(late) if late else 0.0,
                "max_staleness": float(max(late, default=0)),
                "discarded": float(self._discarded),
                "at_work": float(len(self.clock)),
            }
        )

    def _forget(self) -> None:
        """Drop the models that no client at work was given."""
        needed = {task.version for task in self.clock.tasks}
        self.versions = {v: kept for v, kept in self.versions.items() if v in needed}

    def first_there(self, nodes: Sequence[int], count: int) -> list[int]:
        """Return :meth:`pick`; without available or busy nodes, wait for one first."""
        if not len(self.clock) and not self.clock.available(nodes):
            if not nodes:
                raise EngineError("the federation has no nodes; expected at least one")
            self.clock.wait_for_any(nodes)
        return self.pick(nodes, count)
