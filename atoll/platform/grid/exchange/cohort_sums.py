"""The sums of one exchange's replies: a chunk's, a node's, and the whole, in a fixed order."""

from __future__ import annotations

from collections.abc import Collection, MutableMapping, Sequence
from typing import Any, Protocol

from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.platform.grid.exchange.node_sums import LeftSum, Merge, NodeSums, Traffic
from atoll.platform.messages.exchange import Chunk, ChunkResult, Exchange
from atoll.platform.messages.outcome import Outcome
from atoll.platform.messages.packing import parts_of, unpack
from atoll.platform.pool.jobs import Job
from atoll.platform.worker.sum_tree import TreeSum


class Places(Protocol):
    """Nodes of the workers (a worker pool)."""

    @property
    def here(self) -> str:
        """The driver's node."""

    def nodes(self) -> Collection[str]:
        """Return the nodes that have workers."""

    def node_of(self, worker: str) -> str:
        """Return a worker's node."""


class CohortSums:
    """Adds up chunks' sums in the chunks' order, whatever order they come in.

    Large sums stay on the nodes where they are made, and are added up there first.

    Parameters
    ----------
    exchange : Exchange
        What was sent.
    chunks : Sequence[Chunk]
        In dispatch order.
    workers : Places
        Where the workers are.
    stay_on_nodes : bool
        Whether sums stay where they are made.

    Attributes
    ----------
    traffic : Traffic
        Bytes of sums between the cluster's nodes.
    """

    def __init__(
        self, exchange: Exchange, chunks: Sequence[Chunk], workers: Places, *, stay_on_nodes: bool
    ) -> None:
        self._exchange = exchange
        self._count = len(chunks)
        self._workers = workers
        self._tree = TreeSum(len(chunks))
        self.traffic = Traffic()
        self._on_nodes: NodeSums | None = None
        if stay_on_nodes and exchange.sum_replies:
            self._on_nodes = NodeSums(len(chunks), workers.here, workers.nodes, self.traffic)
        self._made: dict[int, WeightedSum] = {}
        self._left: dict[int, LeftSum] = {}
        self._isolated: set[int] = set()

    @property
    def total(self) -> WeightedSum:
        """The sum of all chunks, once all have been added."""
        return self._tree.total

    @property
    def stay_on_nodes(self) -> bool:
        """Whether chunks' sums stay where they are made."""
        return self._on_nodes is not None

    @property
    def are_here(self) -> bool:
        """Whether the driver has all sums that have been made."""
        return self._on_nodes is None or self._on_nodes.is_empty

    def isolate(self, chunk: Chunk) -> None:
        """Note that a chunk's clients are run one a job: they are summed here."""
        self._isolated.add(chunk.index)
        if chunk.earlier is not None:
            self._made[chunk.index] = chunk.earlier

    def take(self, chunk: Chunk, result: ChunkResult, node: str, reference: Any) -> None:
        """Take the sum of a chunk that has been run on ``node``, or a reference to it."""
        if result.left_bytes is not None:
            self._left[chunk.index] = LeftSum(reference, node, result.left_bytes)
        if result.total is not None:
            self._made[chunk.index] = result.total
            if node != self._workers.here:
                self.traffic.made += result.total.nbytes
                self.traffic.moved += result.total.nbytes

    def add(self, chunk: Chunk, outcomes: MutableMapping[int, Outcome]) -> None:
        """Add the sum of a chunk whose clients have all ended; isolated ones are summed first."""
        if not self._exchange.sum_replies:
            return
        span = (chunk.index, chunk.index + 1)
        left, made = self._left.pop(chunk.index, None), self._made.pop(chunk.index, None)
        if left is not None:
            assert self._on_nodes is not None
            self._on_nodes.add(span, left)
            return
        total = WeightedSum() if made is None else made
        if chunk.index in self._isolated:
            total = WeightedSum()
            if made is not None:
                total.merge(made)
            for position in chunk.positions:
                outcome = outcomes[position]
                outcomes[position] = added_to_sum(total, outcome, self._exchange)
        self._tree.add(span, total)

    # --- sums that stay on nodes ----------------------------------------------------------------

    def merge_job(self, worker: str) -> Job | None:
        """Return the job that adds up sums on a worker's node, if there are some to be added."""
        if self._on_nodes is None:
            return None
        merge = self._on_nodes.next_merge(self._workers.node_of(worker))
        if merge is None:
            return None
        references = (part.reference for part in merge.parts.values())
        return Job(
            method="add_up",
            arguments=(self._count, list(merge.parts), merge.span, *references),
            payload=merge,
            name=f"add up, round {self._exchange.server_round}",
            leaves=True,
        )

    def merged(self, merge: Merge, reference: Any, num_bytes: int) -> None:
        """Take a reference to the sum of a merge, of so many bytes."""
        assert self._on_nodes is not None
        self._on_nodes.merged(merge, reference, num_bytes)

    def give_back(self, merge: Merge, *, lost: bool) -> None:
        """Take back a merge that was not done."""
        assert self._on_nodes is not None
        self._on_nodes.give_back(merge, lost=lost)

    def choose(self, waiting: dict[int, int], node: str) -> int:
        """Return the chunk, of those that wait, whose sum is best made on a node."""
        assert self._on_nodes is not None
        return self._on_nodes.choose(waiting, node)

    def fetch(self) -> list[int]:
        """Fetch the sums on nodes once nothing can be added up there; return the chunks lost."""
        if self._on_nodes is None or self._on_nodes.can_merge():
            return []
        return self._fetch(self._on_nodes)

    def fetch_all(self) -> list[int]:
        """Fetch what there is, whatever else could be added up; return the chunks lost."""
        if self._on_nodes is None:
            return []
        self._on_nodes.give_back_all()
        return self._fetch(self._on_nodes)

    def _fetch(self, sums: NodeSums) -> list[int]:
        return [index for span in sums.fetch(self._tree) for index in range(*span)]


def added_to_sum(total: WeightedSum, outcome: Outcome, exchange: Exchange) -> Outcome:
    """Add a whole reply to a sum as its worker would have, unless it is there already.

    Returns
    -------
    Outcome
        The outcome, whose reply is in the sum now.
    """
    reply = outcome.reply
    if reply is None or reply.records is None or reply.mismatch is not None or reply.is_summed:
        return outcome
    arrays = parts_of(unpack(reply.records)).arrays
    assert arrays is not None
    assert reply.metrics is not None
    assert exchange.weighted_by is not None
    weight = reply.metrics[exchange.weighted_by]
    assert not isinstance(weight, list)
    total.add(arrays, float(weight))
    return outcome._replace(result=reply._replace(records=None, is_summed=True))
