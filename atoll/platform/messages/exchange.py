"""Messages between the driver and its workers.

An *exchange* is one ``send_and_receive``: messages out to a cohort, replies back. Its messages
share few contents, so each goes out once; the cohort is cut into *chunks* of a fixed number of
clients, the same whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from atoll.clients.arrays.weighted_sum import Structure, WeightedSum
from atoll.platform.messages.outcome import Outcome, StateReference


@dataclass(frozen=True)
class Envelope:
    """Shared part of messages of one kind: everything but the node that they go to."""

    content: int
    message_type: str
    group_id: str
    ttl: float
    created_at: float


@dataclass(frozen=True)
class Exchange:
    """Description of an exchange, for every worker.

    Attributes
    ----------
    number : int
        Counts the exchanges of a run; with a position it makes message ids.
    server_round : int
        The round that the exchange is recorded under.
    expected : Structure or None
        Keys, shapes and dtypes that updates must have (those of the arrays that went out); in an
        exchange without checks, those that they must have to be added up.
    weighted_by : str or None
        The metric that replies are weighted by, where the strategy needs one in every reply.
    sum_replies : bool
        Whether chunks reply with weighted sums in place of every client's arrays.
    checked : bool
        Whether replies are validated; else they reach the strategy as the client made them.
    check_finite : bool
        Whether replies with NaN or infinite values are refused.
    client_timeout : float or None
        Seconds that one client may take.
    vectorize : bool
        Whether a chunk's clients train vectorised, where the app can.
    at_once : int or None
        The most clients that train vectorised; None for a whole chunk.
    captured : Collection[int]
        Nodes whose replies are wanted as they are, beside whatever else is made of them.
    delivered_at : str
        When the messages were handed over (an ISO date).
    """

    number: int
    seed: int
    server_round: int
    num_partitions: int
    envelopes: tuple[Envelope, ...]
    expected: tuple[Structure | None, ...]
    weighted_by: str | None = None
    sum_replies: bool = False
    checked: bool = True
    check_finite: bool = True
    client_timeout: float | None = None
    vectorize: bool = False
    at_once: int | None = None
    captured: Collection[int] = ()
    delivered_at: str = ""


@dataclass(frozen=True)
class Chunk:
    """Some clients of an exchange, handled one after another by one worker.

    Attributes
    ----------
    index : int
        The chunk's place in the order in which sums are folded.
    positions, nodes, envelopes : tuple[int, ...]
        Per client: its place in the cohort, its node id, and its message's envelope.
    message_ids : tuple[str, ...]
        Per client: its message's id.
    draws : tuple[tuple[int, ...], ...]
        Per client: what its random state derives from beside the seed, the kind of message and
        the partition (see :class:`~atoll.platform.grid.exchange.draws.Draws`).
    states : dict[int, bytes]
        The serialised ``Context.state`` of the nodes that have one.
    kept : dict[int, StateReference]
        The same, of those whose state is on the driver's disk until the chunk is sent.
    isolated : bool
        Whether its clients are run one a job, to find one that kills its worker.
    earlier : WeightedSum or None
        What the clients before the first of this chunk (which timed out) had added up to.
    """

    index: int
    positions: tuple[int, ...]
    nodes: tuple[int, ...]
    envelopes: tuple[int, ...]
    message_ids: tuple[str, ...]
    draws: tuple[tuple[int, ...], ...]
    states: dict[int, bytes] = field(default_factory=dict)
    isolated: bool = False
    earlier: WeightedSum | None = None
    kept: dict[int, StateReference] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.nodes)

    def part(self, start: int, stop: int, *, isolated: bool = False) -> Chunk:
        """Return the chunk of the clients ``start`` to ``stop`` of this one."""
        nodes = self.nodes[start:stop]
        return Chunk(
            index=self.index,
            positions=self.positions[start:stop],
            nodes=nodes,
            envelopes=self.envelopes[start:stop],
            message_ids=self.message_ids[start:stop],
            draws=self.draws[start:stop],
            states={node: self.states[node] for node in nodes if node in self.states},
            isolated=isolated,
            kept={node: self.kept[node] for node in nodes if node in self.kept},
        )


@dataclass(frozen=True)
class ChunkResult:
    """A worker's answer to a chunk.

    Attributes
    ----------
    outcomes : Sequence[Outcome]
        One a client, in the chunk's order; fewer than the chunk has if one timed out.
    total : WeightedSum or None
        The weighted sum of the replies that match, where sums were asked for.
    left_bytes : int or None
        The bytes of the sum, where it was left on the worker's node.
    stuck : bool
        Whether the last client is still running: the worker must be replaced.
    """

    index: int
    outcomes: Sequence[Outcome]
    total: WeightedSum | None = None
    left_bytes: int | None = None
    stuck: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Timing:
    """Seconds of one chunk, both ways; ``obstacle`` says why it cannot be vectorised."""

    sequential: float = 0.0
    vectorized: float = 0.0
    obstacle: str | None = None
