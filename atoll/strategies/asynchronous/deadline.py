"""FedAvg with a deadline: rounds that do not wait for stragglers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from atoll.clients.ranges import Seconds
from atoll.strategies.asynchronous.asynchronous_strategy import AsynchronousStrategy, Floats
from atoll.strategies.asynchronous.devices import MICROSECONDS
from atoll.strategies.asynchronous.virtual_clock import Task
from atoll.strategies.strategy_fields import Count


@dataclass(kw_only=True, eq=False)
class DeadlineFedAvg(AsynchronousStrategy):
    """FedAvg whose rounds end when all of the cohort is done, or at a deadline.

    Without a deadline it is FedAvg, and says how long its rounds take on these devices.

    Parameters
    ----------
    cohort : int
        Clients that are given the model at the start of a round; those that are still at work from
        earlier rounds are among them.
    deadline : float, optional
        Seconds from a round's start to its end; it is longer if no client has replied by then.
    late : "keep" or "drop"
        Treatment of late replies: they count in the round in which they come, by their
        staleness (semi-synchronous), or they are stopped at the deadline and their work is lost.

    Examples
    --------
    >>> from atoll.strategies import DeadlineFedAvg
    >>> strategy = DeadlineFedAvg(cohort=20, deadline=60.0, late="drop", device_seconds=60.0)
    >>> arrived = strategy.arrivals(range(1, 101))
    >>> len(arrived) < 20, strategy.clock.seconds
    (True, 60.0)
    """

    cohort: Count = 20
    deadline: Seconds | None = None
    late: Literal["keep", "drop"] = "keep"

    def arrivals(self, nodes: Sequence[int]) -> list[Task]:
        """See :class:`AsynchronousStrategy`."""
        for node in self.first_there(nodes, self.cohort - len(self.clock)):
            self.begin(node)
        end = math.inf
        if self.deadline is not None:
            end = self.clock.now + round(self.deadline * MICROSECONDS)
        arrived = [self.clock.take()]
        while (following := self.clock.next_end()) is not None and following <= end:
            arrived.append(self.clock.take())
        if len(self.clock):
            self.clock.move_to(end)
            if self.late == "drop":
                self.clock.stop_all()
        return arrived

    def shares(self, examples: Floats, factors: Floats) -> Floats:
        """See :class:`AsynchronousStrategy`."""
        shares: Floats = examples * factors / max(float(examples.sum()), 1e-300)
        return shares
