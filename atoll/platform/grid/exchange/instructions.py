"""The instructions of one exchange: contents packed once each, the cohort cut into chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import ray
from flwr.app import ConfigRecord, Message
from numpy.typing import NDArray

from atoll import flower
from atoll.clients.arrays.weighted_sum import Structure
from atoll.platform.grid.exchange.draws import Draws
from atoll.platform.messages.exchange import Chunk, Envelope
from atoll.platform.messages.outcome import StateReference
from atoll.platform.messages.packing import (
    PackedRecords,
    broadcast_arrays,
    is_model,
    pack,
    structure_of,
)

MAX_CHUNK = 16
# Where a chunk's clients train vectorised, a larger one has less to send for each of them.
MAX_VECTORIZED_CHUNK = 64
# Chunks of so many clients may differ by one.
UNEVEN = 8
# From this size on, a chunk's sum costs more to move than uneven chunks cost in waiting.
LARGE_CONTENT = 4_000_000
# Up to this size a content is sent along with each job.
INLINE = 100_000


class Instructions:
    """The messages of one exchange.

    Parameters
    ----------
    requests : list[Message]
        In the order of node ids; messages with the same content object share it.
    server_round : int or None
        The round that they all belong to, where it is known.
    draws : Draws
        Numbers the messages of each node.
    has_structure : bool
        Whether the arrays that go out say what replies must look like.

    Attributes
    ----------
    server_round : int
        The round of the first message.
    """

    def __init__(
        self,
        requests: list[Message],
        server_round: int | None,
        draws: Draws,
        *,
        has_structure: bool,
    ) -> None:
        self.requests = requests
        self.contents: list[PackedRecords] = []
        self.envelopes: list[Envelope] = []
        self.expected: list[Structure | None] = []
        self._envelope_of: list[int] = []
        self._nodes: list[int] = []
        self._has_structure = has_structure
        numbered: list[tuple[int, str, int | None]] = []
        rounds: dict[int, int | None] = {}
        content_numbers: dict[int, int] = {}
        numbers: dict[tuple[int, str, str, float], int] = {}
        for request in requests:
            node_id, message_type, group_id, ttl = flower.address(request)
            content = content_numbers.get(id(request.content))
            if content is None:
                content = content_numbers[id(request.content)] = len(self.contents)
                self.contents.append(pack(request.content))
                rounds[content] = _round_in(request) if server_round is None else server_round
            numbered.append((node_id, message_type.partition(".")[0], rounds[content]))
            key = (content, message_type, group_id, ttl)
            if key not in numbers:
                numbers[key] = len(self.envelopes)
                self.envelopes.append(Envelope(*key, request.metadata.created_at))
                self.expected.append(self._expected(request))
            self._envelope_of.append(numbers[key])
            self._nodes.append(node_id)
        self._draws = draws.number(numbered)
        self.server_round = self._draws[0][0]

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

    def chunks(
        self,
        size: int | Literal["auto"],
        examples: Sequence[int] | NDArray[np.int64] | None,
        states: Mapping[int, StateReference],
        *,
        vectorized: bool = False,
    ) -> list[Chunk]:
        """Cut the cohort into chunks; messages to one node stay together.

        Parameters
        ----------
        size : int or "auto"
            Clients a chunk.
        examples : Sequence[int] or NDArray[int64] or None
            Examples per partition: chunks with most of them come first.
        states : Mapping[int, StateReference]
            Where the nodes' serialised states are.
        vectorized : bool
            Whether a chunk's clients (may) train vectorised.
        """
        nodes = self._nodes
        cuts, start = [], 0
        for end in (
            self._ends(vectorized) if size == "auto" else range(size, len(nodes) + size, size)
        ):
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
                message_ids=tuple(r.metadata.message_id for r in self.requests[start:stop]),
                draws=self._draws[start:stop],
                kept={node: states[node] for node in nodes[start:stop] if node in states},
            )
            for index, (start, stop) in enumerate(cuts)
        ]

    def _ends(self, vectorized: bool) -> list[int]:
        """Return where chunks end: an even number of chunks, short ones equally long if they can.

        So few workers share them evenly. Small chunks balance best; a large model's sums are
        worth fewer, larger ones, and so are clients that train vectorised.
        """
        clients = len(self._nodes)
        fewest = 8 if self.is_large else 16 if vectorized else 32
        longest = MAX_VECTORIZED_CHUNK if vectorized else MAX_CHUNK
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
        if not self._has_structure or not request.metadata.message_type.startswith("train"):
            return None
        arrays = broadcast_arrays(request.content)
        if arrays is None:
            return None
        structure = structure_of(arrays)
        return structure if is_model(structure) else None


def _round_in(message: Message) -> int | None:
    """Return the round that a message's config names, if it does."""
    for record in message.content.values():
        if isinstance(record, ConfigRecord):
            named = record.get("server-round")
            if isinstance(named, int | float):
                return int(named)
    return None
