"""One exchange on its way: what is sent, in which chunks, and what has become of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from atoll.platform.grid.exchange.cohort import Cohort
from atoll.platform.grid.exchange.instructions import Instructions
from atoll.platform.grid.exchange.node_sums import Traffic
from atoll.platform.messages.exchange import Chunk, Exchange
from atoll.platform.messages.outcome import Outcome


@dataclass(frozen=True)
class ExchangeReport:
    """Report of an exchange.

    Attributes
    ----------
    kind : str
        The type of its messages ("train").
    server_round : int
        The round that it belongs to.
    outcomes : list[Outcome]
        One a message, in the order of node ids.
    bytes_to : list[int]
        Bytes of arrays that went to each client, in the same order.
    traffic : Traffic
        Bytes of sums between the cluster's nodes.
    """

    kind: str
    server_round: int
    outcomes: list[Outcome]
    bytes_to: list[int]
    traffic: Traffic

    @property
    def bytes_down(self) -> int:
        """Bytes of arrays that went out, counted once a client."""
        return sum(self.bytes_to)


@dataclass
class DispatchedExchange:
    """An exchange with its messages, chunks and outcomes.

    Attributes
    ----------
    outcomes : dict[int, Outcome]
        By position, those of the clients that have ended, where they are taken one by one.
    is_reported : bool
        Whether the exchange has been reported.
    """

    instructions: Instructions
    exchange: Exchange
    chunks: list[Chunk] = field(default_factory=list)
    contents: list[Any] = field(default_factory=list)
    cohort: Cohort | None = None
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    is_reported: bool = False

    def share_contents(self) -> None:
        """Put contents that several chunks need into the object store."""
        self.contents = self.instructions.share(self.chunks)

    def in_order(self, missing: Callable[[int, int], Outcome] | None = None) -> list[Outcome]:
        """Return the outcomes in the messages' order.

        Parameters
        ----------
        missing : callable, optional
            Makes the outcome of a message without one, of its position and its node.
        """
        if missing is None:
            return [self.outcomes[position] for position in sorted(self.outcomes)]
        nodes = [request.metadata.dst_node_id for request in self.instructions.requests]
        return [self.outcomes.get(p) or missing(p, node) for p, node in enumerate(nodes)]
