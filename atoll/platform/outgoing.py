"""Messages on their way out: their contents packed once each, the cohort cut into chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import ray
from flwr.app import ConfigRecord, Message
from numpy.typing import NDArray

from atoll.clients.weighted_sum import Structure
from atoll.platform import flower
from atoll.platform.content import (
    PackedRecords,
    broadcast_arrays,
    is_model,
    pack,
    structure_of,
)
from atoll.platform.exchange import Chunk, Envelope

MAX_CHUNK = 16
# Where a chunk's clients train at once, a larger one has less to send for each of them.
MAX_CHUNK_TOGETHER = 64
# Chunks of so many clients may differ by one.
UNEVEN = 8
# From this size on, a chunk's sum costs more to move than uneven chunks cost in waiting.
LARGE_CONTENT = 4_000_000
# Up to this size a content is sent along with each job.
INLINE = 100_000


class Outgoing:
    """The messages of one exchange.

    Parameters
    ----------
    requests : list[Message]
        In the order of node ids; messages with the same content object share it.
    number : int
        The exchange's number; with a position it makes message ids.
    num_nodes : int
        Nodes are 1 to this.
    check_replies : bool
        Whether the arrays that go out say what replies must look like.

    Raises
    ------
    ValueError
        If a message goes to a node that does not exist.
    """

    def __init__(
        self, requests: list[Message], number: int, num_nodes: int, *, check_replies: bool
    ) -> None:
        self.requests = requests
        self.contents: list[PackedRecords] = []
        self.envelopes: list[Envelope] = []
        self.expected: list[Structure | None] = []
        self._envelope_of: list[int] = []
        self._nodes: list[int] = []
        self._check_replies = check_replies
        content_numbers: dict[int, int] = {}
        numbers: dict[tuple[int, str, str, float], int] = {}
        for position, request in enumerate(requests):
            node_id, message_type, group_id, ttl = flower.address(request)
            if not 1 <= node_id <= num_nodes:
                raise ValueError(f"message to node {node_id}: nodes are 1 to {num_nodes}")
            flower.set_message_id(request, f"{number}-{position}")
            content = content_numbers.get(id(request.content))
            if content is None:
                content = content_numbers[id(request.content)] = len(self.contents)
                self.contents.append(pack(request.content))
            key = (content, message_type, group_id, ttl)
            if key not in numbers:
                numbers[key] = len(self.envelopes)
                self.envelopes.append(Envelope(*key, request.metadata.created_at))
                self.expected.append(self._expected(request))
            self._envelope_of.append(numbers[key])
            self._nodes.append(node_id)

    @property
    def kind(self) -> str:
        """The type of the first message."""
        return self.envelopes[0].message_type

    @property
    def is_training(self) -> bool:
        """Whether the messages ask clients to train."""
        return self.kind.partition(".")[0] == "train"

    @property
    def bytes_down(self) -> int:
        """Bytes of arrays that go out, counted once a client."""
        return sum(self.bytes_to)

    @property
    def bytes_to(self) -> list[int]:
        """Bytes of arrays that go to each client, in the order of the requests."""
        sizes = [self.contents[envelope.content].array_bytes for envelope in self.envelopes]
        return [sizes[envelope] for envelope in self._envelope_of]

    @property
    def is_large(self) -> bool:
        """Whether a chunk's sum is of megabytes."""
        return max(content.array_bytes for content in self.contents) >= LARGE_CONTENT

    def server_round(self) -> int | None:
        """Return the round that the first message's config names, if it does."""
        for record in self.requests[0].content.values():
            if isinstance(record, ConfigRecord) and "server-round" in record:
                return int(record["server-round"])  # type: ignore[arg-type]
        return None

    def chunks(
        self,
        size: int | Literal["auto"],
        examples: Sequence[int] | NDArray[np.int64] | None,
        states: Mapping[int, bytes],
        *,
        together: bool = False,
    ) -> list[Chunk]:
        """Cut the cohort into chunks; messages to one node stay together.

        Parameters
        ----------
        size : int or "auto"
            Clients a chunk.
        examples : Sequence[int] or NDArray[int64] or None
            Examples per partition: chunks with most of them come first.
        states : Mapping[int, bytes]
            The nodes' serialised states.
        together : bool
            Whether a chunk's clients (may) train at once.
        """
        nodes = self._nodes
        cuts, start = [], 0
        for end in self._ends(together) if size == "auto" else range(size, len(nodes) + size, size):
            stop = max(start, min(end, len(nodes)))
            while start < stop < len(nodes) and nodes[stop] == nodes[stop - 1]:
                stop += 1
            if stop > start:
                cuts.append((start, stop))
            start = stop
        if examples is not None:
            cuts.sort(key=lambda cut: -sum(examples[node - 1] for node in nodes[slice(*cut)]))
        return [
            Chunk(
                index=index,
                positions=tuple(range(start, stop)),
                nodes=tuple(nodes[start:stop]),
                envelopes=tuple(self._envelope_of[start:stop]),
                states={node: states[node] for node in nodes[start:stop] if node in states},
            )
            for index, (start, stop) in enumerate(cuts)
        ]

    def _ends(self, together: bool) -> list[int]:
        """Return where chunks end: an even number of chunks, short ones equally long if they can.

        So few workers share them evenly. Small chunks balance best; a large model's sums are
        worth fewer, larger ones, and so are clients that train at once.
        """
        clients = len(self._nodes)
        fewest = 8 if self.is_large else 16 if together else 32
        longest = MAX_CHUNK_TOGETHER if together else MAX_CHUNK
        fewest = max(fewest, 2 * -(-clients // (2 * longest)))
        count = fewest
        if clients < UNEVEN * fewest:
            equal = (n for n in range(fewest, 2 * fewest, 2) if clients % n == 0)
            count = next(equal, fewest)
        return [clients * (index + 1) // count for index in range(count)]

    def share(self, chunks: list[Chunk]) -> list[Any]:
        """Put contents that several chunks need into the object store, once each.

        Returns
        -------
        list
            Per content its reference, or itself where a single chunk needs it or it is so small
            that sending it along costs less than looking it up.
        """
        users: Counter[int] = Counter()
        for chunk in chunks:
            users.update({self.envelopes[envelope].content for envelope in chunk.envelopes})
        return [
            ray.put(content) if users[index] > 1 and content.array_bytes > INLINE else content
            for index, content in enumerate(self.contents)
        ]

    def _expected(self, request: Message) -> Structure | None:
        if not self._check_replies or not request.metadata.message_type.startswith("train"):
            return None
        arrays = broadcast_arrays(request.content)
        if arrays is None:
            return None
        structure = structure_of(arrays)
        return structure if is_model(structure) else None
