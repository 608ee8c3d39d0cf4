"""Buffered asynchronous aggregation (Nguyen et al., AISTATS 2022, arXiv 2106.06639)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atoll.strategies.asynchronous.asynchronous_strategy import AsynchronousStrategy, Floats
from atoll.strategies.asynchronous.virtual_clock import Task
from atoll.strategies.strategy_fields import Count


@dataclass(kw_only=True, eq=False)
class FedBuff(AsynchronousStrategy):
    """The server updates its model whenever the buffer holds ``buffer_size`` replies.

    A client that is done is replaced at once by another, which gets the model of that moment; a
    client trains at most once between two updates. Replies count the same but for their staleness:
    1 / n each, where n is buffer_size less the replies of the buffer that failed or were later than
    max_staleness. So the step is no shorter for what is lost.

    Parameters
    ----------
    concurrency : int
        Clients at work at any time.
    buffer_size : int
        Replies an update; at most one a client.

    Examples
    --------
    >>> from atoll.strategies import FedBuff
    >>> strategy = FedBuff(concurrency=20, buffer_size=10, staleness_exponent=0.5)
    >>> arrived = strategy.arrivals(range(1, 101))  # the nodes of the first update
    >>> len(arrived), len(strategy.clock)  # so many replied, and so many are still at work
    (10, 19)
    """

    concurrency: Count = 20
    buffer_size: Count = 10

    def arrivals(self, nodes: Sequence[int]) -> list[Task]:
        """See :class:`AsynchronousStrategy`."""
        arrived: list[Task] = []
        while len(arrived) < min(self.buffer_size, len(nodes)):
            done = {task.node for task in arrived}
            free = [node for node in nodes if node not in done]
            for node in self.first_there(free, self.concurrency - len(self.clock)):
                self.begin(node)
            arrived.append(self.clock.take())
        return arrived

    def shares(self, examples: Floats, factors: Floats) -> Floats:
        """See :class:`AsynchronousStrategy`."""
        return factors / len(factors)
